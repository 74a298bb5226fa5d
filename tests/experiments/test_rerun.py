"""Reruns: what is compared, and what is said of a run that is not known or came out otherwise."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib

import pytest

from experiments.suites import rerun, store
from experiments.suites.__main__ import main
from experiments.suites.results import Curve, Refreshes
from tests.experiments.invented_results import add, outcome, runs_of

CONFIG = runs_of("table-4", "nano")[0].config


def test_all_that_is_recorded_is_compared_but_times() -> None:
    curve = {"train/loss": Curve([1, 10], [3.0, 2.0])}
    recorded = outcome(CONFIG, final={"loss": 2.5}, curve=curve, refreshes=Refreshes(["a"], 1, [1], [[2.0]], [[1.0]]))
    more = {**curve, "norm/new": Curve([1], [1.0])}
    faster = dataclasses.replace(recorded, curve=more, seconds=1.0, training_seconds=0.5, commit="b")
    assert rerun.differences(recorded, faster) == []
    bent = {**curve, "train/loss": Curve([1, 10], [3.0, 2.00001])}
    other = dataclasses.replace(recorded, final={"loss": 2.6}, curve=bent)
    assert rerun.differences(recorded, other) == [
        "curve/train/loss/values/1: 2.0 recorded, 2.00001 now",
        "final/loss: 2.5 recorded, 2.6 now",
    ]


def test_a_run_that_is_not_known_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, outcome(CONFIG), dataclasses.replace(outcome(CONFIG), name="stray"))
    assert rerun.main(["nothing", "--results", str(tmp_path)]) == 1
    assert f"error: nothing is in no file of results in {tmp_path}" in capsys.readouterr().err
    assert rerun.main(["stray", "--results", str(tmp_path)]) == 1
    assert "error: stray is in nano.jsonl, but no suite makes it any more" in capsys.readouterr().err


def test_a_run_comes_out_again_as_it_is_recorded(
    tiny_command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_corpus = {"--data.dir", "--data.tokenizer", "--model.vocab-size"}
    pairs = zip(tiny_command[1::2], tiny_command[2::2], strict=True)
    data = [word for pair in pairs if pair[0] in of_corpus for word in pair]
    folders = ["--results", str(tmp_path), "--workdir", str(tmp_path / "runs")]
    assert main(["table-4", "--scale", "tiny", "--limit", "1", *folders, "--", *data]) == 0
    (recorded,) = store.read(tmp_path / "tiny.jsonl").results.values()
    assert recorded.cores
    command = [recorded.name, "--results", str(tmp_path), "--", *data]
    assert rerun.main(command) == 0
    assert f"{recorded.name} came out as recorded, to the last digit" in capsys.readouterr().out
    store.add(dataclasses.replace(recorded, final={**recorded.final, "loss": 1.0}), tmp_path / "tiny.jsonl")
    assert rerun.main(command) == 1
    assert "differs in 1 numbers" in capsys.readouterr().out
