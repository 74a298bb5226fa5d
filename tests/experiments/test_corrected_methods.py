"""AdamC, Scion and ScionC of the experiments: what is corrected, and how long steps are."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import AlphaDecay, Method, with_settings
from experiments.training.optimizers import make_optimizer
from tests.experiments.blocks import block_params

STEPS = 40
BASE = AlphaDecay(learning_rate=0.01, weight_decay=0.1, refresh_every=3)


@pytest.fixture
def params() -> dict[str, Any]:
    return block_params()


def shrinkage(config: Method, params: dict[str, Any], step: int) -> dict[str, float]:
    """What share of themselves weights lose at a step, with gradients of zero."""
    optimizer = make_optimizer(config, STEPS)
    update = jax.jit(optimizer.update)
    state, zeros = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(step):
        updates, state = update(zeros, state, params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): -float(jnp.median(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.tree.map(jnp.divide, updates, params))
    }


@pytest.mark.parametrize(
    ("config", "corrected", "plain"),
    [
        (with_settings(BASE, "adamc"), ("layers/mlp/up_proj/kernel", "embed/embedding"), ("lm_head/kernel",)),
        (with_settings(BASE, "adamc", correct_output=True), ("embed/embedding", "lm_head/kernel"), ()),
        (dataclasses.replace(BASE, coupling="adamw", corrected=True), ("embed/embedding",), ("lm_head/kernel",)),
        (with_settings(BASE, "scion"), (), ("layers/mlp/up_proj/kernel", "embed/embedding")),
        (with_settings(BASE, "scionc"), ("layers/mlp/up_proj/kernel",), ("embed/embedding", "lm_head/kernel")),
    ],
)
def test_what_is_corrected(
    config: Method, corrected: tuple[str, ...], plain: tuple[str, ...], params: dict[str, Any]
) -> None:
    config = with_settings(config, warmup_fraction=0.0, final_fraction=0.0)
    step = 11
    share = (1 + np.cos(np.pi * (step - 1) / STEPS)) / 2
    found = shrinkage(config, params, step)
    for names, power in ((corrected, 2), (plain, 1)):
        expected = 0.01 * config.weight_decay * share**power
        np.testing.assert_allclose([found[name] for name in names], [expected] * len(names), rtol=1e-5)


def test_scion_steps_are_of_one_length_in_each_norm(params: dict[str, Any]) -> None:
    settings = {"warmup_fraction": 0.0, "weight_decay": 0.0, "orthogonalize": "svd", "dtype": "float32"}
    config = with_settings(BASE, "scion", output_radius=16.0, **settings)
    optimizer = make_optimizer(config, STEPS)
    updates, _ = optimizer.update(jax.tree.map(jnp.sin, params), optimizer.init(params), params)
    moved = jax.tree.map(lambda update: np.abs(np.asarray(update, np.float64)), updates)
    up = np.asarray(updates["layers"]["mlp"]["up_proj"]["kernel"], np.float64)
    values = np.linalg.svd(up, compute_uv=False)
    np.testing.assert_allclose(values, 0.01 * np.sqrt(96 / 64), rtol=1e-3)
    np.testing.assert_allclose(moved["embed"]["embedding"], 0.01 * 16 / 64, rtol=1e-3)
    squares = np.square(moved["layers"]["input_norm"]["scale"]).mean(axis=1)
    np.testing.assert_allclose(np.sqrt(squares), 0.01, rtol=1e-4)
