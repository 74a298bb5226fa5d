"""AWD and AdaDecay against their formulas in float64 NumPy."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad


def trees(steps: int) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    shapes = {"w": (5, 7), "b": (7,)}

    def draw() -> dict[str, np.ndarray]:
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    return draw(), [draw() for _ in range(steps)]


def norm(tree: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in tree.values())))


def test_awd_follows_the_running_ratio_of_norms() -> None:
    params, gradients = trees(5)
    optimizer = oad.awd(0.3)
    state, rate = optimizer.init(params), 0.0
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        rate = 0.1 * rate + 0.9 * 0.3 * norm(gradient) / (norm(params) + 1e-8)
        for name in params:
            np.testing.assert_allclose(updates[name], gradient[name] + rate * params[name], rtol=2e-6, atol=1e-7)


def test_awd_norms_are_those_of_the_decayed_leaves() -> None:
    params, (gradient,) = trees(1)
    optimizer = oad.awd(0.3, mask={"w": True, "b": False})
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    rate = 0.9 * 0.3 * np.linalg.norm(gradient["w"]) / np.linalg.norm(params["w"])
    assert float(state.rate) == pytest.approx(rate, rel=1e-6)
    np.testing.assert_array_equal(updates["b"], gradient["b"])


def test_awd_survives_a_gradient_that_is_not_finite() -> None:
    params, (gradient,) = trees(1)
    optimizer = oad.awd(0.3)
    _, good = optimizer.update(gradient, optimizer.init(params), params)
    _, state = optimizer.update(gradient | {"b": np.full(7, np.nan, np.float32)}, good, params)
    assert state.rate == good.rate


def test_awd_follows_a_schedule() -> None:
    params, gradients = trees(3)
    optimizer = oad.awd(lambda count: 0.1 * (count + 1), momentum=0.75)
    state, rate = optimizer.init(params), 0.0
    for step, gradient in enumerate(gradients):
        _, state = optimizer.update(gradient, state, params)
        rate = 0.75 * rate + 0.25 * 0.1 * (step + 1) * norm(gradient) / norm(params)
        assert float(state.rate) == pytest.approx(rate, rel=1e-5)
        assert state.count == step + 1


def test_awd_of_weights_that_are_zero() -> None:
    """The formula's 1e-8 in the denominator."""
    params = {"w": jnp.zeros(4)}
    optimizer = oad.awd(0.5, momentum=0)
    _, state = optimizer.update({"w": jnp.full(4, 3.0)}, optimizer.init(params), params)
    assert float(state.rate) == pytest.approx(0.5 * 6 / 1e-8, rel=1e-5)


def test_leaves_without_an_update_or_a_gradient_are_left() -> None:
    params = {"u": jnp.ones(2), "v": jnp.ones(2), "w": jnp.ones(2)}
    updates, gradients = params | {"u": None}, params | {"u": None, "v": None}
    optimizer = oad.awd(0.5, momentum=0)
    found, state = optimizer.update(updates, optimizer.init(params), params, gradients=gradients)
    rate = 0.5 * np.sqrt(2 / 6)
    assert float(state.rate) == pytest.approx(rate, rel=1e-6) and found["u"] is None
    np.testing.assert_allclose(found["v"], 1 + rate, rtol=1e-6)
    adadecay = oad.adadecay(0.5, mask={"u": True, "v": True, "w": False})
    found, state = adadecay.update(updates, adadecay.init(params), params, gradients=gradients)
    assert found["u"] is None and state.count == 1
    np.testing.assert_array_equal(found["v"], 1)
    np.testing.assert_array_equal(found["w"], 1)


def test_adadecay_of_gradients_below_its_bound() -> None:
    """A standard deviation of 1e-9 counts as 1e-8."""
    params = {"w": jnp.ones(2)}
    optimizer = oad.adadecay(1.0)
    updates, _ = optimizer.update({"w": jnp.array([1e-9, -3e-9])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], 2 / (1 + np.exp([0.4, -0.4])), rtol=1e-5)


