"""The README's Python blocks run, in order and as one program, and its links into the repository lead somewhere."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import io
import pathlib
import re
import textwrap

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


def test_every_python_block_is_found() -> None:
    assert len(blocks("python")) == README.read_text().count("```python") > 5


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert targets
    for target in targets:
        assert (README.parent / target).exists(), target
