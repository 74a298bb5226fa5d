"""JAX's switches against silent errors, narrow dtypes and large counts: all work, or are refused when built."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import checkify

import optax_alphadecay as oad
from tests.library.registry import GRADIENTS, PARAMS, REGISTRY

# optax 0.2.8's own Adam subtracts an integer power from a float.
OF_OPTAX_ADAM = {"adam", "adamw", "adamw, gradients", "scheduled", "adamc", "adamc, ratios"}
KEY = jax.random.key(0)
MATRICES = {"up": jax.random.normal(KEY, (64, 96)), "query": jax.random.normal(KEY, (64, 64))}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", sorted(REGISTRY.keys() - OF_OPTAX_ADAM))
def test_strict_promotion_finds_no_implicit_one(name: str, dtype: Any) -> None:
    optimizer = REGISTRY[name].build()
    params, gradients = jax.tree.map(lambda leaf: leaf.astype(dtype), (PARAMS, GRADIENTS[0]))
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(optimizer.update, gradients, jax.eval_shape(optimizer.init, params), params)


def test_strict_promotion_and_the_default_solver() -> None:
    optimizer = oad.alphadecay(0.1)
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(optimizer.update, MATRICES, jax.eval_shape(optimizer.init, MATRICES), MATRICES)


def test_float_checks_pass_on_healthy_params() -> None:
    optimizer = oad.alphadecay(0.1)
    checked = jax.jit(checkify.checkify(optimizer.update, errors=checkify.float_checks))
    error, (_, state) = checked(MATRICES, optimizer.init(MATRICES), MATRICES)
    error.throw()
    assert jnp.isfinite(state.scores).all()


@pytest.mark.parametrize("jit", [True, False])
def test_debug_nans_passes_on_healthy_params(jit: bool) -> None:
    with jax.debug_nans(True):
        optimizer = oad.alphadecay(0.1)
        update = jax.jit(optimizer.update) if jit else optimizer.update
        _, state = update(MATRICES, optimizer.init(MATRICES), MATRICES)
    assert jnp.isfinite(state.scores).all()


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_eight_bit_params_decay(dtype: Any) -> None:
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), MATRICES)
    decay = oad.alphadecay(0.5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = decay.update(zeros, decay.init(params), params)
    wide = jnp.float32(params["up"])[None]
    alphas = oad.pl_alpha_hill()(wide, wide)
    assert state.scores[1] == alphas[0]
    for ratio, name in zip(state.ratios, sorted(params), strict=True):
        assert updates[name].dtype == dtype
        expected = (0.5 * ratio * params[name].astype(jnp.float32)).astype(dtype)
        assert (updates[name].astype(jnp.float32) == expected.astype(jnp.float32)).all()


@pytest.mark.parametrize("count", [2**31, 2**40])
def test_counts_that_int32_cannot_hold_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"refresh_every must be .* below 2\*\*31, got {count}"):
        oad.alphadecay(0.1, refresh_every=count)
