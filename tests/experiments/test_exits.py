"""Every program ends with a code of the table in docs/reliability.md, and with a line that says why."""
# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import re
import signal
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
import pytest
import tyro

from benchmarks import fuzz
from benchmarks import run as bench
from benchmarks.soak import __main__ as soak
from experiments import evaluate, finetune, probe, train, train_vit
from experiments.data import corpus
from experiments.report import __main__ as report
from experiments.suites import __main__ as suites
from experiments.training import loop
from optax_alphadecay.inspection import command as inspector

TABLE = (pathlib.Path(__file__).parents[2] / "docs" / "reliability.md").read_text().split("| exit code |")[1]
CODES = {int(code) for code in re.findall(r"^\| (\d+) \|", TABLE.split("\n\n")[0], re.MULTILINE)}

Main = Callable[[Sequence[str]], int]
PROGRAMS: dict[str, Main] = {
    "experiments.train": train.main,
    "experiments.train_vit": train_vit.main,
    "experiments.evaluate": evaluate.main,
    "experiments.corpus": lambda words: tyro.cli(corpus.main, args=words),
    "experiments.suites": suites.main,
    "experiments.report": report.main,
    "experiments.finetune": finetune.main,
    "experiments.probe": probe.main,
    "optax_alphadecay": inspector.main,
    "benchmarks.run": bench.main,
    "benchmarks.soak": soak.main,
    "benchmarks.fuzz": fuzz.main,
}
FAILURES: list[tuple[str, str]] = [
    ("experiments.train", "nano --steps 0"),
    ("experiments.train", "nano --data.dir {file}"),
    ("experiments.train", "nano --data.dir {folder}/none"),
    ("experiments.train", "nano --data.tokenizer {folder}/none"),
    ("experiments.train", "{tiny} --workdir {file}"),
    ("experiments.train", "{tiny} --workdir {folder}/run --mesh.fsdp 7"),
    ("experiments.train_vit", "digits --batch-size 0"),
    ("experiments.train_vit", "digits --workdir {file}"),
    ("experiments.train_vit", "imagenet --data.dir {folder}/none"),
    ("experiments.evaluate", "{tiny} --workdir {folder}/none"),
    ("experiments.evaluate", "{tiny} --data.tokenizer {file}"),
    ("experiments.corpus", "--directory {file}"),
    ("experiments.corpus", "--text {folder}/none"),
    ("experiments.suites", "table-4 --scale tiny --results {folder} --workdir {folder} -- --steps x"),
    ("experiments.suites", "table-4 --scale tiny --limit 1 --results {folder} --workdir {file} -- --steps 1"),
    ("experiments.report", "--results {file}"),
    ("benchmarks.soak", "--workdir {file}/folder"),
    ("experiments.finetune", "{folder}/none"),
    ("experiments.finetune", "{file}"),
    ("experiments.probe", "{folder}/none"),
    ("experiments.probe", "{file}"),
    ("optax_alphadecay", "{folder}/none"),
    ("optax_alphadecay", "{file}"),
    ("optax_alphadecay", "{folder}"),
    ("optax_alphadecay", "{spectra} --json {file}/x.json"),
    ("optax_alphadecay", "{spectra} --resume {folder}"),
    ("optax_alphadecay", "{spectra} --sort none"),
]


@pytest.fixture(scope="module")
def words(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("exits")
    (folder / "file").touch()
    (folder / "folder").mkdir()
    np.savez(folder / "spectra.npz", w=np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    return {
        "folder": str(folder / "folder"),
        "file": str(folder / "file"),
        "spectra": str(folder / "spectra.npz"),
        "tiny": " ".join(tiny_command),
    }


def end(main: Main, arguments: Sequence[str]) -> int:
    """The exit code of a program."""
    try:
        return main(arguments)
    except SystemExit as error:
        assert isinstance(error.code, int)
        return error.code


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_command_line_that_is_not_understood(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert end(PROGRAMS[program], ["--no-such-option", "1"]) == 2
    errors = capfd.readouterr().err
    assert re.search("no-such-option|error: ", errors) and "Traceback" not in errors


@pytest.mark.parametrize(("program", "arguments"), FAILURES)
def test_a_failure_is_a_line(
    program: str, arguments: str, words: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    code = end(PROGRAMS[program], arguments.format(**words).split())
    errors = capfd.readouterr().err
    assert code in (1, 2) and code in CODES, errors
    assert re.search(r"error: \S+|Error|optax-alphadecay: \S+", errors), errors
    assert "Traceback" not in errors


def test_a_run_that_does_not_fit_is_a_line(
    words: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def compile_too_much(*args: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nBuffers: ...")

    monkeypatch.setattr(loop, "compile_train_step", compile_too_much)
    assert train.main("{tiny} --workdir {folder}/large".format(**words).split()) == 1
    assert capfd.readouterr().err.startswith(
        "error: RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes. The run does"
    )


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C comes while a program looks at its first folder."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt(path: pathlib.Path, *args: object, **named: object) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    for name in ("exists", "is_dir", "is_file", "mkdir"):
        monkeypatch.setattr(pathlib.Path, name, interrupt)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("experiments.train", "{tiny} --workdir {folder}/run"),
        ("experiments.train_vit", "digits --workdir {folder}/run"),
        ("experiments.evaluate", "{tiny} --workdir {folder}/run"),
        ("experiments.corpus", "--directory {folder}/corpus"),
        ("experiments.suites", "table-4 --scale tiny --results {folder} --workdir {folder} --plan"),
        ("experiments.report", "--results {folder}"),
        ("experiments.finetune", "{folder}"),
        ("experiments.probe", "{folder}"),
        ("optax_alphadecay", "{folder}"),
    ],
)
def test_an_interrupt_is_a_line(
    program: str, arguments: str, words: dict[str, str], interrupted: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert end(PROGRAMS[program], arguments.format(**words).split()) == 130
    output = "".join(capfd.readouterr())
    assert re.search("[Ii]nterrupted", output) and "Traceback" not in output


def test_the_table_has_every_code() -> None:
    assert CODES == {0, 1, 2, 130, 143}, "0 and 143 are in test_survival.py"
