"""The decay's part of a step over the gradient's, against NumPy."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import AlphaDecay, Awd, ByType, Method, NoDecay, Scion, Uniform
from experiments.training.decays.relative import relative_decays
from experiments.training.optimizers import make_optimizer

KINDS = ("up_proj", "k_proj", "q_proj")


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 3)
    kernels = [
        {"kernel": size * jax.random.normal(key, (2, 64, 64))} for size, key in zip((3.0, 2.0, 1.0), keys, strict=True)
    ]
    return {"layers": {"mlp": {"up_proj": kernels[0]}, "attn": {"k_proj": kernels[1], "q_proj": kernels[2]}}}


def measured(config: Method, params: dict[str, Any], gradient: float) -> dict[str, float]:
    """After one update by equal gradients."""
    optimizer = make_optimizer(config, 4)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params)
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    return relative_decays(config, params, state)


def rms(params: dict[str, Any]) -> dict[str, float]:
    leaves = {"up_proj": params["layers"]["mlp"]["up_proj"], **params["layers"]["attn"]}
    return {kind: float(np.sqrt(np.square(np.float64(leaf["kernel"])).mean())) for kind, leaf in leaves.items()}


def test_coupled_decay_is_held_against_the_gradient(params: dict[str, Any]) -> None:
    config, sizes = Uniform(weight_decay=1e-3, clip_norm=0.0), rms(params)
    for kind in KINDS:
        decay, gradient = 1e-3 * sizes[kind], 0.5
        found = measured(config, params, gradient)[kind]
        assert found == pytest.approx(decay / np.hypot(gradient, decay), rel=1e-3)
        assert measured(config, params, 0.0)[kind] == pytest.approx(1, rel=1e-4)


def test_decoupled_decay_is_held_against_a_step_of_adam(params: dict[str, Any]) -> None:
    sizes = rms(params)
    fixed = ByType(coupling="adamw", weight_decay=0.1, ratios=(("q_proj", 3.0), ("up_proj", 0.5)))
    found = measured(fixed, params, 1.0)
    for kind, ratio in (("q_proj", 3.0), ("up_proj", 0.5), ("k_proj", 1.0)):
        assert found[kind] == pytest.approx(0.1 * ratio * sizes[kind], rel=1e-6)
    shared = measured(AlphaDecay(coupling="adamw", weight_decay=0.1, metric="frobenius_norm"), params, 1.0)
    ratios = [shared[kind] / (0.1 * sizes[kind]) for kind in KINDS]
    assert max(ratios) > 2.9
    assert min(ratios) < 0.7


def test_what_has_no_constant_rate_times_a_ratio_has_no_relative_decay(params: dict[str, Any]) -> None:
    assert measured(Awd(weight_decay=0.1), params, 1.0) == {}
    assert measured(Scion(), params, 1.0) == {}
    assert measured(AlphaDecay(coupling="adamw", corrected=True, metric="frobenius_norm"), params, 1.0) == {}
    for cautious in (ByType(coupling="adamw", cautious=True), AlphaDecay(coupling="adamw", cautious=True)):
        assert measured(cautious, params, 1.0) == {}
    assert measured(NoDecay(), params, 1.0) == dict.fromkeys(KINDS, 0.0)
