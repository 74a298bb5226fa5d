"""Eigenvalues of stacks of matrices against float64 singular values, by every solver."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.spectra import eigenvalues as eigenvalues_lib
from optax_alphadecay.spectra.eigenvalues import Solver, SolverName, eigenvalues_of_stacks
from tests import compiler

EXACT = [solver for solver in get_args(SolverName) if solver != "stochastic"]


def squared_singular_values(matrices: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrices.astype(np.float64), compute_uv=False)[..., ::-1] ** 2


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("shape", [(3, 20, 33), (2, 2, 33, 20), (7, 1)])
def test_solvers_find_the_squared_singular_values(solver: Solver, shape: tuple[int, ...]) -> None:
    matrices = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = squared_singular_values(matrices)
    found = oad.eigenvalues(matrices, solver=solver)
    assert found.shape == expected.shape and found.dtype == jnp.float32
    epsilon = np.finfo(np.float32).eps
    assert (np.abs(found - expected) <= 8 * epsilon * expected[..., -1:]).all()


@pytest.mark.parametrize("solver", [*EXACT, oad.stochastic(probes=8, steps=40)])
def test_upper_half_is_that_of_all(solver: Solver) -> None:
    stacks = [jnp.asarray(np.random.default_rng(3).normal(size=s), jnp.float32) for s in [(2, 7, 9), (1, 6, 5)]]
    everything = eigenvalues_of_stacks(stacks, solver)
    for values, upper in zip(everything, eigenvalues_of_stacks(stacks, solver, upper_half=True), strict=True):
        np.testing.assert_array_equal(upper, values[:, values.shape[1] // 2 :])


def test_svd_keeps_small_eigenvalues() -> None:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(20, 20)))[0] for _ in range(2))
    matrix = (left * np.geomspace(1e-4, 1, 20) @ right).astype(np.float32)
    expected = squared_singular_values(matrix)
    error = {solver: np.abs(oad.eigenvalues(matrix, solver=solver) / expected - 1).max() for solver in EXACT}
    assert error["svd"] < 1e-2 < error["tridiagonal"]


def test_separate_matrices_are_streamed() -> None:
    """Sixteen separate matrices take no more memory than a block of four of them and a few Gram matrices."""
    matrices = [jax.ShapeDtypeStruct((1, 512, 512), jnp.float32)] * 16
    one = 512 * 512 * 4
    for solver in ("tridiagonal", "eigvalsh"):
        memory: Any = eigenvalues_of_stacks.lower(matrices, solver).compile(compiler.USERS_OPTIONS).memory_analysis()
        assert memory.temp_size_in_bytes < 12 * one


@pytest.mark.parametrize("count", [10, 11])
def test_blocks_of_separate_matrices_leave_none_out(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenvalues_lib, "_BLOCK_BYTES", 3 * 5 * 6 * 4)
    rng = np.random.default_rng(4)
    matrices = [jnp.asarray(rng.normal(size=(1, 5, 6)), jnp.float32) for _ in range(count)]
    expected = squared_singular_values(np.concatenate(matrices))
    jax.clear_caches()  # of what was traced with larger blocks
    found = jnp.concatenate(eigenvalues_of_stacks(matrices, "tridiagonal"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_program_grows_with_the_number_of_separate_matrices_and_not_with_its_square() -> None:
    def length(count: int) -> int:
        matrices = [jax.ShapeDtypeStruct((1, 8, 8), jnp.float32)] * count
        return len(eigenvalues_of_stacks.lower(matrices, "eigvalsh").as_text())

    few, more, most = length(50), length(100), length(200)
    assert most - more < 2.2 * (more - few)


def test_stacks_of_one_size_are_solved_together_and_returned_in_order() -> None:
    rng = np.random.default_rng(1)
    shapes = [(2, 8, 5), (1, 5, 9), (3, 4, 4), (1, 6, 5), (1, 4, 9), (3, 6, 5)]
    stacks = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    for stack, values in zip(stacks, eigenvalues_of_stacks(stacks, "tridiagonal"), strict=True):
        np.testing.assert_allclose(values, squared_singular_values(np.asarray(stack)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", [*EXACT, "stochastic", oad.stochastic(probes=4, steps=9)])
def test_broken_matrices_break_alone(solver: Solver) -> None:
    matrices = np.stack([np.eye(5), np.full((5, 5), np.nan), np.zeros((5, 5)), np.eye(5)]).astype(np.float32)
    matrices[3, 2, 1] = np.inf
    values = oad.eigenvalues(matrices, solver=solver)
    np.testing.assert_allclose(values[0], 1, rtol=1e-6)
    assert np.isnan(values[1]).all() and np.isnan(values[3]).all()
    np.testing.assert_array_equal(values[2], 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_weights_have_float32_spectra(dtype: jnp.dtype) -> None:
    matrix = jax.random.normal(jax.random.key(0), (9, 12), dtype)
    expected = squared_singular_values(np.asarray(matrix, np.float64))
    np.testing.assert_allclose(oad.eigenvalues(matrix), expected, rtol=1e-5)


def test_tiny_and_huge_weights_stay_in_range() -> None:
    matrix = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)
    for scale in (2.0**-62, 2.0**55):
        np.testing.assert_allclose(oad.eigenvalues(matrix * scale), oad.eigenvalues(matrix) * scale**2, rtol=1e-6)


def test_empty_stacks_and_wrong_input() -> None:
    assert oad.eigenvalues(jnp.zeros((0, 4, 3))).shape == (0, 3)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        oad.eigenvalues(jnp.zeros(4))
    with pytest.raises(ValueError, match="int32"):
        oad.eigenvalues(jnp.zeros((4, 4), jnp.int32))
    with pytest.raises(ValueError, match=r"'lanczos'.*'tridiagonal'"):
        oad.eigenvalues(jnp.zeros((4, 4)), solver="lanczos")  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["tridiagonal", "svd"])
def test_a_stack_and_separate_matrices_of_its_shape(solver: Solver) -> None:
    rng = np.random.default_rng(6)
    stacks = [jnp.asarray(rng.normal(size=(count, 4, 6)), jnp.float32) for count in (1, 3, 1, 2)]
    for stack, values in zip(stacks, eigenvalues_of_stacks(stacks, solver), strict=True):
        np.testing.assert_allclose(values, squared_singular_values(np.asarray(stack)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (12, 5, 4),  # three blocks of four, no padding
        (11, 5, 5),  # no divisor: 5, 5, 1 and four of padding
        (14, 4, 4),  # two would divide it, but are fewer than half the most
        (9, 5, 3),  # just above half
        (4, 4, 4),
        (3, 100, 3),
        (6, 1, 1),
        (6, 0, 1),  # a matrix that is larger than a block
    ],
)
def test_a_block_holds_a_divisor_of_the_number_if_one_is_near(count: int, most: int, expected: int) -> None:
    size = eigenvalues_lib._BLOCK_BYTES // most if most else eigenvalues_lib._BLOCK_BYTES + 1
    assert eigenvalues_lib._block_length(count, size) == expected


def test_the_lower_gram_matrix_of_three_rows() -> None:
    lower = eigenvalues_lib._lower_gram(jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    np.testing.assert_array_equal(np.tril(lower), [[5, 0, 0], [11, 25, 0], [17, 39, 61]])


def test_the_largest_entry_is_brought_below_one_by_a_power_of_two() -> None:
    matrix, scale = eigenvalues_lib._scaled(jnp.array([[1.0], [0.5], [-6.0]], jnp.bfloat16))
    np.testing.assert_array_equal(matrix, [[0.125, 0.0625, -0.75]])
    assert matrix.dtype == jnp.float32 and scale == 8
