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


def test_the_running_mean_by_hand() -> None:
    optimizer, zeros = oad.scale_by_scion(0.25, oad.sign_ball(normalized=False)), jnp.zeros((2, 2))
    state = optimizer.init(zeros)
    _, state = optimizer.update(jnp.array([[8.0, -8.0], [0.0, 4.0]]), state)
    np.testing.assert_array_equal(state.momentum, [[2, -2], [0, 1]])
    steps, state = optimizer.update(jnp.array([[-8.0, 4.0], [0.0, 0.0]]), state)
    np.testing.assert_array_equal(state.momentum, [[-0.5, -0.5], [0, 0.75]])
    np.testing.assert_array_equal(steps, [[-1, -1], [0, 1]])


def test_no_mean_is_kept_only_where_the_momentum_is_known_to_be_one() -> None:
    params = jnp.ones((2, 3))
    assert oad.scale_by_scion(1).init(params).momentum is None
    for momentum in (0.5, jnp.float32(1.0)):
        np.testing.assert_array_equal(oad.scale_by_scion(momentum).init(params).momentum, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"momentum must be in \(0, 1\].*got -0.5"):
        oad.scale_by_scion(-0.5)


@pytest.mark.parametrize("factor", [None, 3.0])
def test_the_shrinkage_is_one_and_a_decay_makes_it(factor: float | None) -> None:
    def tripled(coefficient: Any, mask: Any = None) -> optax.GradientTransformation:
        return optax.add_decayed_weights(3 * coefficient, mask)

    params = {"up": jnp.full((4, 4), 2.0), "bias": jnp.full(4, 5.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = oad.scion(0.125, scale=7.0, decay=tripled if factor else None)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    jax.tree.map(lambda u, w: np.testing.assert_array_equal(u, -0.125 * (factor or 1) * w), updates, params)


def test_radius_scale_and_rate_multiply_each_step() -> None:
    params = {"w": jnp.zeros((2, 2)), "v": jnp.zeros((2, 2))}
    norms = {"w": oad.sign_ball(normalized=False, radius=3.0), "v": oad.sign_ball(normalized=False)}
    optimizer = oad.scion(0.5, 1.0, norms, scale=4.0, constrained=False)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    np.testing.assert_array_equal(updates["w"], -6)
    np.testing.assert_array_equal(updates["v"], -2)
    projected = oad.project_onto_ball({"w": jnp.full((2, 2), -0.5), "v": jnp.ones((2, 2))}, norms, scale=4.0)
    np.testing.assert_array_equal(projected["w"], -12)
    np.testing.assert_array_equal(projected["v"], 4)


@pytest.mark.parametrize("correct", [None, True, False])
def test_which_leaves_scionc_corrects(correct: bool | None) -> None:
    """At half the peak the corrected coefficient is half of the other: by default for leaves with a spectral ball."""
    params = {"up": jnp.full((4, 4), 2.0), "bias": jnp.full(4, 2.0)}
    optimizer = oad.scionc(0.125, 0.5, peak=0.25, correct=correct)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    plain, corrected = -0.125 * 0.5 * 2, -0.125 * 0.25 * 2
    np.testing.assert_array_equal(updates["up"], plain if correct is False else corrected)
    np.testing.assert_array_equal(updates["bias"], corrected if correct else plain)


@pytest.mark.parametrize("method", ["newton_schulz", "polar_express"])
def test_iterations_are_in_the_dtype_asked_for(method: str) -> None:
    gradient = jnp.asarray(np.random.default_rng(0).standard_normal((4, 16)), jnp.float32)
    found = {}
    for dtype in ("bfloat16", "float32"):
        optimizer = oad.scale_by_scion(1.0, oad.spectral_norm_ball(), method, dtype)
        found[dtype] = np.asarray(optimizer.update(gradient, optimizer.init(gradient))[0])
    rounded, exact = found["bfloat16"], found["float32"]
    np.testing.assert_array_equal(rounded, rounded.astype(jnp.bfloat16).astype(np.float32))
    assert (exact != exact.astype(jnp.bfloat16).astype(np.float32)).any()
    # Five polynomials, each of which makes small singular values larger, and the rounding of 2 ** -8 with them.
    np.testing.assert_allclose(rounded, exact, atol=0.1 * np.abs(exact).max())
