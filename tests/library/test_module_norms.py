"""Norms of modules against NumPy, and their predictions against what optimizers do on random gradients."""
# SPDX-License-Identifier: Apache-2.0

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

RULE = oad.block_matrices(stacked=("layers",))
KEYS = jax.random.split(jax.random.key(0), 4)
PARAMS = {
    "head": jax.random.normal(KEYS[0], (64, 80)),
    "layers": {"q": jax.random.normal(KEYS[1], (2, 64, 64)), "up": jax.random.normal(KEYS[2], (2, 64, 96))},
}
NAMES = ["layers/q/0", "layers/q/1", "layers/up/0", "layers/up/1"]
GRADIENTS = jax.tree.map(lambda x: jnp.sin(3 * x), PARAMS)


def matrices(tree: Any) -> list[np.ndarray]:
    return [np.asarray(matrix, np.float64) for leaf in (tree["layers"]["q"], tree["layers"]["up"]) for matrix in leaf]


def measured(optimizer: optax.GradientTransformation, **options: Any) -> oad.ModuleNorms:
    @jax.jit
    def measure(state: Any, params: Any, gradients: Any) -> oad.ModuleNorms:
        return oad.module_norms(optimizer, gradients, state, params, learning_rate=0.1, modules=RULE, **options)

    return measure(optimizer.init(PARAMS), PARAMS, GRADIENTS)


def test_norms_against_numpy() -> None:
    found = measured(optax.chain(optax.scale(2.0), optax.add_decayed_weights(0.5), optax.scale(-0.1)))
    for kind, tree, factor in (("weight", PARAMS, 1), ("gradient", GRADIENTS, 1), ("update", GRADIENTS, 2)):
        for norm, order in (("l2", None), ("spectral", 2)):
            expected = [factor * np.linalg.norm(matrix, order) for matrix in matrices(tree)]
            np.testing.assert_allclose(getattr(found, f"{kind}_{norm}"), expected, rtol=2e-5)
    np.testing.assert_allclose(found.contribution, 0.1, rtol=1e-6)
    np.testing.assert_allclose(found.effective_learning_rate, 0.1, rtol=1e-6)
    settled = [0.1 * 2 * np.linalg.norm(g) / np.sqrt(1 - 0.95**2) for g in matrices(GRADIENTS)]
    np.testing.assert_allclose(found.steady_state_l2, settled, rtol=1e-4)


def test_decay_is_found_whatever_its_ratios() -> None:
    options: dict[str, Any] = {
        "modules": RULE,
        "metric": oad.frobenius_norm(),
        "assign": lambda scores: jnp.array([1.0, 2.0, 3.0, 4.0]),
    }
    found = measured(optax.chain(oad.alphadecay(0.2, **options), optax.scale(-0.1)))
    q = 1 - 0.1 * 0.2 * np.array([1, 2, 3, 4])
    settled = 0.1 * np.array([np.linalg.norm(g) for g in matrices(GRADIENTS)]) / np.sqrt(1 - q**2)
    np.testing.assert_allclose(found.steady_state_l2, settled, rtol=1e-3)
    assert np.all(np.isinf(measured(optax.sgd(0.1)).steady_state_l2)), "nothing settles without decay"


def test_contributions_come_to_the_effective_learning_rate() -> None:
    """On independent gradients, with Scion's momentum; and so does the sum over all updates that a gradient is in."""
    rate, momentum, steps = 0.1, 0.1, 300
    optimizer = oad.scion(rate, momentum, oad.sign_ball())
    params = {"up": jnp.zeros((64, 96))}

    def step(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        gradients = {"up": jax.random.normal(key, (64, 96))}
        norms = oad.module_norms(
            optimizer, gradients, state, params, learning_rate=rate, momentum=momentum, modules=lambda params: True,
            averages=lambda state: optax.tree.get(state, "momentum"),
        )  # fmt: skip
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), norms

    carry = params, optimizer.init(params)
    _, norms = jax.jit(lambda carry: jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), steps)))(carry)
    contributions, gradient_l2 = (np.asarray(x[100:, 0], np.float64) for x in (norms.contribution, norms.gradient_l2))
    predicted = float(oad.effective_learning_rate(rate, momentum))
    np.testing.assert_allclose(contributions.mean(), predicted, rtol=0.02)
    np.testing.assert_allclose(norms.effective_learning_rate, predicted, rtol=1e-6)
    # sum_{k >= t} gamma a (1 - a)^(k - t) ||g_t|| / ||m_k||, the paper's
    shares = rate / contributions * gradient_l2  # ||m_k||
    lags = np.arange(100)
    exact = [rate * np.sum(momentum * (1 - momentum) ** lags / shares[t + lags]) * gradient_l2[t] for t in range(100)]
    np.testing.assert_allclose(np.mean(exact), predicted, rtol=0.02)


def test_scalars_have_geometric_means() -> None:
    optimizer = optax.chain(oad.alphadecay(0.2, modules=RULE, metric=oad.frobenius_norm()), optax.scale(-0.1))
    norms = measured(optimizer)
    found = oad.norm_scalars(norms, PARAMS, modules=RULE)
    assert [found[f"norms/gradient_l2/{name}"] for name in NAMES] == norms.gradient_l2.tolist()
    np.testing.assert_allclose(
        found["norms/mean/gradient_l2"], np.prod(np.float64(norms.gradient_l2)) ** 0.25, rtol=1e-6
    )
    assert len(found) == 8 * 5 + 1
    with_state = oad.scalars(optimizer.init(PARAMS), PARAMS, modules=RULE, norms=norms)
    assert found.items() <= with_state.items() and "alphadecay/rejected" in with_state
    zeros = norms._replace(weight_l2=jnp.zeros(4))
    assert oad.norm_scalars(zeros, PARAMS, modules=RULE)["norms/mean/weight_l2"] == 0


