"""The command: tables, files, comparisons, and one line for whatever goes wrong."""
# SPDX-License-Identifier: Apache-2.0

import csv
import dataclasses
import json
import math
import pathlib
import runpy
import sys
from typing import Any

import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.inspection import command, table
from optax_alphadecay.inspection.comparison import change, labels, trajectories


def weights(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.standard_normal((64, 4)) @ rng.standard_normal((4, 64))
    return {
        "layers.0.query": rng.standard_normal((64, 64)) + scale * low,
        "layers.0.up": rng.standard_normal((64, 96)),
        "layers.1.query": rng.standard_normal((64, 64)),
        "layers.1.[red]up": rng.standard_normal((64, 96)),
        "norm": rng.standard_normal(64),
    }


@pytest.fixture(name="path", scope="module")
def path_of_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("command") / "model.npz"
    np.savez(path, **weights(0))  # type: ignore[arg-type]
    return path


def run(*arguments: object) -> int:
    return command.main([str(argument) for argument in arguments])


def first_column(text: str) -> list[str]:
    lines = text.splitlines()
    return [line.split()[0] for line in lines[1:] if line.startswith("layers")]


def test_table_sorts_and_filters(path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "--sort=-alpha", "--no-shuffle") == 0
    shown = capsys.readouterr().out
    alphas = {module.name: module.alpha for module in oad.inspect(path, shuffle=False)}
    assert first_column(shown) == sorted(alphas, key=alphas.__getitem__, reverse=True)
    assert "layers/1/[red]up" in shown  # a name is no markup
    assert "4 modules were measured." in shown and "1 tensor was left out: 1 ('norm' names a norm)." in shown
    options = (
        "--where",
        "shape != 64",
        "--where",
        "layer=1",
        "--match",
        "up$",
        "--columns",
        "name,alpha",
        "--top",
        "1",
    )
    assert run(path, *options, "--left-out", "--no-shuffle") == 0
    shown = capsys.readouterr().out
    assert first_column(shown) == ["layers/1/[red]up"]
    assert shown.splitlines()[0].split() == ["module", "alpha"]
    assert shown.splitlines()[-1].split() == ["norm", "64", "float64", "'norm'", "names", "a", "norm"]


def test_a_filter_that_leaves_nothing_says_so(path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "--where", "alpha > 100", "--no-shuffle") == 0
    assert capsys.readouterr().out.startswith("None of 4 modules is shown: --match, --where or --top")
    assert run(path, path, "--match", "nothing", "--no-shuffle") == 0
    assert capsys.readouterr().out.startswith("None of 4 modules is shown")


def test_a_checkpoint_without_modules_is_an_error(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written; the line says why each tensor was left out."""
    np.savez(tmp_path / "m.npz", bias=np.ones(3), layers=np.ones((2, 64, 64)))
    assert run(tmp_path / "m.npz", "--html", tmp_path / "report.html", "--left-out") == 1
    shown = capsys.readouterr()
    assert shown.out.split()[:2] == ["left", "out"] and shown.err.count("\n") == 1
    assert f"{tmp_path / 'm.npz'}: No module was found. 2 tensors were left out:" in shown.err
    assert "1 ('bias' names a bias)" in shown.err and "--stacked layers" in shown.err
    assert not (tmp_path / "report.html").exists()


def test_one_checkpoint_of_several_without_modules_is_told(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "m.npz", bias=np.ones(3))
    assert run(path, tmp_path / "m.npz", "--no-shuffle") == 0
    assert f"{tmp_path / 'm.npz'}: No module was found. 1 tensor was left out" in capsys.readouterr().out


def test_patterns_that_fit_nothing_are_told_once_for_a_series(
    path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(other := tmp_path / "other.npz", **weights(1))  # type: ignore[arg-type]
    assert run(path, other, "--no-shuffle", "--exclude", "typo", "--exclude", "norm") == 0
    assert capsys.readouterr().out.count("No tensor has a name that fits exclude: 'typo';") == 1


def test_columns_go_by_their_headings_too(path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the table prints can be asked for, in capitals or not."""
    assert run(path, "--no-shuffle") == 0
    headings = "module,shape,alpha,random,alpha KS,KS,stable rank,spectral norm,spikes,traps,ratio,decay"
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split() == headings.replace(",", " ").split()
    options = ["--columns", f"{headings},ALPHA ff", "--where", "alpha KS > 1.9", "--where", "shape = 64 x 96"]
    assert run(path, *options, "--sort=-ks", "--no-shuffle") == 0
    shown = capsys.readouterr().out
    expected = [
        (module.ks_distance, module.name)
        for module in oad.inspect(path, shuffle=False)
        if module.alpha_goodness_of_fit > 1.9 and module.shape == (64, 96)
    ]
    assert shown.splitlines()[0].endswith("alpha FF")
    assert expected and first_column(shown) == [name for _, name in sorted(expected, reverse=True)]


def test_help_names_everything_that_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = capsys.readouterr().out
    for format in ("safetensors", "Orbax", ".npz", ".npy", ".pt,", ".pth", ".bin", ".ckpt", "bfloat16", "float8"):
        assert format in shown, format


def test_all_takes_embeddings_and_small_matrices(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "m.npz", embed=np.ones((60, 70)), small=np.ones((3, 4)), bias=np.ones(3))
    assert run(tmp_path / "m.npz", "--all", "--no-shuffle") == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines()[1:3]] == ["embed", "small"]
    assert "1 (a vector)" in shown


def test_values_that_are_not_known_come_last() -> None:
    inspection = oad.inspect(
        {"one": np.ones((64, 64)), "three": weights(0)["layers.0.up"], "two": weights(0)["layers.0.query"]}
    )
    shown = table.rows(inspection.modules, table.View(sort="alpha"))
    assert [module.name for module in shown][-1] == "one" and math.isnan(shown[-1].alpha)
    assert [module.name for module in table.rows(inspection.modules, table.View(sort="layer"))] == [
        "one",
        "three",
        "two",
    ]
    assert [module.name for module in table.rows(inspection.modules, table.View(where=("traps<1",)))] == [
        "three",
        "two",
    ]


def test_files_hold_the_records(path: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "csv", "html")}
    assert run(path, *(word for kind, file in files.items() for word in (f"--{kind}", file))) == 0
    inspection = oad.inspect(path)
    [saved] = json.loads(files["json"].read_text())["checkpoints"]
    assert [module["alpha"] for module in saved["modules"]] == [module.alpha for module in inspection]
    assert saved["left_out"] == [{"name": "norm", "shape": [64], "dtype": "float64", "reason": "'norm' names a norm"}]
    with files["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["spectral_norm"]) for row in rows] == [module.spectral_norm for module in inspection]
    assert rows[1]["shape"] == "64x96" and rows[1]["checkpoint"] == str(path)
    wrote = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Wrote")]
    assert wrote == [f"Wrote {files[kind]}, with all modules." for kind in ("json", "csv", "html")]
    assert "://" not in files["html"].read_text().replace("http://www.w3.org/2000/svg", "")
    assert json.loads(files["json"].read_text())["version"] == 1


def test_a_series_is_compared(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for step in (2, 10):
        (tmp_path / f"step-{step}").mkdir()
        paths.append(tmp_path / f"step-{step}" / "model.npz")
        np.savez(paths[-1], **weights(0, scale=step))  # type: ignore[arg-type]
    assert run(*reversed(paths), "--no-shuffle", "--left-out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["module", "alpha", "step-2", "alpha", "step-10", "change"]
    inspections = [oad.inspect(path, shuffle=False) for path in paths]
    alphas = trajectories(inspections)["layers/0/query"]
    assert lines[1].split() == ["layers/0/query", *(f"{value:.4g}" for value in (*alphas, change(alphas)))]
    assert labels(inspections) == ["step-2", "step-10"]
    assert labels(inspections[:1]) == [str(paths[0])]
    assert labels([inspections[0]] * 2) == [str(paths[0])] * 2
    inside = [dataclasses.replace(inspections[0], source=f"/runs/{name}/step-9/model/w.npz") for name in ("a", "b/c")]
    assert labels(inside) == ["a", "b/c"]
    fewer = oad.inspect({"x": weights(0)["layers.0.up"]})
    assert math.isnan(change(trajectories([inspections[0], fewer])["x"]))


NOT_UNDERSTOOD = {
    "min_eigenvalues must be",
    "required: PATH",
    "PATH",
    "no regular expression",
    "write 'REGEX=IN:OUT'",
    "write 'NAME=AXIS'",
    "there is no column 'beta'",
    "write it as 'alpha > 3'",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: PATH"),
        (["--frobnicate"], "PATH"),
        (["--sort", "beta"], "there is no column 'beta'"),
        (["--columns", "alpha,beta"], "there is no column 'beta'"),
        (["--where", "alpha is 3"], "write it as 'alpha > 3'"),
        (["--match", "("], "no regular expression"),
        (["--axes", "conv=1"], "write 'REGEX=IN:OUT'"),
        (["--axes", "(=1:0"], "no regular expression"),
        (["--stacked", "layers=first"], "write 'NAME=AXIS'"),
        (["--min-eigenvalues", "0"], "min_eigenvalues must be"),
        (["--json", "/nowhere/x.json"], "/nowhere/x.json"),
    ],
)
def test_mistakes_get_one_line(
    path: pathlib.Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path)] if arguments and arguments != ["--frobnicate"] else []
    code = command.main([*paths, *arguments, *(["--no-shuffle"] if paths else [])])
    assert code == (2 if said in NOT_UNDERSTOOD else 1)
    error = capsys.readouterr().err
    assert error.startswith("optax-alphadecay: ") and error.count("\n") == 1 and said in error


def test_options_reach_the_measuring(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def inspect(given: str, **options: Any) -> oad.Inspection:
        asked.update(options, path=given)
        options["on_progress"](0.5, "half")
        return oad.inspect({"query": np.eye(64)})

    monkeypatch.setattr(command, "inspect", inspect)
    options = [
        "--axes",
        "query/kernel$=0:1,2",
        "--stacked",
        "layers=1",
        "--exclude",
        "a",
        "--weight-decay",
        "0.3",
    ]
    assert run(path, *options, "--min-eigenvalues", "8", "--seed", "3", "--resume", "r") == 0
    rule = asked["modules"]
    assert (rule.min_eigenvalues, rule.stacked) == (8, (("layers", 1),))
    assert rule.axes == (("query/kernel$", ((0,), (1, 2))),)
    assert (asked["exclude"], asked["weight_decay"], asked["seed"], asked["shuffle"]) == (["a"], 0.3, 3, True)
    assert str(asked["resume"]) == "r"
    assert run(path, "--axes", "query/kernel$=0:1,2", "--all") == 0
    assert asked["modules"].axes == (("query/kernel$", ((0,), (1, 2))), (".*", True))
    assert asked["modules"].min_eigenvalues == 50


def test_an_interruption_says_how_to_go_on(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "inspect", interrupt)
    assert run(path) == 130 and run(path, "--resume", "spectra.jsonl") == 130
    assert capsys.readouterr().err.splitlines() == [
        "optax-alphadecay: interrupted; with --resume FILE it could go on",
        "optax-alphadecay: interrupted; the same command goes on from spectra.jsonl",
    ]


def test_without_the_extra_the_command_says_what_to_install(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert run(path) == 1
    assert "needs rich, which is not installed: pip install 'optax-alphadecay[inspect]'" in capsys.readouterr().err


def test_module_and_program_are_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["optax-alphadecay", "/nowhere"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("optax_alphadecay", run_name="__main__")
    assert end.value.code == 1 and "/nowhere: there is no such file" in capsys.readouterr().err
