"""Scion and ScionC against runs recorded from the official code, and what their arguments do."""
# SPDX-License-Identifier: Apache-2.0

import functools
import json
import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad
from optax_alphadecay.norms.constructors import balls_of

DATA = pathlib.Path(__file__).parents[1] / "data" / "scion"
RECORDED: dict[str, Any] = json.loads((DATA / "recorded.json").read_text())
# PyTorch's layout: outputs first, then inputs, then a convolution's taps; a fused kernel is stacked along axis 0.
MATRIX, FUSED = MuonDimensionNumbers(1, 0), MuonDimensionNumbers(2, 1)
TRANSPOSED = MuonDimensionNumbers(0, 1)
CONVOLUTIONS = {3: MuonDimensionNumbers((2, 1), 0), 4: MuonDimensionNumbers((2, 3, 1), 0)}


@functools.cache
def arrays() -> Any:
    return np.load(DATA / "recorded.npz")


def ball_of(case: dict[str, Any]) -> Any:
    kwargs = dict(case["kwargs"])
    rank = len(case["shape"])
    matrix = TRANSPOSED if kwargs.pop("transpose", False) else MATRIX
    match case["norm"]:
        case "Spectral":
            return oad.spectral_norm_ball(**kwargs, axes=FUSED if rank == 3 else matrix)
        case "Sign":
            return oad.sign_ball(**kwargs, axes=matrix)
        case "ColNorm":
            return oad.column_ball(**kwargs, axes=matrix)
        case "RowNorm":
            return oad.row_ball(**kwargs, axes=matrix)
        case "BiasRMS":
            return oad.bias_ball()
        case "SpectralConv":
            return oad.convolution_ball(axes=CONVOLUTIONS[rank])
    raise AssertionError(case["norm"])


def optimizer_of(case: dict[str, Any], dtype: Any) -> optax.GradientTransformation:
    rates = jnp.asarray(case["lrs"], jnp.float32)
    shared = {"norms": ball_of(case), "momentum": case["momentum"], "dtype": dtype}
    if case["algorithm"] == "scion":
        return oad.scion(
            lambda count: rates[count], scale=case["scale"], constrained=not case["unconstrained"], **shared
        )
    return oad.scionc(
        lambda count: rates[count],
        case["weight_decay"],
        exact=case["mode"] == "exact",
        peak=case["lr"],
        correct=case["mode"] != "uncorrected",
        **shared,
    )


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_agrees_with_the_official_code(name: str, dtype: str) -> None:
    case = RECORDED[name]
    optimizer = optimizer_of(case, dtype)
    weights = jnp.asarray(arrays()[f"{name}/w0"])

    def step(carry: Any, gradient: jax.Array) -> Any:
        updates, state = optimizer.update(gradient, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    gradients = jnp.asarray(arrays()[f"{name}/gradients"])
    (weights, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, gradients))((weights, optimizer.init(weights)))
    wanted = arrays()[f"{name}/final_{'f32' if dtype == 'float32' else 'bf16'}"]
    error = np.abs(np.asarray(weights) - wanted).max()
    assert error <= 1e-4 * case["effect"] + (0 if dtype == "float32" else 1.5 * case["bf16_vs_f32"])


def test_blocks_of_the_page_run() -> None:
    page = (DATA.parents[2] / "docs" / "scion.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == page.count("```python") == 7
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/scion.md", "exec"), namespace)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_exact_decomposition_is_of_what_was_not_rounded(dtype: Any) -> None:
    gradient = np.random.default_rng(0).standard_normal((6, 9))
    optimizer = oad.scale_by_scion(1.0, oad.spectral_norm_ball(), "svd", dtype)
    found, _ = optimizer.update(jnp.asarray(gradient, jnp.float32), optimizer.init(jnp.zeros((6, 9))))
    u, _, vt = np.linalg.svd(gradient, full_matrices=False)
    np.testing.assert_allclose(found, math.sqrt(9 / 6) * u @ vt, atol=1e-5)


def test_a_leaf_without_weights_is_left_alone() -> None:
    optimizer, params = oad.scion(0.1), {"none": jnp.zeros((0, 4)), "w": jnp.ones((8, 8))}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates["none"].shape == (0, 4)


def test_a_tree_without_leaves_has_no_balls() -> None:
    """As optax.tree.map_params asks, with a placeholder."""
    assert balls_of(None, {}) == []
