"""The README's Python blocks run, in order and as one program, and its links into the repository lead somewhere."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import io
import pathlib
import re
import textwrap

from experiments.presets import from_command_line

README = pathlib.Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README.read_text(), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


def test_code_runs_and_prints_what_it_says() -> None:
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for code in blocks("python"):
            exec(compile(code, str(README), "exec"), namespace)
    for shown in blocks("text"):
        assert shown.strip() in printed.getvalue()
    assert "['layers/up/0', 'layers/up/1']" in printed.getvalue()


def test_shell_commands_exist() -> None:
    commands = [line.partition("#")[0].split() for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) >= 4
    for command in commands:
        match command:
            case ["make", target]:
                assert re.search(rf"^{target}:", (README.parent / "Makefile").read_text(), re.MULTILINE)
            case [".venv/bin/python", "-m", "experiments.train", *arguments]:
                assert from_command_line(arguments).model.hidden_size == 512
            case _:
                assert command == ["pip", "install", "."]


def test_nothing_is_left_to_fill_in() -> None:
    assert "PLACEHOLDER" not in README.read_text()


def test_every_python_block_is_found() -> None:
    assert len(blocks("python")) == README.read_text().count("```python") > 5


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert targets
    for target in targets:
        assert (README.parent / target).exists(), target
