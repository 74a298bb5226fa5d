"""The layout in CONTRIBUTING.md: which package uses which, how long files and functions are, how full folders are."""
# SPDX-License-Identifier: Apache-2.0

import ast
import itertools
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(
    path for name in ("optax_alphadecay", "experiments", "benchmarks") for path in (ROOT / name).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST_FILE, LONGEST_BODY, FULLEST_FOLDER = 300, 40, 16

CONFIG = {"__init__", "command_line", "config", "finetune_config", "methods", "presets", "style", "vision_config"}
PROGRAMS = {path.stem for path in (ROOT / "experiments").glob("*.py")} - CONFIG
ARROWS = [
    (line.split("-->")[0].split("[")[0].strip(), line.split("-->")[1].split("[")[0].strip())
    for line in (ROOT / "CONTRIBUTING.md").read_text().split("```mermaid")[1].split("```")[0].splitlines()
    if "-->" in line
]
"""The arrows of the picture in CONTRIBUTING.md: who uses whom."""


def module_of(path: pathlib.Path) -> str:
    """A file's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


def part_of(module: str) -> str:
    """The part of the layout that a module of ours is in."""
    top, *rest = module.split(".")
    if top != "experiments":
        return {"optax_alphadecay": "library"}.get(top, top)
    if not rest:
        return "config"
    return "config" if rest[0] in CONFIG else "programs" if rest[0] in PROGRAMS else rest[0]


def imports_of(path: pathlib.Path) -> Iterator[tuple[str, bool]]:
    """The modules of ours that a file imports, and whether as it is itself imported, and not inside a function."""
    tree = ast.parse(path.read_text())
    top = set(map(id, itertools.chain(tree.body, *(node.body for node in tree.body if isinstance(node, ast.If)))))
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            found = next((each for each in (name, name.rpartition(".")[0]) if each in MODULES), None)
            if found:
                yield found, id(node) in top


def below(part: str) -> set[str]:
    """The part, and all that arrows lead to from it."""
    return {part}.union(*(below(target) for source, target in ARROWS if source == part))


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    part = part_of(module)
    for imported, _ in imports_of(MODULES[module]):
        assert part_of(imported) in below(part), f"{module} ({part}) imports {imported} ({part_of(imported)})"


def test_the_report_trains_nothing() -> None:
    for module, path in MODULES.items():
        if part_of(module) == "report":
            assert {part_of(name) for name, _ in imports_of(path)} <= {"report", "suites", "config"}, module


def test_the_library_uses_nothing_of_the_rest() -> None:
    assert below("library") == {"library"}
    assert {part_of(module) for module in MODULES} == {part for arrow in ARROWS for part in arrow}


def test_no_program_imports_another() -> None:
    for module, path in MODULES.items():
        if part_of(module) == "programs":
            assert not [name for name, _ in imports_of(path) if part_of(name) == "programs"], module


def test_there_is_no_circle_of_imports() -> None:
    graph = {
        module: {name for name, at_top in imports_of(path) if at_top} - {module} for module, path in MODULES.items()
    }
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    while leaves := {module for module, imported in graph.items() if not imported - packages}:
        graph = {module: imported - leaves for module, imported in graph.items() if module not in leaves}
    assert not graph, f"these import each other in a circle: {sorted(graph)}"


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=module_of)
def test_files_and_functions_are_short(path: pathlib.Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1
            assert length <= LONGEST_BODY, f"{node.name} has a body of {length} lines"


def test_folders_are_not_too_full() -> None:
    for folder in {path.parent for path in SOURCES}:
        files = sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py")
        assert len(files) <= FULLEST_FOLDER, f"{folder.relative_to(ROOT)} has {len(files)}: {files}"
