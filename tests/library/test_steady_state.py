"""Norms that weights settle at, simulated with independent Gaussian gradients, against the formulas."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad

MOMENTA = (1.0, 0.5, 0.1, 0.05)
RATE, DECAY = 0.02, 0.1  # their product is 2e-3
STACK = MuonDimensionNumbers(1, 2)


def settled(direction: Any, shape: tuple[int, ...], rate: float = RATE, updates: int = 2500) -> tuple[float, float]:
    """Norm of the weights over the second half of a run from 0, and norm of the updates, as roots of mean squares."""
    optimizer = optax.chain(direction, optax.add_decayed_weights(DECAY), optax.scale_by_learning_rate(rate))

    def step(carry: Any, key: jax.Array) -> Any:
        weights, state = carry
        point, _ = direction.update(gradient := jax.random.normal(key, shape), state[0])
        updates, state = optimizer.update(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
        return (weights, state), (jnp.sum(weights**2), jnp.sum(point**2))

    start = jnp.zeros(shape)
    keys = jax.random.split(jax.random.key(0), updates)
    _, squares = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))((start, optimizer.init(start)))
    weight_norm, update_norm = (float(jnp.sqrt(values[updates // 2 :].mean())) for values in squares)
    return weight_norm, update_norm


def mean_over_norm() -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: updates / jnp.linalg.norm(updates))


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("is_normalized", [False, True])
def test_linear_in_momentum(momentum: float, is_normalized: bool) -> None:
    mean = optax.ema(1 - momentum, debias=False)
    direction = optax.chain(mean, mean_over_norm()) if is_normalized else mean
    norm, update_norm = settled(direction, (8192,))
    np.testing.assert_allclose(norm, oad.finite_step_norm(RATE, DECAY, momentum, update_norm), rtol=0.02)
    if momentum >= 0.1:
        np.testing.assert_allclose(norm, oad.steady_state_norm(RATE, DECAY, momentum, update_norm), rtol=0.02)


@pytest.mark.parametrize("momentum", MOMENTA)
def test_signs(momentum: float) -> None:
    direction = oad.scale_by_scion(momentum, oad.bias_ball() if False else oad.sign_ball(normalized=False))
    norm, update_norm = settled(direction, (64, 128))
    assert update_norm == pytest.approx(np.sqrt(64 * 128), rel=1e-6)
    np.testing.assert_allclose(norm, oad.sign_steady_state_norm(RATE, DECAY, momentum, update_norm), rtol=0.02)


@pytest.mark.parametrize(
    ("shape", "momentum", "factor"),
    [((32, 32), 1.0, 1.0), ((32, 32), 0.5, 1.0), ((32, 32), 0.1, 1.0), ((32, 96), 0.5, 1.0), ((32, 96), 0.1, 1.0)],
)
def test_measured_factors_of_orthogonalized_updates(shape: tuple[int, int], momentum: float, factor: float) -> None:
    ball = oad.spectral_norm_ball(axes=STACK)
    direction = oad.scale_by_scion(momentum, ball, "polar_express", "float32")
    norm, update_norm = settled(direction, (4, *shape), rate=5 * RATE, updates=800)
    found = norm / oad.finite_step_norm(5 * RATE, DECAY, momentum, update_norm)
    print(shape, momentum, found)
    np.testing.assert_allclose(found, factor, atol=0.03)
