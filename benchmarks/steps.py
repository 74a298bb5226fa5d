"""What a step costs: between refreshes against uniform decay, and with a refresh at every step."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measure import Row, ratio, take_turns
from benchmarks.programs import compile_optimizer_step, compile_train_step, preset, weights
from experiments.config import Config
from experiments.training.optimizers import make_optimizer
from experiments.training.step import TrainState

_IDLE_BUDGET = 1.02
_TURNS_PER_REPEAT = 4


@dataclasses.dataclass
class _Stepper:
    """A compiled step with a state of its own; a call takes one more step."""

    step: jax.stages.Compiled
    state: TrainState
    batch: Any

    def __call__(self) -> None:
        self.state, _ = self.step(self.state, self.batch)
        jax.block_until_ready(self.state)


def nano_steps(repeats: int) -> list[Row]:
    """Times whole train steps, forward and backward, of the nano preset.

    Args:
        repeats: A quarter of the number of turns to time, since a step is short.

    Returns:
        Rows of a step between refreshes, of its control, and of a refresh at each step.
    """
    configs = {
        "uniform": preset("nano", "uniform"),
        "uniform again": preset("nano", "uniform"),
        "idle": preset("nano", "alphadecay", refresh_every=500),
        "refreshing": preset("nano", "alphadecay", refresh_every=1),
    }
    turns = _TURNS_PER_REPEAT * repeats
    seconds = take_turns({name: _train_stepper(config) for name, config in configs.items()}, turns)
    always = ratio("nano run with refresh_every=1 / with no refresh", seconds, "refreshing", "idle", budget=1.15)
    return [
        ratio("nano train step between refreshes / with add_decayed_weights", seconds, "idle", "uniform", _IDLE_BUDGET),
        ratio("control: nano train step with add_decayed_weights / itself", seconds, "uniform again", "uniform"),
        always,
        *(_at_gap(always, gap) for gap in (50, 100, 500)),
    ]


def _at_gap(always: Row, gap: int) -> Row:
    """A whole run that refreshes every `gap` steps, from one that does at every step."""
    assert always.measured is not None
    extra = (always.measured - 1) / gap
    name = f"nano run with refresh_every={gap} / with no refresh"
    return Row(name, 1 + extra, "x", detail=f"1 + {always.measured - 1:.3f} / {gap}, from the row of refresh_every=1")


def optimizer_steps(size: str, repeats: int) -> list[Row]:
    """Times the optimizer's part of a step alone, where the decay's share of the cost is largest.

    Args:
        size: Name of the preset.
        repeats: A quarter of the number of turns to time, since a step is short.

    Returns:
        Rows of a step between refreshes and of its control.
    """
    params = weights(preset(size, "uniform"))
    configs = {
        "uniform": preset(size, "uniform"),
        "uniform again": preset(size, "uniform"),
        "idle": preset(size, "alphadecay", refresh_every=10_000),
    }
    turns = _TURNS_PER_REPEAT * repeats
    seconds = take_turns({name: _optimizer_stepper(config, params) for name, config in configs.items()}, turns)
    alone = f"{size} optimizer alone"
    return [
        ratio(f"{alone} between refreshes / with add_decayed_weights", seconds, "idle", "uniform", _IDLE_BUDGET),
        ratio(f"control: {alone} with add_decayed_weights / itself", seconds, "uniform again", "uniform"),
    ]


def _train_stepper(config: Config) -> _Stepper:
    shape = (1, config.batch_size, config.data.sequence_length)
    step = compile_train_step(config, *shape[1:])
    tokens_AxBxL = jax.random.randint(jax.random.key(0), shape, 0, config.model.vocab_size, jnp.int32)
    return _Stepper(step, _initial_state(config, weights(config)), tokens_AxBxL)


def _optimizer_stepper(config: Config, params: Any) -> _Stepper:
    # The weights of the start stand in for gradients: they have the right shapes and a plausible size.
    return _Stepper(compile_optimizer_step(config, params), _initial_state(config, params), params)


def _initial_state(config: Config, params: Any) -> TrainState:
    # A copy, since the step takes its state's memory.
    params = jax.tree.map(jnp.copy, params)
    return TrainState(params, make_optimizer(config.optimizer, config.steps).init(params))
