"""What the command line's options default to, what its files hold to the letter, and its bar."""
# SPDX-License-Identifier: Apache-2.0

import csv
import json
import pathlib
import runpy
from typing import Any

import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.inspection import command
from optax_alphadecay.inspection.records import Inspection
from tests.library.inspection.records_by_hand import module

ONE = Inspection("m", (module("a", alpha=2.0, layer=3), module("b", traps=0)), (), 0.1)


@pytest.fixture(name="asked")
def options_of_inspections(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command calls `inspect` with; it reports being half done and gets two modules."""
    asked: list[dict[str, Any]] = []

    def inspect(path: str, *, on_progress: Any, **options: Any) -> Inspection:
        asked.append({"path": path, **options})
        on_progress(0.5, f"half of {path}")
        return ONE

    monkeypatch.setattr(command, "inspect", inspect)
    return asked


def test_defaults_are_those_of_inspect(asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["m"]) == 0
    rule = oad.block_matrices()
    expected = {"exclude": [], "weight_decay": 0.1, "shuffle": True, "seed": 0, "resume": None}
    assert asked == [{"path": "m", "modules": rule, **expected}]
    assert rule.min_eigenvalues == 50
    shown = capsys.readouterr()
    assert shown.err == "" and [line.split()[0] for line in shown.out.splitlines()[:3]] == ["module", "a", "b"]
    assert "2 modules were measured." in shown.out and "left out" not in shown.out


def test_options_that_are_given_more_than_once(asked: list[dict[str, Any]]) -> None:
    given = ["--axes", "a=b=1:0", "--axes", "c=0,1:2", "--stacked", "layers", "--stacked", "h=2"]
    assert command.main(["m", *given, "--exclude", "x", "--exclude", "y", "--no-shuffle"]) == 0
    rule = asked[0]["modules"]
    assert rule.axes == (("a=b", ((1,), (0,))), ("c", ((0, 1), (2,)))) and rule.stacked == (("layers", 0), ("h", 2))
    assert asked[0]["exclude"] == ["x", "y"] and asked[0]["shuffle"] is False


def test_abbreviations_are_not_understood(asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["m", "--weight", "3"]) == 2 and asked == []
    assert "--help lists the options" in capsys.readouterr().err


def test_progress_is_over_all_checkpoints(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    import rich.progress

    shares: list[tuple[float, str]] = []
    monkeypatch.setattr(
        rich.progress.Progress, "update", lambda self, task, completed, name: shares.append((completed, name))
    )
    assert command.main(["m10", "m9"]) == 0
    assert shares == [(0.25, "half of m9"), (0.75, "half of m10")]


def test_a_terminal_gets_a_bar(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert command.main(["m"]) == 0
    shown = capsys.readouterr().err
    assert "half of m" in shown and "50%" in shown


def test_files_hold_every_field(asked: list[dict[str, Any]], tmp_path: pathlib.Path) -> None:
    files = tmp_path / "r.json", tmp_path / "r.csv"
    assert command.main(["m", "m", "--json", str(files[0]), "--csv", str(files[1])]) == 0
    saved = json.loads(files[0].read_text())
    assert saved["version"] == 1 and len(saved["checkpoints"]) == 2
    [first, second] = saved["checkpoints"][0]["modules"]
    assert (first["alpha"], first["xmin"], first["layer"], first["shape"]) == (2.0, None, 3, [4, 6])
    assert (second["alpha"], second["layer"], second["traps"]) == (None, None, 0)
    assert saved["checkpoints"][0]["weight_decay"] == 0.1
    with files[1].open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:5] == ["checkpoint", "name", "type", "layer", "shape"] and len(rows) == 4
    assert rows[0][:5] == ["m", "a", "a", "3", "4x6"] and rows[1][:5] == ["m", "b", "b", "", "4x6"]


def test_one_checkpoint_with_modules_is_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = Inspection("e", (), (), 0.1)
    monkeypatch.setattr(command, "inspect", lambda path, **options: ONE if path == "m" else empty)
    assert command.main(["e", "m"]) == 0 and command.main(["e", "e"]) == 1
    assert capsys.readouterr().err == "optax-alphadecay: e: No module was found. e: No module was found.\n"


def test_long_names_stay_on_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing shows how wide the output may be."""
    name = "layers/" * 24 + "w"
    monkeypatch.setattr(command, "inspect", lambda path, **options: Inspection("m", (module(name),), (), 0.1))
    assert command.main(["m", "--columns", "name,alpha"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [name, "-"]


@pytest.mark.parametrize("name", ["A", "optax_alphadecay.__main__"])
def test_the_program_runs_only_as_a_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "main", lambda: pytest.fail("it was run"))
    assert runpy.run_module("optax_alphadecay.__main__", run_name=name)["__name__"] == name


def test_the_program_ends_with_the_commands_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "main", lambda: 7)
    with pytest.raises(SystemExit) as end:
        runpy.run_module("optax_alphadecay.__main__", run_name="__main__")
    assert end.value.code == 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--csv", "{model}"], "--csv {model} would overwrite the checkpoint"),
        (["--json", "{folder}/r", "--html", "{folder}/r"], "--html {folder}/r would overwrite --json's file"),
        (["--resume", "{folder}/r", "--json", "{folder}/../{name}/r"], "would overwrite --resume's file"),
        (["--html", "{folder}/no/x.html"], "there is no folder {folder}/no"),
    ],
)
def test_no_file_is_written_over_another(
    options: list[str], said: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "m.npz", w=np.ones((64, 64)))
    before = (tmp_path / "m.npz").read_bytes()
    known = {"model": str(tmp_path / "m.npz"), "folder": str(tmp_path), "name": tmp_path.name}
    assert command.main([known["model"], "--no-shuffle", *(option.format(**known) for option in options)]) == 1
    assert said.format(**known) in capsys.readouterr().err
    assert (tmp_path / "m.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "options", [["--top", "-1"], ["--top", "x"], *(["--weight-decay", rate] for rate in ("nan", "-1", "1e400", "x"))]
)
def test_numbers_out_of_range_are_not_understood(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["m", f"{options[0]}={options[1]}"]) == 2
    assert options[0] in capsys.readouterr().err