def test_norms_are_float32_and_of_no_modules_none(recwarn: pytest.WarningsRecorder) -> None:
    with jax.enable_x64(True):
        assert {norm.dtype for norm in measured(optax.sgd(0.1))} == {jnp.dtype("float32")}
    params = {"w": jnp.ones(3)}
    nothing = oad.module_norms(optax.sgd(0.1), params, optax.sgd(0.1).init(params), params, learning_rate=0.1)
    assert list(oad.norm_scalars(nothing, params)) == ["norms/effective_learning_rate"]
    assert not [warning for warning in recwarn if warning.category is RuntimeWarning]


def test_errors_name_the_fix() -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \(0, 1\].* got 0"):
        measured(optax.sgd(0.1), momentum=0)
    with pytest.raises(ValueError, match=r"learning_rate is a schedule.*learning_rate=schedule\(count\)"):
        oad.module_norms(
            optax.sgd(0.1), PARAMS, optax.sgd(0.1).init(PARAMS), PARAMS, learning_rate=optax.constant_schedule(0.1)
        )
    with pytest.raises(ValueError, match="norms holds 4 modules and params 0"):
        oad.norm_scalars(measured(optax.sgd(0.1)), {"w": jnp.ones(3)})


def test_coupled_decay_is_part_of_the_update() -> None:
    """Adam's second update in float64: the decay is in both moments, and nothing settles as decoupled decay does."""
    optimizer = optax.chain(optax.add_decayed_weights(0.5), optax.adam(0.1))
    _, state = optimizer.update(jax.tree.map(jnp.cos, PARAMS), optimizer.init(PARAMS), PARAMS)
    found = oad.module_norms(
        optimizer, GRADIENTS, state, PARAMS, learning_rate=0.1, momentum=0.1, modules=RULE,
        averages=lambda state: optax.tree.get(state, "mu"),
    )  # fmt: skip
    updates, means = [], []
    for w, g in zip(matrices(PARAMS), matrices(GRADIENTS), strict=True):
        first, second = np.cos(w) + 0.5 * w, g + 0.5 * w
        m, v = 0.09 * first + 0.1 * second, 0.000999 * first**2 + 0.001 * second**2
        updates.append(np.linalg.norm(m / (1 - 0.9**2) / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)))
        means.append(np.linalg.norm(m))
    np.testing.assert_allclose(found.update_l2, updates, rtol=1e-4)
    gradient_l2 = np.array([np.linalg.norm(g) for g in matrices(GRADIENTS)])
    np.testing.assert_allclose(found.gradient_l2, gradient_l2, rtol=1e-5)
    np.testing.assert_allclose(found.contribution, 0.1 * gradient_l2 / np.array(means), rtol=1e-5)
    assert np.all(np.isinf(found.steady_state_l2))


def test_averages_leave_decoupled_decay_what_it_is() -> None:
    optimizer = optax.adamw(0.1, weight_decay=0.2)
    mu = {"averages": lambda state: optax.tree.get(state, "mu")}
    found, without = measured(optimizer, **mu), measured(optimizer)
    np.testing.assert_array_equal(found.update_l2, without.update_l2)
    # Adam's first updates are signs.
    settled = 0.1 * np.array([math.sqrt(w.size) for w in matrices(PARAMS)]) / math.sqrt(1 - 0.98**2)
    np.testing.assert_allclose(found.steady_state_l2, settled, rtol=1e-3)


def test_weights_of_zero_and_weights_that_grow_settle_nowhere() -> None:
    params = {"zeros": jnp.zeros((64, 64)), "grows": jnp.ones((64, 64))}
    optimizer = optax.chain(optax.add_decayed_weights(-0.5), optax.scale(-0.1))
    found = oad.module_norms(optimizer, params, optimizer.init(params), params, learning_rate=0.1, modules=True)
    np.testing.assert_array_equal(found.steady_state_l2[0], np.inf)  # grows
    decayed = optax.chain(optax.add_decayed_weights(0.5), optax.scale(-0.1))
    gradients = jax.tree.map(jnp.ones_like, params)
    found = oad.module_norms(decayed, gradients, decayed.init(params), params, learning_rate=0.1, modules=True)
    settled = 64 * 0.1 / math.sqrt(1 - 0.95**2)
    np.testing.assert_allclose(found.steady_state_l2, [settled, np.inf], rtol=1e-5)
    np.testing.assert_allclose(found.weight_spectral, [64, 0], rtol=1e-6)


@pytest.mark.parametrize("momentum", [0, -0.5, 1.5])
def test_a_momentum_is_a_share(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"momentum must be in \(0, 1\].* got {momentum}"):
        measured(optax.sgd(0.1), momentum=momentum)


def test_a_tree_without_modules_has_empty_norms() -> None:
    params = {"bias": jnp.ones(3)}
    optimizer = optax.sgd(0.1)
    found = oad.module_norms(optimizer, params, optimizer.init(params), params, learning_rate=0.1, modules=False)
    assert [np.shape(each) for each in found] == [(0,)] * 8 + [()]
