"""The corrected coefficient against closed forms and recurrences in float64, and the optimizers that take it."""
# SPDX-License-Identifier: Apache-2.0

import decimal
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

STEPS = 200
SCHEDULES: dict[str, tuple[optax.Schedule, Callable[[int], float]]] = {
    "cosine": (optax.cosine_decay_schedule(0.03, STEPS), lambda t: 0.03 * (1 + math.cos(math.pi * t / STEPS)) / 2),
    "linear": (optax.linear_schedule(0.03, 0.0, STEPS), lambda t: 0.03 * (1 - t / STEPS)),
    "warm-up": (
        optax.warmup_cosine_decay_schedule(0.0, 0.03, 50, STEPS),
        lambda t: 0.03 * (t / 50 if t < 50 else (1 + math.cos(math.pi * (t - 50) / (STEPS - 50))) / 2),
    ),
    "tiny": (optax.linear_schedule(3e-12, 0.0, STEPS), lambda t: 3e-12 * (1 - t / STEPS)),
}


def exact_form(rate: float, peak: float, decay: float) -> float:
    """The published formula as it stands, in 50 digits: in 16, its difference of near numbers loses half of them."""
    with decimal.localcontext(prec=50):
        gamma, gamma_0, lam_0 = map(decimal.Decimal, (rate, peak, decay))
        c = gamma_0 / lam_0 / (2 - gamma_0 * lam_0)
        return float((1 - (1 - gamma**2 / c).sqrt()) / gamma) if rate > 0 else 0.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_agrees_with_closed_forms_in_float64(name: str) -> None:
    schedule, rate = SCHEDULES[name]
    peak = max(rate(t) for t in range(STEPS))
    with jax.enable_x64(True):
        plain, exact = oad.corrected(0.5, schedule), oad.corrected(0.5, schedule, exact=True)
        counts = jnp.arange(STEPS + 1)
        found = np.asarray(jax.vmap(plain)(counts)), np.asarray(jax.jit(jax.vmap(exact))(counts))
    assert found[0].dtype == np.float64
    np.testing.assert_allclose(found[0], [0.5 * rate(t) / peak for t in range(STEPS + 1)], rtol=1e-12, atol=1e-15)
    wanted = [exact_form(rate(t), peak, 0.5) for t in range(STEPS + 1)]
    np.testing.assert_allclose(found[1], wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("rate", [0.0, 1e-12, 3e-4, 0.7, np.float32(0.3), jnp.float32(0.3)])
def test_constant_learning_rate_leaves_the_decay(rate: Any, exact: bool) -> None:
    assert oad.corrected(0.1, rate, exact)(5) == 0.1


@pytest.mark.parametrize("rate", [1e-12, 3e-4, 0.7])
def test_constant_schedule_leaves_the_decay(rate: float) -> None:
    assert oad.corrected(0.1, optax.constant_schedule(rate))(5) == jnp.float32(0.1)
    np.testing.assert_allclose(oad.corrected(0.1, optax.constant_schedule(rate), exact=True)(5), 0.1, rtol=2e-7)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("schedule", [optax.constant_schedule(0.0), optax.linear_schedule(-0.1, 0.0, 5)])
def test_no_learning_rate_is_no_decay(schedule: optax.Schedule, exact: bool) -> None:
    assert [float(oad.corrected(0.1, schedule, exact)(t)) for t in (0, 3, 10)] == [0, 0, 0]


@pytest.mark.parametrize("exact", [False, True])
def test_zero_decay_is_zero(exact: bool) -> None:
    assert oad.corrected(0.0, SCHEDULES["cosine"][0], exact)(7) == 0


def test_exact_form_holds_up_to_where_a_step_takes_the_whole_weight() -> None:
    """A rate of 0.1 in float32 is above 0.1, and its product with 10 above 1."""
    schedule = optax.linear_schedule(0.1, 0.0, 2)
    found = oad.corrected(10.0, schedule, exact=True)(1)
    np.testing.assert_allclose(found, exact_form(0.05, 0.1, 10.0), rtol=1e-5)


def test_peak_can_be_given() -> None:
    schedule = optax.linear_schedule(0.0, 1.0, 2**22)
    np.testing.assert_allclose(oad.corrected(0.1, schedule, peak=1.0)(2**21), 0.05, rtol=1e-6)
    np.testing.assert_allclose(oad.corrected(0.1, jnp.float32(0.25), peak=1.0)(0), 0.025, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -0.1}, "weight_decay must be finite and at least 0, got -0.1"),
        ({"weight_decay": optax.constant_schedule(0.1)}, "weight_decay must be a scalar"),
        ({"learning_rate": math.nan}, "learning_rate must be finite"),
        ({"learning_rate": optax.constant_schedule(math.nan)}, "learning_rate is nan"),
        ({"learning_rate": optax.linear_schedule(0, 1, 2**22)}, "still rises after 1048576 updates"),
        ({"peak": 0.0}, "peak must be finite and positive"),
        ({"peak": lambda count: 1.0}, "peak must be a number, the largest learning rate; got a schedule"),
        ({"peak": 3.0, "weight_decay": 0.5, "exact": True}, r"at most 1, got 3.0 \* 0.5"),
        ({"weight_decay": 2.0, "learning_rate": 1.0, "exact": True}, r"at most 1, got 1.0 \* 2.0"),
        ({"weight_decay": 2.0, "learning_rate": jnp.float32(1.0), "exact": True}, "at most 1, got Array"),
        ({"learning_rate": -0.1}, "learning_rate must be finite and at least 0, got -0.1"),
        ({"learning_rate": jnp.float32(-0.1)}, "learning_rate must be finite and at least 0, got Array"),
        ({"learning_rate": optax.constant_schedule(-0.1)}, "learning_rate is negative at every update, at most -0.1"),
        ({"learning_rate": None}, "learning_rate must be a number or an optax schedule, got None"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oad.corrected(**{"weight_decay": 0.1, "learning_rate": optax.constant_schedule(0.1)} | arguments)


def largest_drift(coefficient: Callable[[Any], Any], rates: Any, momentum: float) -> float:
    """How far the root of ``E||w||^2`` goes from its start, relative to it, in float64.

    From the steady state of the first rate, with updates of norm 1 whose correlations are ``(1 - momentum)^k``.
    """
    decays = np.asarray(jax.vmap(coefficient)(jnp.arange(len(rates))))
    kept = 1 - momentum
    q = 1 - rates[0] * decays[0]
    square = start = rates[0] ** 2 / (1 - q**2) * (1 + q * kept) / (1 - q * kept)
    cross = -kept * rates[0] / (1 - q * kept)
    drifts = []
    for rate, decay in zip(rates, decays, strict=True):
        q = 1 - rate * decay
        square, cross = q**2 * square - 2 * q * rate * cross + rate**2, kept * (q * cross - rate)
        drifts.append(math.sqrt(square / start) - 1)
    return max(drifts, key=abs)


@pytest.mark.parametrize(
    ("momentum", "plain", "exact"),
    [(1.0, -3.98e-4, 0.0), (0.5, 9.35e-4, 1.33e-3), (0.1, 9.03e-3, 9.43e-3), (0.05, 1.89e-2, 1.93e-2)],
)
def test_drift_of_the_weight_norm(momentum: float, plain: float, exact: float) -> None:
    """At ``peak * weight_decay`` of 2e-3, over a cosine of 20 of its time constants; the numbers are in the docs."""
    with jax.enable_x64(True):
        schedule = optax.cosine_decay_schedule(0.1, 10_000)
        rates = np.asarray(jax.vmap(schedule)(jnp.arange(10_000)))
        drift = functools.partial(largest_drift, rates=rates, momentum=momentum)
        np.testing.assert_allclose(drift(oad.corrected(0.02, schedule)), plain, rtol=5e-3)
        np.testing.assert_allclose(drift(oad.corrected(0.02, schedule, exact=True)), exact, rtol=5e-3, atol=1e-12)
        assert drift(lambda count: 0.02) < -0.5


PARAMS = {"block": {"up": jnp.full((4, 6), 0.5), "norm": jnp.ones(6)}, "lm_head": {"kernel": jnp.ones((6, 5))}}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def shrinkage(optimizer: optax.GradientTransformation, steps: int = 3) -> Any:
    """By what share of itself each leaf shrinks at each of the first updates, with gradients of zero."""
    params, state, shares = PARAMS, optimizer.init(PARAMS), []
    for _ in range(steps):
        updates, state = optimizer.update(ZEROS, state, params)
        shares.append(jax.tree.map(lambda u, p: -float((u / p).mean()), updates, params))
    return jax.tree.map(lambda *leaves: leaves, *shares)


@pytest.mark.parametrize("correct", [None, True, {"block": True, "lm_head": False}])
def test_adamc_corrects_hidden_layers(correct: Any) -> None:
    schedule = optax.linear_schedule(0.1, 0.0, 4)
    shares = shrinkage(oad.adamc(schedule, weight_decay=0.5, correct=correct))
    corrected, plain = (tuple(0.1 * 0.5 * (1 - t / 4) ** power for t in range(3)) for power in (2, 1))
    np.testing.assert_allclose(shares["block"]["up"], corrected, rtol=1e-6)
    np.testing.assert_allclose(shares["block"]["norm"], corrected, rtol=1e-6)
    np.testing.assert_allclose(shares["lm_head"]["kernel"], corrected if correct is True else plain, rtol=1e-6)


def test_adamc_knows_output_layers_by_dotted_names() -> None:
    params = {"model.up.weight": jnp.ones((4, 6)), "lm_head.weight": jnp.ones((6, 5))}
    optimizer = oad.adamc(optax.linear_schedule(0.1, 0.0, 4), weight_decay=0.5)
    state, zeros = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    for share in (1.0, 0.75):
        updates, state = optimizer.update(zeros, state, params)
        np.testing.assert_allclose(updates["model.up.weight"], -0.05 * share**2, rtol=1e-6)
        np.testing.assert_allclose(updates["lm_head.weight"], -0.05 * share, rtol=1e-6)


def test_adamc_decays_what_the_mask_says() -> None:
    shares = shrinkage(oad.adamc(0.1, weight_decay=0.5, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params)))
    assert shares["block"]["norm"] == (0, 0, 0)
    np.testing.assert_allclose(shares["block"]["up"], 0.05, rtol=1e-6)