def test_small_matrices_alone_are_told_how_to_be_measured(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "m.npz", w=np.random.default_rng(0).normal(size=(48, 48)), conv=np.ones((3, 3, 4, 8)))
    assert command.main([str(tmp_path / "m.npz"), "--no-shuffle"]) == 1
    error = capsys.readouterr().err
    assert "--min-eigenvalues 8" in error and "--stacked" not in error
    assert command.main([str(tmp_path / "m.npz"), "--no-shuffle", "--min-eigenvalues", "48"]) == 0


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("kept", "told"), [([], "--resume FILE keeps measurements"), (["--resume", "kept"], "is in kept")]
)
def test_a_file_that_cannot_be_written_is_named(
    kept: list[str], told: str, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["m", "--csv", "/dev/full", *kept]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "optax-alphadecay: --csv /dev/full cannot be written: No space left on device; name another"
    )
    assert told in error and error.count("\n") == 1


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_file_that_cannot_be_written_costs_neither_the_table_nor_other_files(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "m.npz", w=np.random.default_rng(0).normal(size=(64, 64)))
    options = [
        "--no-shuffle",
        "--json",
        "/dev/full",
        "--csv",
        str(tmp_path / "m.csv"),
        "--html",
        str(tmp_path / "m.html"),
    ]
    assert command.main([str(tmp_path / "m.npz"), *options]) == 1
    shown = capsys.readouterr()
    assert "alpha" in shown.out and f"Wrote {tmp_path / 'm.csv'}" in shown.out
    assert (tmp_path / "m.csv").read_text().count("\n") == 2 and (tmp_path / "m.html").exists()
    assert "--json /dev/full cannot be written" in shown.err and shown.err.count("\n") == 1


def test_all_and_a_smallest_size_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["m", "--all", "--min-eigenvalues", "200"]) == 2
    assert "--all takes any size, against --min-eigenvalues 200: give one" in capsys.readouterr().err


def test_the_file_that_was_taken_from_a_folder_is_named(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "m.npz", w=np.random.default_rng(0).normal(size=(64, 64)))
    (tmp_path / "train.py").write_text("")
    assert command.main([str(tmp_path), "--no-shuffle"]) == 0
    assert f"Of {tmp_path}, {tmp_path / 'm.npz'} was read." in capsys.readouterr().out
    assert command.main([str(tmp_path / "m.npz"), "--no-shuffle"]) == 0
    assert "was read" not in capsys.readouterr().out
