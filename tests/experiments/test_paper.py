"""The paper's protocol: its models, its grids, and which runs make up a table."""
# SPDX-License-Identifier: Apache-2.0

import collections
import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from experiments.config import Config
from experiments.methods import AdaDecay, AdamConfig, AlphaDecay
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel import sharding
from experiments.presets import PRESETS
from experiments.suites import paper
from experiments.suites.identity import name_of
from experiments.suites.paper import METHODS, SUITES, best_of_sweep
from experiments.suites.plan import PlannedRun
from experiments.suites.results import Result
from experiments.suites.scales import SCALES, base_config, with_optimizer
from experiments.training.optimizers import make_optimizer
from experiments.training.step import TrainState, compile_train_step, first_state
from tests.experiments.invented_results import outcome

# hidden, intermediate, heads, layers, steps, learning rate: arXiv 2506.14562, training details.
PAPER = {
    "60m": (512, 1376, 8, 8, 10_000, 1e-3),
    "135m": (768, 2048, 12, 12, 20_000, 1e-3),
    "350m": (1024, 2736, 16, 24, 60_000, 1e-3),
    "1b": (2048, 5461, 32, 24, 90_000, 6e-4),
}
RANGES = {1e-5: (2 / 3, 3), 5e-6: (2 / 3, 5), 1e-6: (2 / 3, 5)}


def runs_of(suite: str, scale: str, found: dict[str, Result] | None = None) -> list[PlannedRun]:
    return paper.runs_of(suite, SCALES[scale], found or {})


@pytest.mark.parametrize("size", PAPER)
def test_runs_at_the_papers_scales_are_the_papers(size: str) -> None:
    hidden, intermediate, heads, layers, steps, learning_rate = PAPER[size]
    tables = {"table-2": ("adam", RANGES), "table-3": ("adamw", dict.fromkeys((0.1, 0.05, 0.01), (2 / 3, 3)))}
    for table, (coupling, ranges) in tables.items():
        runs = runs_of(table, size)
        assert collections.Counter(run.labels["method"] for run in runs) == dict.fromkeys(METHODS.values(), 3)
        for _, config in runs:
            model, data, optimizer = config.model, config.data, config.optimizer
            assert (model.hidden_size, model.intermediate_size, model.num_heads, model.num_layers) == (
                (hidden, intermediate, heads, layers)
            )
            assert (model.vocab_size, model.rope_theta, model.norm_eps, model.init_stddev) == (32_000, 1e4, 1e-6, 0.02)
            assert (model.compute_dtype, data.name, data.sequence_length) == ("bfloat16", "c4/en:3.1.0", 256)
            assert (data.unique_tokens, data.eval_tokens, config.batch_size) == (0, 10_000_000, 512)
            assert (config.steps, optimizer.learning_rate, optimizer.clip_norm) == (steps, learning_rate, 1.0)
            assert (optimizer.warmup_fraction, optimizer.final_fraction) == (0.1, 0.1)
            assert isinstance(optimizer, AdamConfig)
            assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.999, 1e-8)
            if optimizer.method == "none":
                continue
            assert optimizer.coupling == coupling
            assert optimizer.weight_decay in ranges
            if isinstance(optimizer, AlphaDecay):
                assert optimizer.scale_range == ranges[optimizer.weight_decay]
                assert (optimizer.metric, optimizer.fit, optimizer.assign) == ("pl_alpha_hill", "median", "linear")
            if isinstance(optimizer, AlphaDecay | AdaDecay):
                assert optimizer.refresh_every == 500