def test_constant_rate_makes_adamc_adamw() -> None:
    gradients = jax.tree.map(jnp.cos, PARAMS)
    ours, theirs = oad.adamc(0.1, weight_decay=0.5), optax.adamw(0.1, weight_decay=0.5)
    found, _ = ours.update(gradients, ours.init(PARAMS), PARAMS)
    wanted, _ = theirs.update(gradients, theirs.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_ratios_multiply_the_corrected_coefficient() -> None:
    tripled = functools.partial(
        oad.alphadecay, modules=oad.block_matrices(4), metric=oad.frobenius_norm(), assign=lambda scores: 3 + 0 * scores
    )
    shares = shrinkage(oad.adamc(optax.linear_schedule(0.1, 0.0, 4), weight_decay=0.5, decay=tripled))
    wanted = np.array([0.1 * 0.5 * (1 - t / 4) ** 2 for t in range(3)])
    np.testing.assert_allclose(shares["block"]["up"], 3 * wanted, rtol=1e-6)
    np.testing.assert_allclose(shares["block"]["norm"], wanted, rtol=1e-6)


UNIFORM = functools.partial(
    oad.alphadecay, metric=oad.frobenius_norm(), assign=jnp.ones_like, modules=oad.block_matrices(4)
)


@pytest.mark.parametrize("decayed", [UNIFORM, oad.adadecay, optax.add_decayed_weights])
def test_goes_wherever_a_weight_decay_goes(decayed: Any) -> None:
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    shares = shrinkage(optax.chain(decayed(oad.corrected(0.5, schedule)), optax.scale(-1.0)))
    np.testing.assert_allclose(shares["block"]["up"], [0.5, 0.375, 0.25], rtol=1e-6)


def test_adamw_and_awd_take_it() -> None:
    schedule = optax.linear_schedule(0.1, 0.0, 4)
    options: dict[str, Any] = {"metric": oad.frobenius_norm(), "modules": jax.tree.map(lambda _: False, PARAMS)}
    shares = shrinkage(oad.adamw(schedule, weight_decay=0.5, corrected=True, **options))
    wanted = [0.1 * 0.5 * (1 - t / 4) ** 2 for t in range(3)]
    np.testing.assert_allclose(shares["lm_head"]["kernel"], wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="weight_decay must be a scalar"):
        oad.adamw(schedule, weight_decay=schedule, corrected=True)

    follows = oad.awd(oad.corrected(0.5, schedule), momentum=0.0)
    updates, state = {"w": jnp.array([3.0, 4.0])}, follows.init({"w": jnp.ones(2)})
    for share in (1.0, 0.75, 0.5):
        found, state = follows.update(updates, state, {"w": jnp.array([1.0, 0.0])})
        np.testing.assert_allclose(found["w"], [3 + 0.5 * share * 5, 4], rtol=1e-6)


def test_injected_learning_rate_is_corrected_where_the_peak_is_given() -> None:
    schedule = optax.linear_schedule(0.1, 0.0, 4)
    injected = optax.inject_hyperparams(oad.adamc, static_args=("decay", "correct", "mask"))
    shares = shrinkage(injected(schedule, weight_decay=0.5, peak=0.1))
    np.testing.assert_allclose(shares["block"]["up"], [0.05, 0.05 * 0.75**2, 0.05 * 0.25], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 10.0])
