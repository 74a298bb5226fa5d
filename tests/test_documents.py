"""The documents hold: blocks and notebooks run, commands are understood by their programs, links lead somewhere."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import configparser
import contextlib
import io
import json
import math
import os
import pathlib
import re
import runpy
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import matplotlib.pyplot as plt
import pytest
import tyro

from experiments.suites.scales import SCALES
from tests import markdown

ROOT = pathlib.Path(__file__).parents[1]
WRITTEN = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "experiments/README.md", "benchmarks/README.md"]
WRITTEN += sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
"""Documents written by hand: their blocks run and their commands parse."""
LINKED = [*WRITTEN, "CHANGELOG.md", "results/report.md", "results/notes.md", "benchmarks/results.md"]
LINKED += ["benchmarks/tpu.md", "benchmarks/inspection/results.md", "tests/data/README.md"]
"""Documents whose links are checked."""
PASTED = {"README.md"}
"""Documents whose Python blocks each run alone; those of the others run in order, as one program."""
NOT_RUN = {
    "docs/meshes.md": ["jax.distributed.initialize() waits for the other hosts of a pod"],
    "docs/modules.md": [
        "a class of Levanter's, which tests/clients/test_trainers.py trains with where it is installed"
    ],
}
"""Blocks marked `python notest`, in order, and why each cannot run here. They still have to compile."""
NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/notebooks/*.ipynb"))
"""Notebooks, committed without outputs; the site is built with what their cells give."""
LANGUAGES = {"python", "python notest", "bash", "text", "mermaid"}
SHELL = {"source", "export", "wait", "tfds", "[", "do", "done"}
"""Commands that are not ours. What follows `nohup`, `srun` and `until` is checked."""


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _infos(name: str) -> list[str]:
    return [block.info for block in markdown.blocks(_read(name))]


# Python


@pytest.mark.parametrize("name", [name for name in WRITTEN if "python" in _infos(name)])
def test_python_blocks_run_and_print_what_the_text_blocks_show(name: str) -> None:
    namespace: dict[str, Any] = {}
    printed = ""
    for block in markdown.blocks(_read(name)):
        if block.info == "python":
            namespace = {} if name in PASTED else namespace
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(block.code, name, "exec"), namespace)
            printed = output.getvalue() or printed
        elif block.info == "text":
            _assert_alike(printed, block.code)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run_and_are_committed_without_outputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    namespace: dict[str, Any] = {}
    for cell in json.loads(_read(name))["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), "clear its outputs"
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile("".join(cell["source"]), name, "exec"), namespace)


@pytest.mark.parametrize("name", WRITTEN)
def test_blocks_that_do_not_run_say_why_and_compile(name: str) -> None:
    marked = [block for block in markdown.blocks(_read(name)) if block.info == "python notest"]
    assert len(marked) == len(NOT_RUN.get(name, []))
    for block in marked:
        compile(block.code, name, "exec")


@pytest.mark.parametrize("name", WRITTEN)
def test_every_block_names_a_language_that_is_checked(name: str) -> None:
    assert set(_infos(name)) <= LANGUAGES


def _assert_alike(printed: str, shown: str) -> None:
    """Compares word by word; numbers may differ by 1 percent, for processors round differently."""
    words, expected = printed.split(), shown.split()
    assert len(words) == len(expected), f"printed:\n{printed}\nshown:\n{shown}"
    for word, other in zip(words, expected, strict=True):
        assert word == other or _close(word, other), f"{word} is printed where {other} is shown"


def _close(word: str, other: str) -> bool:
    try:
        return math.isclose(float(word), float(other), rel_tol=0.01)
    except ValueError:
        return False


def test_output_is_compared() -> None:
    _assert_alike("loss  1.001\n", "loss 1.000")
    with pytest.raises(AssertionError):
        _assert_alike("loss 1.1", "loss 1.0")


# Commands


class _Parsed(BaseException):
    """A program has understood its command line, and is stopped before it acts on it."""


@pytest.mark.parametrize("name", WRITTEN)
def test_commands_are_understood(name: str) -> None:
    text = _read(name)
    scripts = [block.code for block in markdown.blocks(text) if block.info == "bash"]
    for script in [*scripts, *markdown.inline_commands(text)]:
        for command in markdown.simple_commands(script):
            _check_command(command)


def _check_command(words: Sequence[str]) -> None:
    """Raises an AssertionError or a SystemExit if a command would not start."""
    tool = words[0].removeprefix(".venv/bin/")
    match [tool, *words[1:]]:
        case ["nohup" | "srun" | "until", *rest]:
            _check_command(rest[next(at for at, word in enumerate(rest) if word.endswith("python")) :])
        case ["make", *targets]:
            known = set(re.findall(r"^([a-z-]+):", _read("Makefile"), re.MULTILINE))
            assert {target for target in targets if "=" not in target} <= known, words
        case ["python", "-m", "pytest", *rest]:
            assert all((ROOT / word.partition("::")[0]).exists() for word in rest if "/" in word), words
        case ["python", "-m", module, *arguments]:
            _check_program(module, arguments)
        case ["pip", "install", *rest]:
            _check_extras(rest)
        case ["ruff", "format" | "check", "."] | ["pre-commit", "install"]:
            pass
        case _:
            assert tool in SHELL, f"{words}: no test knows {tool}"


def _check_extras(arguments: Sequence[str]) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    for extra in re.findall(r"^\.\[(\w+)\]$", "\n".join(arguments), re.MULTILINE):
        assert extra in config["options.extras_require"], extra


def _check_program(module: str, arguments: Sequence[str]) -> None:
    """Starts a program of ours up to the point where its own parser has taken the arguments."""
    own, options = list(arguments), []
    if module == "experiments.suites" and "--" in own:  # what follows is for the runs
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
        scale = own[own.index("--scale") + 1] if "--scale" in own else "nano"
        _check_program("experiments.train", [SCALES[scale].preset, *options])
    with _stopping_parsers(), mock.patch.object(sys, "argv", [module, *own]), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, if a test has imported the module before
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except _Parsed:
            return
        except SystemExit as end:
            assert end.code == 0 and "--help" in own, f"python -m {module} {own} ends with {end.code}"
            return
    raise AssertionError(f"python -m {module} parses no command line")


@contextlib.contextmanager
def _stopping_parsers() -> Iterator[None]:
    """Has argparse and tyro raise `_Parsed` once they have parsed; keeps what programs do to the environment out."""

    def stopping(parse: Any) -> Any:
        def parse_and_stop(*args: Any, **named: Any) -> None:
            parse(*args, **named)
            raise _Parsed

        return parse_and_stop

    parsers: list[tuple[Any, str]] = [
        (argparse.ArgumentParser, "parse_args"),
        (tyro, "cli"),
        (tyro.extras, "overridable_config_cli"),
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ))
        for owner, attribute in parsers:
            stack.enter_context(mock.patch.object(owner, attribute, stopping(getattr(owner, attribute))))
        yield


@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "python -m experiments.train 61m",
        "python -m experiments.train nano --no-such-option 1",
        "python -m experiments.suites table-99",
        "python -m experiments.suites table-2 -- --no-such-option 1",
        "python -m experiments.report --no-such-option",
        "python -m pytest tests/test_nothing.py",
        "pip install '.[nothing]'",
        "frobnicate",
    ],
)
def test_a_wrong_command_is_found(command: str) -> None:
    [words] = markdown.simple_commands(command)
    with pytest.raises((AssertionError, SystemExit)):
        _check_command(words)


def test_shell_lines_are_split_as_a_shell_does() -> None:
    script = "A=1 make test ARGS=-q > log & \\\nB=2 python -m x 'a b'; wait  # the end\n"
    assert list(markdown.simple_commands(script)) == [
        ["make", "test", "ARGS=-q"],
        ["python", "-m", "x", "a b"],
        ["wait"],
    ]


# Links


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_somewhere(name: str) -> None:
    for link in markdown.links(_read(name)):
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.is_file(), f"{name} links to {link}, which is no file: the site has no page for a folder"
        if anchor:
            assert anchor in markdown.anchors(path.read_text(encoding="utf-8")), f"{name} links to {link}"


@pytest.mark.parametrize("name", WRITTEN)
def test_files_and_tests_that_are_named_exist(name: str) -> None:
    text = _read(name)
    missing = [path for path in markdown.named_paths(text) if not (ROOT / path).exists()]
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    missing += [test for test in markdown.named_tests(text) if f"def {test}(" not in sources]
    assert missing == []


def test_names_are_found() -> None:
    text = "`tests/test_documents.py`, `results/SCALE.jsonl`, `test_names_are_found` and `make test`"
    assert markdown.named_paths(text) == ["tests/test_documents.py"]
    assert markdown.named_tests(text) == ["test_names_are_found"]
    assert markdown.inline_commands(text) == ["make test"]


def test_anchors_are_those_of_github() -> None:
    text = "# A `b`: c, d-e\n## [Linked](x.md) part\n## Same\n## Same\n```bash\n# no heading\n```\n"
    assert markdown.anchors(text) == {"a-b-c-d-e", "linked-part", "same", "same-1"}


def test_an_open_fence_is_an_error() -> None:
    with pytest.raises(ValueError, match="close each"):
        markdown.blocks("```python\nx = 1\n")


def test_every_page_is_linked_from_the_front_page() -> None:
    linked = set(markdown.links(_read("README.md")))
    assert {name for name in WRITTEN if name != "README.md"} <= linked


def test_the_readme_is_a_front_page() -> None:
    assert len(_read("README.md").splitlines()) <= 160
