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
    direction = oad.scale_by_scion(momentum, oad.sign_ball(normalized=False))
    norm, update_norm = settled(direction, (64, 128))
    assert update_norm == pytest.approx(np.sqrt(64 * 128), rel=1e-6)
    np.testing.assert_allclose(norm, oad.sign_steady_state_norm(RATE, DECAY, momentum, update_norm), rtol=0.02)


@pytest.mark.parametrize(
    ("shape", "momentum", "factor"),
    [
        ((32, 32), 1.0, 1.0),
        ((32, 32), 0.5, 0.906),
        ((32, 32), 0.1, 0.877),
        ((32, 32), 0.05, 0.877),
        ((32, 96), 0.5, 0.972),
        ((32, 96), 0.05, 0.967),
    ],
)
def test_measured_factors_of_orthogonalized_updates(shape: tuple[int, int], momentum: float, factor: float) -> None:
    """The factors are of longer runs with three seeds, whose standard deviation was 0.002 at most."""
    ball = oad.spectral_norm_ball(axes=STACK)
    direction = oad.scale_by_scion(momentum, ball, "polar_express", "float32")
    norm, update_norm = settled(direction, (4, *shape), rate=2.5 * RATE, updates=1000)
    predicted = oad.finite_step_norm(2.5 * RATE, DECAY, momentum, update_norm)
    np.testing.assert_allclose(norm / predicted, factor, rtol=0.02)


def test_finite_steps_are_a_sum_in_float64() -> None:
    """Against the recurrence of ``E||w||^2``, summed term by term."""
    rate, decay, momentum = 0.3, 0.5, 0.2
    kept, q = 1 - momentum, 1 - rate * decay
    lags = np.arange(2000)
    # E||w||^2 = gamma^2 sum_ij q^i q^j r^|i - j|
    pairs = q ** lags[:, None] * q**lags * kept ** np.abs(lags[:, None] - lags)
    with jax.enable_x64(True):
        np.testing.assert_allclose(oad.finite_step_norm(rate, decay, momentum), rate * np.sqrt(pairs.sum()), rtol=1e-10)
        signs = 2 / np.pi * np.arcsin(kept ** np.abs(lags[:, None] - lags))
        pairs = q ** lags[:, None] * q**lags * signs
        wanted = rate * np.sqrt(pairs.sum())
        np.testing.assert_allclose(oad.sign_steady_state_norm(rate, decay, momentum), wanted, rtol=1e-10)
        small = 1e-9
        ratio = oad.finite_step_norm(small, decay, momentum) / oad.steady_state_norm(small, decay, momentum)
        np.testing.assert_allclose(ratio, 1, rtol=1e-8)


def test_effective_learning_rate_is_the_drift_of_a_random_walk() -> None:
    """Of running means with norm 1, a long sum is as long as one of independent steps of that rate."""
    momentum, length = 0.1, 4000
    correlations = (1 - momentum) ** np.abs(np.arange(length)[:, None] - np.arange(length))
    np.testing.assert_allclose(
        oad.effective_learning_rate(0.5, momentum), 0.5 * np.sqrt(correlations.sum() / length), rtol=2e-3
    )


def test_no_learning_rate_and_no_decay() -> None:
    for norm in (oad.steady_state_norm, oad.finite_step_norm, oad.sign_steady_state_norm):
        assert norm(0.0, 0.1) == 0
        assert norm(0.1, 0.0) == np.inf
        assert norm(jnp.array([0.1, 0.2]), 0.1, 0.5).shape == (2,)
        with pytest.raises(ValueError, match=r"momentum must be in \(0, 1\].*got 1.5"):
            norm(0.1, 0.1, 1.5)


@pytest.mark.parametrize("norm", [oad.steady_state_norm, oad.finite_step_norm, oad.sign_steady_state_norm])
def test_a_momentum_is_above_zero_and_rates_are_not_below(norm: Any) -> None:
    for momentum in (0, -0.5, 1.01):
        with pytest.raises(ValueError, match=rf"{norm.__name__}: momentum must be in \(0, 1\].*got {momentum}"):
            norm(0.1, 0.1, momentum)
    for name, rates in (("learning_rate", (-0.1, 0.1)), ("weight_decay", (0.1, -0.1))):
        with pytest.raises(ValueError, match=f"{norm.__name__}: {name} "):
            norm(*rates)


def test_norms_of_one_step_by_hand() -> None:
    """Without momentum, of a rate of 1/2 and a decay of 1: q = 1/2, so ``||w||^2 = (1/4) ||u||^2 / (3/4)``."""
    for norm in (oad.finite_step_norm, oad.sign_steady_state_norm):
        np.testing.assert_allclose(norm(0.5, 1.0), 1 / np.sqrt(3), rtol=1e-6)
        np.testing.assert_allclose(norm(0.5, 1.0, update_norm=6.0), 6 / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(oad.steady_state_norm(0.5, 1.0, update_norm=6.0), 3, rtol=1e-6)
    np.testing.assert_allclose(oad.steady_state_norm(0.5, 1.0, 0.5), 0.5 * np.sqrt(3), rtol=1e-6)
    # Of momentum 1/2, kept is 1/4 and the factor (5/4) / (3/4).
    np.testing.assert_allclose(oad.finite_step_norm(0.5, 1.0, 0.5), np.sqrt(5 / 9), rtol=1e-6)
    np.testing.assert_allclose(oad.effective_learning_rate(0.5, 0.4), 1, rtol=1e-6)
