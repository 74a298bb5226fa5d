"""The suites of weight decay and plasticity: their runs, and how base models are made."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from experiments.config import Config
from experiments.finetune_config import ClassificationConfig, ProbingConfig
from experiments.finetuning.base import restore_base
from experiments.finetuning.ranks import head_ranks
from experiments.parallel import sharding
from experiments.presets import from_command_line
from experiments.suites import worker
from experiments.suites.__main__ import _distinct, command_of
from experiments.suites.__main__ import main as suites_main
from experiments.suites.cost import flops_of
from experiments.suites.identity import name_of, settings_that_matter
from experiments.suites.paper import runs_of
from experiments.suites.plasticity import (
    DECAYS,
    PRETRAINING,
    RATE_DECAYS,
    RATES,
    TASKS,
    finetuning,
    pretraining_seed,
)
from experiments.suites.results import measured
from experiments.suites.runner import Paths
from experiments.suites.scales import SCALES
from experiments.training.preemption import Preemption

RUNS = runs_of("plasticity", SCALES["nano"], {})
ARMS = 1 + 2 * len(DECAYS)


def test_every_base_is_taught_every_task_with_seeds_of_its_own() -> None:
    names = [name_of(run.config) for run in RUNS]
    assert len(set(names)) == len(names) == 3 * ARMS * (1 + 3 * len(TASKS))
    bases = {name_of(run.config): run for run in RUNS if run.labels["task"] == PRETRAINING}
    assert len(bases) == 3 * ARMS
    for run in RUNS:
        if run.labels["task"] != PRETRAINING:
            base = bases[run.config.base.run]  # type: ignore[attr-defined]
            assert {**base.labels, "task": ""} == {**run.labels, "task": ""}
            assert base.config.seed == pretraining_seed(run.config.seed)
            assert run.config.optimizer.learning_rate == TASKS[str(run.labels["task"])].learning_rate
    # Seed 0 of pre-training comes first, and no run before its base.
    assert all(run.config.seed < 10 for run in RUNS[: len(RUNS) // 3])
    assert runs_of("plasticity", SCALES["60m"], {}) == []


def test_seeds_are_those_of_pre_training_where_a_run_starts_from_a_base(capsys: pytest.CaptureFixture[str]) -> None:
    part = _distinct(RUNS, 2)
    assert len(part) == 2 * len(RUNS) // 3
    assert {pretraining_seed(config.seed) for config in part.values() if hasattr(config, "base")} == {0, 1}
    assert suites_main(["plasticity", "--scale", "tiny", "--plan"]) == 0
    assert (
        "plasticity   no runs at this scale or with these seeds: it is made at nano, nano-fresh"
        in capsys.readouterr().out
    )


def test_a_fine_tuning_run_is_named_by_its_base_and_not_by_where_that_is() -> None:
    config: Any = next(run.config for run in RUNS if run.labels["task"] == "half-century")
    moved = dataclasses.replace(config, base=dataclasses.replace(config.base, dir=pathlib.Path("elsewhere")))
    other = dataclasses.replace(config, base=dataclasses.replace(config.base, run="another"))
    assert name_of(moved) == name_of(config) != name_of(other)
    assert settings_that_matter(config)["base"] == {"run": config.base.run}
    assert flops_of(config) > 0
    paths = Paths(pathlib.Path("r"), pathlib.Path("s"))
    assert command_of(config, paths, SCALES["nano"]).startswith(f"# {name_of(config)} starts from another run")


def test_the_worker_makes_the_base_first_and_then_goes_on_from_it(
    tiny_command: list[str], tmp_path: pathlib.Path
) -> None:
    options = ["--steps", "4", "--eval-every", "4", "--checkpoint-every", "4", "--workdir", str(tmp_path / "unused")]
    base = from_command_line([*tiny_command, *options])
    folder = tmp_path / "opinions"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{n} {'good' if n % 2 else 'bad'} {split}", "label": n % 2} for n in range(16)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config: ClassificationConfig = finetuning(base, "subjectivity", seed=1)
    data = dataclasses.replace(config.data, dir=folder, sequence_length=16)
    config = dataclasses.replace(
        config, data=data, steps=2, batch_size=8, eval_every=2, log_every=1, workdir=tmp_path / name_of(config)
    )
    with Preemption() as preemption:
        worker._train_to_end(config, preemption)
    assert (tmp_path / name_of(base) / "checkpoints/4").is_dir()
    written = (tmp_path / name_of(base) / "metrics.jsonl").stat().st_mtime_ns
    found = measured(config.workdir, units_per_step=1)
    assert {"loss", "accuracy", "seen_loss", "test_loss", "test_accuracy"} <= found["final"].keys()
    assert "norm/up_proj" in found["curve"]
    looked = ProbingConfig(
        base.model, data, base.optimizer, steps=0, base=config.base, workdir=tmp_path / "a look inside"
    )
    with Preemption() as preemption:
        worker._train_to_end(looked, preemption)
    inside_it = measured(looked.workdir, units_per_step=0)
    by_block = inside_it["curve"]["validation/probe_test_accuracy"]
    assert by_block.steps == [0, 1, 2] and inside_it["final"]["probe_test_accuracy"] == by_block.values[-1]
    weights = restore_base(tmp_path / name_of(base), base.model, sharding.one_device_mesh())
    expected = np.mean(head_ranks(weights, base.model.num_heads)["W_V W_O"][1], axis=0)
    found_ranks = [inside_it["final"][f"{kind}_rank_vo"] for kind in ("pseudo", "stable", "entropy")]
    np.testing.assert_allclose(found_ranks, expected, rtol=1e-5)
    again = dataclasses.replace(config, seed=2, workdir=tmp_path / "again")
    with Preemption() as preemption:
        worker._train_to_end(again, preemption)
    assert (tmp_path / name_of(base) / "metrics.jsonl").stat().st_mtime_ns == written


def test_base_models_are_ordinary_runs() -> None:
    labels = {"task": PRETRAINING, "method": "AlphaDecay", "weight decay": 0.3}
    base = next(run.config for run in RUNS if run.labels == labels)
    assert isinstance(base, Config) and (base.optimizer.coupling, base.optimizer.learning_rate) == ("adamw", 3e-3)
    assert getattr(base.optimizer, "unit_mean", False) and getattr(base.optimizer, "mean_over", "") == "weights"


def test_rates_are_tried_on_a_seed_and_base_models_of_their_own() -> None:
    runs = runs_of("plasticity-rates", SCALES["nano"], {})
    assert len({name_of(run.config) for run in runs}) == len(runs) == len(RATE_DECAYS) * len(TASKS) * len(RATES)
    assert not {name_of(run.config) for run in runs} & {name_of(run.config) for run in RUNS}
    assert (
        {run.config.optimizer.learning_rate for run in runs}
        == set(RATES)
        >= {plan.learning_rate for plan in TASKS.values()}
    )
    compared = {run.config.base.run for run in RUNS if run.labels["task"] != PRETRAINING}  # type: ignore[attr-defined]
    assert not {run.config.base.run for run in runs} & compared  # type: ignore[attr-defined]
    assert runs_of("plasticity-rates", SCALES["60m"], {}) == []
