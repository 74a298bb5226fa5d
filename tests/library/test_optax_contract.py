"""One registry of every public transformation, held to what optax's own tests ask of an optimizer."""
# SPDX-License-Identifier: Apache-2.0

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad
from tests.library.registry import GRADIENTS, MASK, MODULES, PARAMS, REGISTRY, SHAPES, restrict

Carry = tuple[Any, Any]  # params and state

# Four hundred tests that reach no lines which others leave out, and are quicker without being measured.
pytestmark = [pytest.mark.no_cover, pytest.mark.slow]  # each entry is compiled in each wrapper

DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)
each = pytest.mark.parametrize("name", REGISTRY)


def step(optimizer: Any, carry: Carry, gradients: Any, **extra: Any) -> tuple[Carry, Any]:
    params, state = carry
    updates, state = optimizer.update(gradients, state, params, **extra)
    return (jax.tree.map(lambda param, update: param - 0.01 * update, params, updates), state), updates


def by_operation(optimizer: Any, params: Any, gradients: list[Any]) -> list[tuple[Carry, Any]]:
    """Params and state, and updates, after every step; each operation is run as Python comes to it."""
    after, carry = [], (params, optimizer.init(params))
    with jax.disable_jit():
        for gradient in gradients:
            carry, updates = step(optimizer, carry, gradient)
            after.append((carry, updates))
    return after


@functools.cache
def expected(name: str) -> list[tuple[Carry, Any]]:
    return by_operation(REGISTRY[name].build(), PARAMS, GRADIENTS)


def assert_close(found: Any, wanted: Any) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6), found, wanted)


def types(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


@each
def test_jitted_scan_in_donated_memory_equals_eager(name: str) -> None:
    body, traces = functools.partial(step, REGISTRY[name].build(), argument_of_another_transformation=1), 0

    @functools.partial(jax.jit, donate_argnums=0)
    def train(carry: Carry, gradients: Any) -> tuple[Carry, Any]:
        nonlocal traces
        traces += 1
        return jax.lax.scan(body, carry, gradients)

    carry = jax.tree.map(jnp.copy, (PARAMS, REGISTRY[name].build().init(PARAMS)))
    for done in (2, 4):
        start, before = carry, types(carry)
        carry, updates = train(start, jax.tree.map(lambda *leaves: jnp.stack(leaves), *GRADIENTS[done - 2 : done]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start))
        assert types(carry) == before
        assert_close((carry, jax.tree.map(lambda leaf: leaf[-1], updates)), expected(name)[done - 1])
    assert traces == 1


@each
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_are_known_and_stay(name: str, dtype: Any) -> None:
    optimizer = REGISTRY[name].build()
    with jax.enable_x64(dtype == jnp.float64):
        params = optax.tree.cast(PARAMS, dtype)
        state = optimizer.init(params)
        assert types(jax.eval_shape(optimizer.init, params)) == types(state)
        assert types(jax.eval_shape(optimizer.update, params, state, params)) == types((params, state))


@pytest.mark.parametrize("factory", [functools.partial(oad.alphadecay, modules=MODULES), oad.awd, oad.adadecay])
@pytest.mark.parametrize("params_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_updates_have_the_dtype_of_gradients(factory: Any, params_dtype: Any, dtype: Any) -> None:
    optimizer = factory(0.1)
    with jax.enable_x64(jnp.float64 in (params_dtype, dtype)):
        params, gradients = optax.tree.cast(PARAMS, params_dtype), optax.tree.cast(PARAMS, dtype)
        updates, _ = jax.eval_shape(optimizer.update, gradients, optimizer.init(params), params)
        assert types(updates) == types(gradients)


@each
def test_map_params_finds_what_is_shaped_like_params(name: str) -> None:
    optimizer = REGISTRY[name].build()
    state = optimizer.init(PARAMS)
    found = optax.tree.map_params(
        optimizer,
        lambda leaf, param: leaf.shape == param.shape,
        state,
        PARAMS,
        transform_non_params=lambda leaf: leaf.shape in ((), optax.tree.get(state, "ratios", leaf).shape),
    )
    assert all(jax.tree.leaves(found))


@each
def test_inject_hyperparams_changes_nothing(name: str) -> None:
    injected = REGISTRY[name].inject()
    ((params, state), updates) = by_operation(injected, PARAMS, GRADIENTS)[-1]
    assert_close(((params, state.inner_state), updates), expected(name)[-1])
    jax.eval_shape(injected.update, GRADIENTS[0], injected.init(PARAMS), PARAMS)


@each
def test_injected_rate_can_be_changed(name: str) -> None:
    argument, rate = REGISTRY[name].rate
    injected = REGISTRY[name].inject()
    state = injected.init(PARAMS)
    state.hyperparams[argument] = jnp.float32(2 * rate)
    with jax.disable_jit():
        updates, _ = injected.update(GRADIENTS[0], state, PARAMS)
    [(_, wanted)] = by_operation(REGISTRY[name].build(**{argument: 2 * rate}), PARAMS, [GRADIENTS[0]])
    assert_close(updates, wanted)
    assert optax.tree.norm(optax.tree.sub(updates, expected(name)[0][1])) > 1e-3


@pytest.mark.parametrize(
    "name", ["alphadecay", "adam", "adamw", "adamc", "awd", "adadecay", "modulewise_adadecay", "scion"]
)
def test_defaults_can_be_injected(name: str) -> None:
    factory = getattr(oad, name)
    params = {"a": jnp.resize(PARAMS["table"], (50, 50)), "b": jnp.resize(PARAMS["layers/up"], (50, 50))}
    gradients = jax.tree.map(jnp.sin, params)
    injected, plain = optax.inject_hyperparams(factory)(0.1), factory(0.1)
    updates, state = jax.jit(injected.update)(gradients, injected.init(params), params)
    assert_close((updates, state.inner_state), jax.jit(plain.update)(gradients, plain.init(params), params))


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.takes_schedule()])
def test_constant_schedule_is_a_scalar(name: str) -> None:
    argument, rate = REGISTRY[name].rate
    scheduled = REGISTRY[name].build(**{argument: optax.constant_schedule(rate)})
    assert_close(by_operation(scheduled, PARAMS, GRADIENTS)[-1][0][0], expected(name)[-1][0][0])