def test_modulewise_adadecay_passes_its_arguments_on() -> None:
    params = {"a": jnp.ones((2, 3)), "b": -jnp.ones((2, 3)), "c": jnp.ones((2, 3))}
    options: dict[str, Any] = {
        "modules": True,
        "mask": {"a": True, "b": True, "c": False},
        "cautious": True,
        "refresh_every": 2,
    }
    ours = oad.modulewise_adadecay(0.1, a=2.0, **options)
    theirs = oad.alphadecay(0.1, metric=oad.grad_norm(), assign=oad.sigmoid(2.0), **options)
    states = [each.init(params) for each in (ours, theirs)]
    for step in (1.0, 2.0, 3.0):
        gradients = {"a": jnp.full((2, 3), step), "b": jnp.ones((2, 3)), "c": jnp.ones((2, 3))}
        found, wanted = (
            each.update(gradients, state, params) for each, state in zip((ours, theirs), states, strict=True)
        )
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
        states = [found[1], wanted[1]]
    np.testing.assert_allclose(states[0].scores, [2 * 6**0.5, 6**0.5], rtol=1e-6)  # of the second step


def test_adadecay_gives_every_parameter_its_own_rate() -> None:
    params, (gradient,) = trees(1)
    optimizer = oad.adadecay(0.2, a=3.0)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    for name in params:
        magnitude = np.abs(gradient[name].astype(np.float64))
        z = (magnitude - magnitude.mean()) / magnitude.std()
        theta = 2 / (1 + np.exp(-3.0 * z))
        np.testing.assert_allclose(updates[name], gradient[name] + 0.2 * theta * params[name], rtol=1e-5)


def test_adadecay_of_equal_gradients_is_uniform() -> None:
    params = {"w": jnp.arange(6.0).reshape(2, 3)}
    updates, _ = oad.adadecay(0.2).update({"w": jnp.ones((2, 3))}, oad.adadecay(0.2).init(params), params)
    np.testing.assert_allclose(updates["w"], 1 + 0.2 * params["w"], rtol=1e-6)


def test_adadecay_follows_a_schedule() -> None:
    params = {"w": jnp.ones((2, 3))}
    optimizer = oad.adadecay(lambda count: 0.1 * count)
    state = optimizer.init(params)
    for step in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
        np.testing.assert_allclose(updates["w"], 0.1 * step, rtol=1e-6)


def test_modulewise_adadecay_standardises_within_blocks() -> None:
    rng = np.random.default_rng(1)
    params = {f"layers_{i}": {name: rng.normal(size=(4, 4)) for name in "qkv"} for i in range(2)}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    gradients = jax.tree.map(lambda leaf: leaf**3, params)
    optimizer = oad.modulewise_adadecay(0.1, modules=True)
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    expected = []
    for block in gradients.values():
        norms = np.array([np.linalg.norm(leaf) for leaf in jax.tree.leaves(block)])
        expected.extend(2 / (1 + np.exp(-4 * (norms - norms.mean()) / norms.std())))
    np.testing.assert_allclose(state.ratios, expected, rtol=1e-4)


def test_adamw_measures_gradients_and_not_adams_updates() -> None:
    params, (gradient,) = trees(1)
    optimizer = oad.adamw(1e-3, metric=oad.grad_norm(), modules={"w": True, "b": False})
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    assert float(optax.tree.get(state, "scores")[0]) == pytest.approx(np.linalg.norm(gradient["w"]), rel=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: oad.awd(-1.0), "awd: lam_awd .* got -1.0"),
        (lambda: oad.awd(1.0, momentum=1.0), "awd: momentum .* got 1.0"),
        (lambda: oad.adadecay(-1.0), "adadecay: weight_decay .* got -1.0"),
        (lambda: oad.adadecay(1.0, a=0.0), "adadecay: a .* got 0.0"),
        (lambda: oad.modulewise_adadecay(1.0, a=-1.0), "got -1.0"),
    ],
)
def test_arguments_out_of_range(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("optimizer", [oad.awd(1.0), oad.adadecay(1.0)])
def test_params_are_needed(optimizer: optax.GradientTransformation) -> None:
    params, (gradient,) = trees(1)
    with pytest.raises(ValueError, match="decay needs the weights"):
        optimizer.update(gradient, optimizer.init(params))