@pytest.mark.parametrize("size", PAPER)
def test_two_steps_of_the_papers_models_with_one_block(size: str) -> None:
    full = base_config(SCALES[size])
    # One block, few tokens, and a small vocabulary: the widths of the blocks are the paper's.
    config = dataclasses.replace(
        full,
        model=dataclasses.replace(full.model, num_layers=1, vocab_size=256),
        data=dataclasses.replace(full.data, sequence_length=8),
        optimizer=dataclasses.replace(full.optimizer, warmup_fraction=0.0),  # else the first step has rate 0
        batch_size=2,
    )
    mesh = sharding.make_mesh(config)
    graphdef, _ = abstract_model(config.model, Llama)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = TrainState(*first_state(config, optimizer, mesh, Llama))
    step = compile_train_step(config, graphdef, optimizer, state, mesh, Llama.spec_of)
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    losses = []
    for _ in range(2):
        state, metrics = step(state, sharding.to_devices(tokens, mesh, accumulate=1))
        losses.append(float(metrics["train/loss"]))
    decay = state.opt_state[1]
    # Logits of fresh weights have variance 0.02^2 D, half of which adds to ln(256).
    assert losses[0] == pytest.approx(np.log(256) + 0.02**2 * config.model.hidden_size / 2, rel=0.08)
    assert losses[1] < losses[0] - 0.1
    assert (int(decay.count), decay.scores.shape, int(decay.rejected)) == (2, (7,), 0)
    assert float(decay.ratios.min()) == pytest.approx(2 / 3)
    assert float(decay.ratios.max()) == pytest.approx(3)


@pytest.mark.parametrize("scale", SCALES)
def test_every_run_of_every_suite_can_be_built(scale: str) -> None:
    optimizers = set()
    for name, suite in SUITES.items():
        assert suite.about.endswith(".")
        for run in runs_of(name, scale):
            optimizers.add(run.config.optimizer)
            assert len(run.labels) <= 3
    kernel = {"kernel": jax.ShapeDtypeStruct((2, 64, 96), np.float32)}
    kinds = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    shapes = {"layers": dict.fromkeys(kinds, kernel)}
    for settings in optimizers:
        jax.eval_shape(make_optimizer(settings, 10).init, shapes)


def test_a_setting_that_a_method_ignores_makes_no_other_run() -> None:
    base = base_config(SCALES["nano"])
    none = {name_of(run.config) for run in runs_of("table-2", "nano") if run.labels["method"] == "WD=0"}
    assert len(none) == SCALES["nano"].table_seeds
    assert with_optimizer(base, method="uniform", fit="fix_finger") == with_optimizer(base, method="uniform")
    assert with_optimizer(base, method="none", weight_decay=1) == with_optimizer(base, method="none", coupling="adam")
    assert with_optimizer(base, method="alphadecay", fit="fix_finger") != base


def test_suites_share_runs() -> None:
    table = {name_of(run.config) for run in runs_of("table-3", "nano")}
    for suite in ("table-4", "equal-mean", "sweep-adamw"):
        assert table & {name_of(run.config) for run in runs_of(suite, "nano")}, suite
    ablated, seeds = {name_of(run.config) for run in runs_of("figure-4", "nano")}, SCALES["nano"].ablation_seeds
    for suite in ("figure-5", "figure-6", "figure-7", "figure-8", "figure-9"):
        assert len(ablated & {name_of(run.config) for run in runs_of(suite, "nano")}) == 3 * seeds


def test_the_best_of_a_sweep_is_taken_per_method_once_all_of_it_is_made() -> None:
    runs = runs_of("sweep-adamw", "nano")
    losses = np.random.default_rng(0).permutation(len(runs)).astype(float)
    found = {name_of(run.config): outcome(final={"loss": loss}) for run, loss in zip(runs, losses, strict=True)}
    best = best_of_sweep(runs, found)
    for method in METHODS.values():
        of_method = [
            (loss, run.config) for loss, run in zip(losses, runs, strict=True) if run.labels["method"] == method
        ]
        assert best[method] == min(of_method, key=lambda pair: pair[0])[1]
    awd = next(run for run in runs if run.labels["method"] == "AWD")
    found[name_of(best["Uniform"])] = outcome(error="Diverged: train/loss is nan")
    del found[name_of(awd.config)]
    again = best_of_sweep(runs, found)
    assert "AWD" not in again
    assert again["Uniform"] not in (best["Uniform"], None)
    tuned = runs_of("tuned-adamw", "nano", found)
    assert {run.labels["method"] for run in tuned} == {"WD=0", "Uniform", "AdaDecay", "AlphaDecay"}
    assert sorted({run.config.seed for run in tuned}) == list(range(SCALES["nano"].seeds))


def test_no_preset_holds_an_absolute_path() -> None:
    for _, config in PRESETS.values():
        assert isinstance(config, Config)
        assert not any(str(path).startswith("/") for path in (config.workdir, config.data.dir, config.data.tokenizer))
        assert isinstance(config.workdir, pathlib.Path)