@each
def test_multi_steps_equal_accumulating_by_hand(name: str) -> None:
    optimizer = REGISTRY[name].build()
    accumulated = by_operation(optax.MultiSteps(optimizer, 2), PARAMS, GRADIENTS)
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *GRADIENTS[i : i + 2]) for i in (0, 2)]
    by_hand = by_operation(optimizer, PARAMS, means)
    for ((params, state), updates), wanted in zip(accumulated[1::2], by_hand, strict=True):
        assert_close(((params, state.inner_opt_state), updates), wanted)
    assert all(optax.tree.norm(updates) == 0 for _, updates in accumulated[::2])


def test_multi_steps_measure_at_every_mini_step_of_a_refresh() -> None:
    runs: list[int] = []

    def metric(weights: jax.Array, gradients: jax.Array) -> jax.Array:
        jax.debug.callback(runs.append, 1)
        return jnp.sum(weights**2, axis=(1, 2))

    optimizer = optax.MultiSteps(oad.alphadecay(0.1, metric=metric, modules=MODULES), 4)
    state, update, counts = optimizer.init(PARAMS), jax.jit(optimizer.update), []
    for gradients in GRADIENTS * 2:
        _, state = update(gradients, state, PARAMS)
        jax.effects_barrier()
        counts.append(len(runs))
    assert counts == [2, 4, 6, 8, 8, 8, 8, 8], "two stacks each time"


@each
@pytest.mark.parametrize("keys", [["layers/0/down", "vector"], ["layers/up", "table"]])
def test_masked_and_partition_show_their_leaves_only(name: str, keys: list[str]) -> None:
    entry, gradients = REGISTRY[name], GRADIENTS[0]
    labels = {key: "ours" if key in keys else "theirs" for key in SHAPES}
    masked = optax.masked(entry.build(), {key: key in keys for key in SHAPES})
    partition = optax.partition({"ours": entry.build(), "theirs": optax.sgd(2.0)}, labels)
    [(_, wanted)] = by_operation(entry.build(keys), restrict(PARAMS, keys), [restrict(gradients, keys)])
    for wrapped, others in ((masked, gradients), (partition, optax.tree.scale(-2.0, gradients))):
        [(_, updates)] = by_operation(wrapped, PARAMS, [gradients])
        assert_close(updates, others | wanted)


@each
def test_apply_if_finite_skips_a_step(name: str) -> None:
    optimizer = optax.apply_if_finite(REGISTRY[name].build(), 5)
    broken = GRADIENTS[0] | {"vector": jnp.full(SHAPES["vector"], jnp.nan)}
    after = by_operation(optimizer, PARAMS, [GRADIENTS[0], broken, GRADIENTS[1]])
    for ((params, state), _), wanted in zip(after, (0, 0, 1), strict=True):
        assert_close((params, state.inner_state), expected(name)[wanted][0])


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if "modules" in entry.kwargs])
def test_ratios_are_found_by_name(name: str) -> None:
    mask, optimizer = REGISTRY[name].kwargs.get("mask"), optax.MultiSteps(REGISTRY[name].build(), 1)
    [((_, state), _)] = by_operation(optimizer, PARAMS, [GRADIENTS[0]])
    ratios = np.asarray(optax.tree.get(state, "ratios"))
    table = oad.module_table(state, PARAMS, modules=MODULES, mask=mask)
    np.testing.assert_array_equal(ratios, [row.ratio for row in table])
    assert (len(ratios), (ratios != 1).any()) == ((3, True) if mask is None else (1, False))


@pytest.mark.parametrize("transform", [jax.jit, lambda update: update])
@pytest.mark.parametrize(
    ("factory", "kwargs", "theirs"),
    [
        (oad.alphadecay, {}, optax.add_decayed_weights(0.1)),
        (oad.alphadecay, {"mask": MASK}, optax.add_decayed_weights(0.1, MASK)),
        (oad.adam, {"learning_rate": 0.1}, optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1))),
        (oad.adamw, {"learning_rate": 0.1}, optax.adamw(0.1, weight_decay=0.1)),
    ],
)
def test_ratio_one_is_optax_to_the_bit(factory: Any, kwargs: Any, theirs: Any, transform: Any) -> None:
    metric, assign = oad.grad_norm(), oad.linear(1, 1)
    ours = factory(weight_decay=0.1, metric=metric, assign=assign, modules=MODULES, **kwargs)
    found, _ = transform(ours.update)(GRADIENTS[0], ours.init(PARAMS), PARAMS)
    wanted, _ = transform(theirs.update)(GRADIENTS[0], theirs.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
