"""The balls against float64 NumPy, the best point of each by a property test, and which leaf gets which ball."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from optax.contrib import MuonDimensionNumbers
from optax.contrib._muon import orthogonalize_via_newton_schulz

import optax_alphadecay as oad
from optax_alphadecay.norms.orthogonalize import METHODS, newton_schulz, polar_express

Array = np.ndarray[Any, np.dtype[np.float64]]
SHAPES = {"tall": (40, 12), "wide": (12, 40), "square": (24, 24)}
FUSED = MuonDimensionNumbers(1, 2)
HEADS = MuonDimensionNumbers(0, (1, 2))


def orthogonal(matrix: Array) -> Array:
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(u @ vt)


# For matrices [inputs, outputs], each ball's extreme point and norm, written from the definitions.
BALLS: dict[str, tuple[Any, Callable[[Array], Array], Callable[[Array], Any]]] = {
    "spectral": (
        oad.spectral_norm_ball(),
        lambda g: math.sqrt(g.shape[1] / g.shape[0]) * orthogonal(g),
        lambda w: float(np.linalg.norm(w, 2)) / math.sqrt(w.shape[1] / w.shape[0]),
    ),
    "spectral, at least 1": (
        oad.spectral_norm_ball(max=True),
        lambda g: max(1.0, math.sqrt(g.shape[1] / g.shape[0])) * orthogonal(g),
        lambda w: float(np.linalg.norm(w, 2)) / max(1.0, math.sqrt(w.shape[1] / w.shape[0])),
    ),
    "spectral, not normalized": (
        oad.spectral_norm_ball(normalized=False),
        lambda g: math.sqrt(g.shape[1]) * orthogonal(g),
        lambda w: float(np.linalg.norm(w, 2)) / math.sqrt(w.shape[1]),
    ),
    "sign": (oad.sign_ball(), lambda g: np.sign(g) / len(g), lambda w: len(w) * np.abs(w).max()),
    "sign, not normalized": (oad.sign_ball(normalized=False), np.sign, lambda w: np.abs(w).max()),
    "column": (
        oad.column_ball(),
        lambda g: g / np.sqrt((g**2).mean(axis=1, keepdims=True)),
        lambda w: np.sqrt((w**2).mean(axis=1)).max(),
    ),
    "column, normalized": (
        oad.column_ball(normalized=True),
        lambda g: g / np.sqrt((g**2).mean(axis=1, keepdims=True)) / len(g),
        lambda w: len(w) * np.sqrt((w**2).mean(axis=1)).max(),
    ),
    "row": (
        oad.row_ball(),
        lambda g: g / np.linalg.norm(g, axis=0) / math.sqrt(len(g)),
        lambda w: math.sqrt(len(w)) * np.linalg.norm(w, axis=0).max(),
    ),
    "row, not normalized": (
        oad.row_ball(normalized=False),
        lambda g: g / np.linalg.norm(g, axis=0),
        lambda w: np.linalg.norm(w, axis=0).max(),
    ),
}
each = pytest.mark.parametrize("name", BALLS)


def assert_close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@each
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_matrices_against_float64(name: str, shape: tuple[int, int]) -> None:
    ball, point, norm = BALLS[name]
    matrix = np.random.default_rng(0).standard_normal(shape)
    with jax.enable_x64(True):
        assert_close(ball.extreme_point(jnp.asarray(matrix)), point(matrix))
        assert_close(ball.norm(jnp.asarray(matrix)), [norm(matrix)])
        assert_close(ball.norm(ball.extreme_point(jnp.asarray(matrix))), [1])


@each
@pytest.mark.parametrize(("axes", "shape"), [(FUSED, (3, 12, 12)), (FUSED, (4, 8, 20)), (HEADS, (16, 4, 6))])
def test_kernels_of_rank_three_are_seen_by_their_axes(
    name: str, axes: MuonDimensionNumbers, shape: tuple[int, ...]
) -> None:
    """Fused kernels and scanned layers matrix by matrix; heads as one matrix [inputs, heads * size]."""
    ball, point, _ = BALLS[name]
    ball = type(ball)(**{**vars(ball), "axes": axes})
    kernel = np.random.default_rng(0).standard_normal(shape)
    matrices = kernel.reshape(shape[0], -1)[None] if axes == HEADS else kernel
    with jax.enable_x64(True):
        found = np.asarray(ball.extreme_point(jnp.asarray(kernel)))
        assert ball.norm(jnp.asarray(kernel)).shape == (len(matrices),)
    assert_close(found.reshape(matrices.shape), np.stack([point(matrix) for matrix in matrices]))


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (5, 16, 8), (3, 5, 4, 4)])
def test_convolutions_against_float64(shape: tuple[int, ...]) -> None:
    kernel = np.random.default_rng(0).standard_normal(shape)
    *taps, inputs, outputs = shape
    size = math.sqrt(outputs / inputs) / math.prod(taps)
    flat = kernel.reshape(-1, outputs)
    ball = oad.convolution_ball()
    with jax.enable_x64(True):
        assert_close(ball.extreme_point(jnp.asarray(kernel)), (size * orthogonal(flat)).reshape(shape))
        assert_close(ball.norm(jnp.asarray(kernel)), [np.linalg.norm(flat, 2) / size])
        projected = np.asarray(ball.project(jnp.asarray(kernel))).reshape(-1, inputs, outputs)
    assert_close(np.linalg.norm(projected, 2, axis=(1, 2)), size)


def test_vectors_against_float64() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 40))
    stacked = oad.bias_ball(axes=MuonDimensionNumbers((), 1))
    with jax.enable_x64(True):
        for ball, vector in ((oad.bias_ball(), vectors[0]), (stacked, vectors)):
            root_mean_square = np.sqrt((vector**2).mean(axis=-1, keepdims=True))
            assert_close(ball.extreme_point(jnp.asarray(vector)), vector / root_mean_square)
            assert_close(ball.norm(jnp.asarray(vector)), root_mean_square.reshape(-1))
        assert_close(oad.bias_ball().extreme_point(jnp.asarray(-3.0)), -1.0)


@each
def test_zeros_stay_zeros(name: str) -> None:
    np.testing.assert_array_equal(BALLS[name][0].extreme_point(jnp.zeros((8, 12))), np.zeros((8, 12)))


@hypothesis.given(
    name=st.sampled_from(sorted(BALLS)), shape=st.sampled_from([(4, 4), (4, 9), (9, 4)]), seed=st.integers(0, 2**32 - 1)
)
@hypothesis.settings(max_examples=60)
def test_no_point_of_the_ball_lies_further_along(name: str, shape: tuple[int, int], seed: int) -> None:
    ball, _, norm = BALLS[name]
    rng = np.random.default_rng(seed)
    gradient, other = rng.standard_normal((2, *shape))
    # Random points, and ones near the best, where a wrong one would be beaten.
    best = np.asarray(ball.extreme_point(jnp.asarray(gradient, jnp.float32)), np.float64)
    assert norm(best) <= 1 + 1e-5
    for point in (other, best + 0.1 * rng.standard_normal() * other):
        rival = point / norm(point)
        assert (gradient * rival).sum() <= (gradient * best).sum() * (1 + 1e-5)


@hypothesis.given(
    method=st.sampled_from(["newton_schulz", "polar_express"]),
    shape=st.sampled_from([(8, 8), (8, 20), (20, 8)]),
    seed=st.integers(0, 2**32 - 1),
)
@hypothesis.settings(max_examples=40)
def test_iterations_do_as_well_as_their_error_lets_them(method: str, shape: tuple[int, int], seed: int) -> None:
    """With ``o`` orthogonalised by an iteration, the best of the ball is beyond it by at most its error."""
    gradient = np.random.default_rng(seed).standard_normal(shape)
    found = np.asarray(METHODS[method](jnp.asarray(gradient, jnp.float32)[None])[0], np.float64)
    u, values, vt = np.linalg.svd(gradient, full_matrices=False)
    error = np.linalg.norm(found - u @ vt, 2)
    assert (gradient * found).sum() >= values.sum() * (1 - error) - 1e-5
    # Singular vectors are kept, so what is left of the error is in the singular values.
    assert error == pytest.approx(np.abs(np.diag(u.T @ found @ vt.T) - 1).max(), abs=1e-4)
    singular = np.linalg.svd(found, compute_uv=False)
    assert singular.max() < 1.25


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(("method", "low", "high"), [(newton_schulz, 0.68, 1.21), (polar_express, 0.86, 1.13)])
def test_singular_values_come_near_one(method: Any, low: float, high: float, shape: tuple[int, int]) -> None:
    rng, rank = np.random.default_rng(0), min(shape)
    u, vt = orthogonal(rng.standard_normal((shape[0], rank))), orthogonal(rng.standard_normal((rank, shape[1])))
    matrix = (u * np.geomspace(1, 0.02, rank)) @ vt
    found = np.asarray(method(jnp.asarray(matrix, jnp.float32)[None])[0])
    values = np.diag(u.T @ found @ vt.T)
    assert_close(found, (u * values) @ vt)
    assert low < values.min() and values.max() < high


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_newton_schulz_in_float32_is_that_of_optax(shape: tuple[int, int]) -> None:
    matrices = jnp.asarray(np.random.default_rng(0).standard_normal((3, *shape)), jnp.float32)
    coefficients = jnp.asarray((3.4445, -4.7750, 2.0315))
    theirs = orthogonalize_via_newton_schulz(matrices, coefficients, 5, eps=1e-7, dimension_numbers=FUSED)
    np.testing.assert_allclose(newton_schulz(matrices), theirs, rtol=1e-4, atol=1e-5)


def test_large_stacks_are_orthogonalized_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = jnp.asarray(np.random.default_rng(0).standard_normal((7, 8, 6)), jnp.float32)
    monkeypatch.setattr("optax_alphadecay.norms.orthogonalize._ELEMENTS_AT_ONCE", 3 * 8 * 6)
    sizes: list[int] = []

    def method(matrices: jax.Array) -> jax.Array:
        sizes.append(matrices.shape[0])
        return newton_schulz(matrices)

    update = oad.scale_by_scion(1, oad.spectral_norm_ball(axes=FUSED), method, "float32").update
    found, _ = update(stack, oad.ScionState(None), stack)
    np.testing.assert_allclose(found, math.sqrt(6 / 8) * newton_schulz(stack), rtol=1e-5, atol=1e-6)
    program = jax.jit(update).lower(stack, oad.ScionState(None), stack).as_text()
    assert "stablehlo.while" in program and "3x8x6" in program


PARAMS = {
    "embed": jnp.ones((32, 8)),
    "layers": {"up": jnp.ones((3, 8, 16)), "norm": jnp.ones((3, 8)), "bias": jnp.ones(16)},
    "proj": jnp.ones((16, 8)),
    "lm_head": jnp.ones((8, 32)),
    "temperature": jnp.ones(()),
}


def test_default_norms() -> None:
    balls = oad.scion_norms(oad.block_matrices(1, stacked=["layers"]))(PARAMS)
    assert balls == {
        "embed": oad.sign_ball(radius=60.0, axes=MuonDimensionNumbers(1, 0)),
        "layers": {
            "up": oad.spectral_norm_ball(axes=FUSED),
            "norm": oad.bias_ball(axes=MuonDimensionNumbers((), 1)),
            "bias": oad.bias_ball(),
        },
        "proj": oad.spectral_norm_ball(),
        "lm_head": oad.sign_ball(radius=60.0),
        "temperature": oad.bias_ball(),
    }
    flat = {key: leaf for key, leaf in PARAMS.items() if key != "layers"}
    assert oad.scion_norms()(flat) == {key: ball for key, ball in balls.items() if key != "layers"}


def test_projected_weights_lie_on_the_surface() -> None:
    norms = oad.scion_norms(oad.block_matrices(1, stacked=["layers"]))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.standard_normal(leaf.shape), jnp.bfloat16), PARAMS)
    projected = oad.project_onto_ball(params, norms, scale=2.0)
    assert jax.tree.map(lambda leaf: leaf.dtype, projected) == jax.tree.map(lambda leaf: leaf.dtype, params)

    def check(path: Any, ball: Any, leaf: jax.Array) -> None:
        norm = ball.norm(leaf.astype(jnp.float32)) / ball.radius
        is_vector = type(ball).__name__ == "Bias"
        np.testing.assert_allclose(norm, 0 if is_vector else 2, rtol=0.02, err_msg=str(path))

    jax.tree_util.tree_map_with_path(check, norms(params), projected)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, oad.project_onto_ball(zeros, norms), zeros)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 0.0}, r"momentum must be in \(0, 1\]"),
        ({"momentum": 1.5}, "got 1.5"),
        ({"orthogonalize": "qr"}, "one of 'newton_schulz', 'polar_express', 'svd'.*got 'qr'"),
        ({"dtype": jnp.int32}, "dtype must be a floating one"),
        ({"norms": oad.sign_ball()}, r"Sign ball of 'layers/bias'.*\(16,\).*MuonDimensionNumbers"),
        ({"norms": 3}, "norms holds 3 for 'embed'"),
        ({"norms": {"embed": oad.sign_ball()}}, "scion: norms does not have the structure of params"),
        ({"norms": oad.bias_ball(axes=MuonDimensionNumbers((), 4))}, "'embed'.*out of range"),
        ({"norms": oad.sign_ball(axes=MuonDimensionNumbers(0, 0))}, "'embed'.*must be distinct"),
        ({"norms": oad.scion_norms(False)}, r"'layers/up'.*\(3, 8, 16\)"),
        ({"scale": 0.0}, "scale must be finite and positive"),
        ({"learning_rate": -1.0}, "learning_rate must be finite"),
        ({"constrained": False, "decay": oad.alphadecay}, "constrained=False leaves the decay out"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oad.scion(**{"learning_rate": 0.1} | arguments).init(PARAMS)


@pytest.mark.parametrize(
    "make",
    [
        oad.spectral_norm_ball,
        oad.convolution_ball,
        oad.sign_ball,
        oad.column_ball,
        oad.row_ball,
        oad.bias_ball,
        lambda radius: oad.scion_norms(output_radius=radius),
    ],
)
def test_a_radius_is_positive(make: Any) -> None:
    with pytest.raises(ValueError, match=r"radius must be finite and positive, got -1\.0"):
        make(radius=-1.0)


def test_constrained_weights_stay_in_the_ball() -> None:
    optimizer = oad.scion(0.1, scale=2.0, norms=oad.spectral_norm_ball(), orthogonalize="svd", dtype="float32")
    params = oad.project_onto_ball(jnp.eye(6, 9), oad.spectral_norm_ball(), scale=2.0)
    state = optimizer.init(params)
    for seed in range(5):
        gradient = jnp.asarray(np.random.default_rng(seed).standard_normal((6, 9)), jnp.float32)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        assert oad.spectral_norm_ball().norm(params) <= 2 * (1 + 1e-5)
