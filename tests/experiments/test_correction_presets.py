"""The presets of corrected decay at the papers' scale build, and take two steps at reduced depth."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import vision_config
from experiments.methods import with_settings
from experiments.models.common import num_parameters
from experiments.models.llama import Llama
from experiments.models.vit import Vit
from experiments.presets import PRESETS
from experiments.training.optimizers import make_optimizer
from experiments.training.step import TrainState, make_train_step

PUBLISHED = {"nanogpt": (50 * 2**-12, 1 / 50), "vit-s16": (1e-3, 0.1)}


def preset(name: str) -> Any:
    return (PRESETS if name in PRESETS else vision_config.PRESETS)[name].config


def network(name: str) -> Any:
    return Llama if name in PRESETS else Vit


@pytest.mark.parametrize(("name", "millions"), [("nanogpt", 162), ("vit-s16", 22)])
def test_sizes_and_rates(name: str, millions: float) -> None:
    config = preset(name)
    model = nnx.eval_shape(lambda: network(name)(config.model, rngs=nnx.Rngs(0)))
    assert num_parameters(nnx.state(model)) / 1e6 == pytest.approx(millions, rel=0.01)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == PUBLISHED[name]


def test_rates_of_the_sign_group_are_the_published_ones() -> None:
    """3000 * 2^-12 and 1 / 3000 in the sign norm: a step of 60 times the matrices', and the same decay a step."""
    optimizer = preset("nanogpt").optimizer
    assert optimizer.learning_rate * optimizer.output_radius == 3000 * 2**-12
    assert optimizer.learning_rate * optimizer.weight_decay == pytest.approx(2**-12)
    assert (optimizer.momentum, optimizer.clip_norm, optimizer.warmup_fraction) == (0.1, 0.0, 0.0)


@pytest.mark.parametrize(("name", "method"), [("nanogpt", "scionc"), ("vit-s16", "adamc"), ("vit-s16", "scionc")])
def test_two_steps_at_reduced_depth(name: str, method: str) -> None:
    config, key = preset(name), jax.random.key(0)
    # The first update of a warm-up has the rate 0, which would show nothing.
    settings = {"learning_rate": 0.01, "clip_norm": 0.0} if method != config.optimizer.method else {}
    optimizer_config = with_settings(config.optimizer, method, warmup_fraction=0.0, **settings)
    if name in PRESETS:
        model = dataclasses.replace(config.model, num_layers=1, vocab_size=256)
        batch: Any = jax.random.randint(key, (1, 2, 16), 0, 256)
    else:
        model = dataclasses.replace(config.model, num_layers=1, image_size=32)
        batch = vision_config.Batch(jnp.full((1, 2, 32, 32, 3), 100, jnp.uint8), jnp.array([[1, 2]]))
    graphdef, weights = nnx.split(network(name)(model, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(weights)
    optimizer = make_optimizer(optimizer_config, config.steps)
    before = jax.device_get(params)
    state = TrainState(params, optimizer.init(params))
    step = make_train_step(graphdef, optimizer, network(name).spec_of)
    losses = []
    for _ in range(2):
        state, metrics = step(state, batch)
        losses.append(float(metrics["train/loss"]))
    assert losses[0] == pytest.approx(np.log(256 if name in PRESETS else 1000), rel=0.1)
    assert np.isfinite(losses[1])
    moved = jax.tree.map(lambda new, old: float(np.abs(np.asarray(new) - old).max()), state.params, before)
    assert all(value > 0 for value in jax.tree.leaves(moved["layers"]))