def test_a_rate_above_the_peak_takes_no_more_than_the_whole_weight(decay: float) -> None:
    """Beyond `sqrt(c)` the exact form has no real root; up to it, it is the formula."""
    limit = math.sqrt(0.1 / decay / (2 - 0.1 * decay))
    for rate in (0.1, 0.9 * limit, 1.1 * limit, 7.0):
        taken = rate * float(oad.corrected(decay, rate, exact=True, peak=0.1)(0))
        expected = 1.0 if rate > limit else rate * exact_form(rate, 0.1, decay)
        assert taken == pytest.approx(expected, rel=1e-5), rate


def test_only_the_exact_form_bounds_the_product_of_peak_and_decay() -> None:
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    assert [float(oad.corrected(3.0, schedule)(count)) for count in (0, 1, 4)] == [3.0, 2.25, 0.0]
    assert oad.corrected(3.0, 1.0)(0) == 3.0
    # By hand, of a peak and a decay of 1: c = 1, and at a rate of 0.6 the coefficient (1 - 0.8) / 0.6.
    np.testing.assert_allclose(oad.corrected(1.0, 0.6, exact=True, peak=1.0)(0), 1 / 3, rtol=1e-6)


def test_a_schedule_may_reach_its_peak_just_before_the_last_update_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optax_alphadecay.correction.corrected._SEARCHED", 10)
    rates = jnp.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    coefficient = oad.corrected(0.5, lambda count: rates[jnp.asarray(count)])
    assert float(coefficient(8)) == 0.5 and float(coefficient(0)) == pytest.approx(0.5 / 9)
    with pytest.raises(ValueError, match="still rises after 10 updates"):
        oad.corrected(0.5, lambda count: 1.0 + count)


def test_a_traced_product_above_one_counts_as_one() -> None:
    """It cannot be refused; beyond 2 the formula's coefficient would be negative, and weights would grow."""

    @jax.jit
    def taken(decay: jax.Array, rate: jax.Array, peak: jax.Array) -> jax.Array:
        return rate * oad.corrected(decay, rate, exact=True, peak=peak)(0)

    for decay in (1000.0, 1500.0, 2500.0, 1e9):
        assert float(taken(jnp.float32(decay), jnp.float32(1e-3), jnp.float32(1e-3))) == pytest.approx(1, rel=1e-5)
    assert float(taken(jnp.float32(300), jnp.float32(5e-4), jnp.float32(1e-3))) == pytest.approx(
        5e-4 * exact_form(5e-4, 1e-3, 300.0), rel=1e-5
    )
    assert float(taken(jnp.float32(1), jnp.float32(0), jnp.float32(0))) == 0
