"""The package declares what it imports, ships what it should, and pins what is installed."""
# SPDX-License-Identifier: Apache-2.0

import ast
import configparser
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import optax_alphadecay

ROOT = pathlib.Path(__file__).parents[1]
OURS = {"optax_alphadecay", "experiments", "tests", "benchmarks", "release"}


def _setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def _requirements(lines: str) -> list[Requirement]:
    return [Requirement(line) for line in lines.split("\n") if line]


def _declared(*extras: str) -> list[Requirement]:
    """What the library and these extras ask for, following extras that name extras of this package."""
    config = _setup_cfg()
    found = _requirements(config["options"]["install_requires"])
    todo = list(extras)
    while todo:
        for requirement in _requirements(config["options.extras_require"][todo.pop()]):
            if canonicalize_name(requirement.name) == canonicalize_name(config["metadata"]["name"]):
                todo.extend(requirement.extras)
            else:
                found.append(requirement)
    return found


def _imports(folder: str) -> Iterator[tuple[pathlib.Path, str]]:
    """Each file of a folder with the top name of each absolute import anywhere in it."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                yield path, node.module.partition(".")[0]


def _undeclared(imports: Iterable[tuple[pathlib.Path, str]], declared: Iterable[Requirement]) -> list[str]:
    """Imports of neither the standard library, nor this repository, nor a declared distribution."""
    distributions = importlib.metadata.packages_distributions()
    names = {canonicalize_name(requirement.name) for requirement in declared}
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path, module in imports
        if module not in OURS
        and module not in sys.stdlib_module_names
        and names.isdisjoint(map(canonicalize_name, distributions.get(module, [module])))
    ]


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("optax_alphadecay", []),
        ("experiments", ["experiments", "wandb"]),
        ("tests", ["test", "clients"]),
        ("benchmarks", ["bench", "weightwatcher", "mutants"]),
        ("docs", ["docs"]),
        ("release", []),
    ],
)
def test_every_import_is_declared(folder: str, extras: list[str]) -> None:
    assert _undeclared(_imports(folder), _declared(*extras)) == []


def test_an_undeclared_import_is_found() -> None:
    path = ROOT / "optax_alphadecay" / "example.py"
    imports = [(path, "os"), (path, "jax"), (path, "optax_alphadecay"), (path, "flax")]
    assert _undeclared(imports, _declared()) == ["optax_alphadecay/example.py imports flax"]


def test_the_library_needs_three_packages() -> None:
    assert {requirement.name for requirement in _declared()} == {"jax", "numpy", "optax"}


def test_every_extra_can_be_asked_for() -> None:
    extras = dict(_setup_cfg()["options.extras_require"])
    assert {"experiments", "test", "dev", "tpu"} <= extras.keys()
    for extra in extras:
        assert _declared(extra), extra


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def _dependencies(name: str, extra: str) -> list[Requirement]:
    """What an installed distribution asks for on this interpreter, through an extra, or "" for none."""
    requirements = map(Requirement, importlib.metadata.requires(name) or [])
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})]


def test_constraints_pin_what_make_installs() -> None:
    pins = _pins()
    todo = _declared("dev")
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in pins, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(pins[name]), f"{requirement} rules out the pin {pins[name]}"
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                todo.extend(_dependencies(name, extra))
    assert pins.keys() == {name for name, _ in seen}, "constraints.txt pins what nothing needs"


def _locked(path: str) -> dict[str, str]:
    """The versions that a file of `make lock` pins for Linux; each must have hashes."""
    locked: dict[str, str] = {}
    for block in re.split(r"\n(?=\w)", (ROOT / path).read_text(encoding="utf-8"))[1:]:
        first, *rest = block.rstrip().replace("\\\n", "\n").splitlines()
        requirement = Requirement(first)
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64} *", line) for line in rest), first
        assert rest, f"{first} has no hash"
        [version] = [each.version for each in requirement.specifier]
        if requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux", "os_name": "posix"}):
            locked[canonicalize_name(requirement.name)] = version
    return locked


def test_what_make_installs_is_pinned_by_hashes() -> None:
    assert _locked("requirements.txt") == _pins(), "requirements.txt is older than constraints.txt: run `make lock`"
    assert f'requires = ["setuptools == {_pins()["setuptools"]}"]' in (ROOT / "pyproject.toml").read_text()


def test_the_site_and_the_tools_are_pinned_by_hashes() -> None:
    of_site, pins = _locked("docs/requirements.txt"), _pins()
    shared = of_site.keys() & pins.keys()
    assert {"jax", "numpy", "optax"} <= shared
    assert {name: of_site[name] for name in shared} == {name: pins[name] for name in shared}, "run `make lock`"
    tools = (ROOT / "release" / "requirements.in").read_text(encoding="utf-8").partition("\n")[2]
    for locked, declared in ((of_site, _declared("docs")), (_locked("release/requirements.txt"), _requirements(tools))):
        for requirement in declared:
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_workflows_pin_actions_and_keep_no_credentials() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        steps = re.split(r"\n *- (?=uses:|run:)", path.read_text(encoding="utf-8"))[1:]
        for step in steps:
            if step.startswith("uses:"):
                assert re.match(r"uses: [\w/-]+@[0-9a-f]{40}  # v\d", step), f"{path.name}: {step.splitlines()[0]}"
            if "actions/checkout" in step:
                assert "persist-credentials: false" in step, path.name


def test_the_wheel_holds_the_library_only(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code_only = shutil.ignore_patterns("__pycache__", "data", "results")
    for folder in ("optax_alphadecay", "experiments", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=code_only)
    # Where pip builds there is no jax, so reading the version must not import it.
    build = "import sys; sys.modules['jax'] = None; import setuptools.build_meta as b; b.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)

    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    files = [path for path in (ROOT / "optax_alphadecay").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    library = {path.relative_to(ROOT).as_posix() for path in files}
    assert {name for name in names if ".dist-info/" not in name} == library
    assert {"optax_alphadecay/py.typed", "optax_alphadecay/inspection/page.js"} <= library
    assert any(name.endswith("/LICENSE") for name in names)
    assert f"\nVersion: {optax_alphadecay.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
