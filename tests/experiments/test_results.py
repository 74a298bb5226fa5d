"""Results of runs: their names, what is kept of a run, and where they came from."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import json
import pathlib
import re
import subprocess

import jax
import pytest

from experiments.config import PRESETS, Config, MeshConfig
from experiments.suites import results
from experiments.training.metrics import read_metrics
from tests.experiments.experiment_fixtures import FinishedRun

CONFIG = PRESETS["nano-repeated"][1]


def changed(group: str, **values: object) -> Config:
    part = dataclasses.replace(getattr(CONFIG, group), **values)
    return dataclasses.replace(CONFIG, **{group: part})


@pytest.mark.parametrize(
    "same",
    [
        dataclasses.replace(CONFIG, workdir=pathlib.Path("/elsewhere"), log_every=1, accumulate=2, wandb=True),
        dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=2)),
        changed("data", dir=pathlib.Path("/data"), tokenizer=pathlib.Path("/a.model")),
        changed("model", remat=True),
    ],
)
def test_where_a_run_is_computed_is_not_part_of_its_name(same: Config) -> None:
    assert results.name_of(same) == results.name_of(CONFIG)
    assert "elsewhere" not in json.dumps(results.settings_of(same))


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(CONFIG, seed=1),
        dataclasses.replace(CONFIG, steps=401),
        changed("data", unique_tokens=0),
        changed("model", num_layers=4),
        changed("optimizer", fit="fix_finger"),
        changed("optimizer", unit_mean=True),
    ],
)
def test_what_a_run_computes_is_part_of_its_name(other: Config) -> None:
    assert results.name_of(other) != results.name_of(CONFIG)


def test_a_result_holds_what_the_run_has_logged(finished_run: FinishedRun) -> None:
    found, lines = results.measured(finished_run.workdir), read_metrics(finished_run.workdir / "metrics.jsonl")
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert found["curve"]["train/loss"]["steps"] == list(losses)
    assert found["curve"]["train/loss"]["values"] == pytest.approx(list(losses.values()), rel=1e-5)
    last = lines[-1] if "validation/loss" in lines[-1] else next(x for x in lines[::-1] if "validation/loss" in x)
    assert found["final"]["perplexity"] == pytest.approx(last["validation/perplexity"], rel=1e-5)
    refreshes = found["refreshes"]
    measured = [line for line in lines if any(name.startswith("alphadecay/score") for name in line)]
    assert refreshes["made"] == len(refreshes["steps"]) == len(measured) == 7
    for i, line in enumerate(measured):
        for j, name in enumerate(refreshes["modules"]):
            assert refreshes["scores"][i][j] == pytest.approx(line[f"alphadecay/score/{name}"], rel=1e-5)
            assert refreshes["ratios"][i][j] == pytest.approx(line[f"alphadecay/ratio/{name}"], rel=1e-5)


def test_of_many_refreshes_an_even_share_is_kept(tmp_path: pathlib.Path) -> None:
    lines = [{"step": step, "alphadecay/score/a": float("nan"), "alphadecay/ratio/a": 1.0} for step in range(1, 1001)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    refreshes = results.measured(tmp_path)["refreshes"]
    steps = refreshes["steps"]
    assert refreshes["made"] == 1000
    assert (len(steps), steps[0], steps[-1]) == (results.MOST_REFRESHES, 1, 1000)
    assert {b - a for a, b in itertools.pairwise(steps)} == {5, 6}
    assert refreshes["scores"][0] == [None]


def test_results_are_written_and_read_back(tmp_path: pathlib.Path) -> None:
    result = results.describe(CONFIG, commit=results.commit(), versions=results.versions(), error=None)
    path = results.write(result, tmp_path / "new")
    assert results.read_all(tmp_path / "new") == {results.name_of(CONFIG): result}
    assert results.read_all(tmp_path / "none") == {}
    assert not results.failed(result)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        results.read_all(tmp_path / "new")


def test_versions_and_commit_are_those_in_use(tmp_path: pathlib.Path) -> None:
    assert results.versions()["jax"] == jax.__version__
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=False
    )
    if head.returncode == 0:
        assert results.commit().removesuffix("+changes") == head.stdout.strip()
    else:
        assert results.commit() == "unknown"


def test_changed_code_is_told_from_its_commit_and_changed_results_are_not(tmp_path: pathlib.Path) -> None:
    assert results.commit(tmp_path) == "unknown"
    code, result = tmp_path / "experiments" / "code.py", tmp_path / "results" / "a.json"
    code.parent.mkdir()
    result.parent.mkdir()
    code.write_text("1")
    result.write_text("1")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "first")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    first = results.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", first)
    result.write_text("2")
    assert results.commit(tmp_path) == first
    code.write_text("2")
    assert results.commit(tmp_path) == f"{first}+changes"
