"""Reruns: what is compared, and what is said of a run that is not known or came out otherwise."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib

import pytest

from experiments.suites import rerun
from experiments.suites.results import Curve, Refreshes
from tests.experiments.invented_results import add, outcome, runs_of

CONFIG = runs_of("table-4", "nano")[0].config


def test_all_that_is_recorded_is_compared_but_times() -> None:
    curve = {"train/loss": Curve([1, 10], [3.0, 2.0]), "train/tokens_per_second": Curve([1], [5.0])}
    recorded = outcome(CONFIG, final={"loss": 2.5}, curve=curve, refreshes=Refreshes(["a"], 1, [1], [[2.0]], [[1.0]]))
    faster = {**curve, "train/tokens_per_second": Curve([1], [9.0]), "norm/new": Curve([1], [1.0])}
    assert rerun.differences(recorded, dataclasses.replace(recorded, curve=faster, seconds=1.0, commit="b")) == []
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
