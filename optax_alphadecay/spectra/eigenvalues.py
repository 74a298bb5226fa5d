"""Matrices to eigenvalues of their Gram matrices."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np

from optax_alphadecay.distribution import pcast_varying, varying_axes
from optax_alphadecay.grouping import split
from optax_alphadecay.spectra.lanczos import Stochastic, quadrature, stochastic
from optax_alphadecay.spectra.tridiagonal import bisect

T = TypeVar("T")
SolverName = Literal["auto", "tridiagonal", "eigvalsh", "jacobi", "svd", "stochastic"]
Solver = SolverName | Stochastic
# Separate matrices are copied to blocks of at most so many bytes, or of one matrix.
_BLOCK_BYTES = 4 * 2**20
_Reduced = tuple[jax.Array, jax.Array, jax.Array]  # diagonals, off-diagonals, scales


def eigenvalues(matrices: jax.typing.ArrayLike, *, solver: Solver = "auto") -> jax.Array:
    """Compute the eigenvalues of ``W @ W.T`` for every matrix of a stack.

    They are the squared singular values of ``W``, computed in float32 from the Gram matrix of the smaller
    side. A stack is streamed: at any time one Gram matrix is in memory, not one per matrix.

    Args:
      matrices: real array of shape ``[..., m, n]`` and any floating dtype.
      solver: ``"tridiagonal"`` reduces to tridiagonal form and bisects for the eigenvalues alone;
        exact and the fastest on CPU and GPU, and without a TPU implementation. ``"jacobi"`` rotates until the matrix
        is diagonal, which TPUs and GPUs do in parallel and compile in seconds; on a CPU it is ``"eigvalsh"``.
        ``"eigvalsh"`` is ``jnp.linalg.eigvalsh``, which computes eigenvectors too and drops them, and takes minutes
        to compile for a TPU from a size of 1024 or so. ``"svd"`` squares singular values, without a Gram matrix: the
        slowest, and the one to take where the smallest eigenvalues matter, as in :func:`fix_finger`. ``"auto"`` is
        ``"tridiagonal"`` on CPU and GPU, and ``"jacobi"`` elsewhere. ``"stochastic"``, or :func:`stochastic` with
        settings of its own, estimates quantiles of the spectrum from matrix products alone.

    Returns:
      float32 array of shape ``[..., min(m, n)]``, ascending. Round-off moves each value by a few float32 epsilons
      of the largest one (``"svd"``: of the geometric mean of both), so that a zero may come out slightly negative;
      those of ``"stochastic"`` are estimates of quantiles.
      NaN where a matrix holds NaN or infinity.

    Raises:
      ValueError: if ``matrices`` has fewer than two axes or is not real floating, or the solver is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from optax_alphadecay import eigenvalues
      >>> print(eigenvalues(jnp.diag(jnp.array([3.0, 1.0, 2.0]))).round(4))
      [1. 4. 9.]
    """
    check_solver(solver)
    matrices = jnp.asarray(matrices)
    if matrices.ndim < 2 or not jnp.issubdtype(matrices.dtype, jnp.floating):
        raise ValueError(
            f"eigenvalues() takes real floating matrices [..., m, n], got shape {matrices.shape} and dtype"
            f" {matrices.dtype}; reshape or cast them first."
        )
    *stack_shape, m, n = matrices.shape
    if matrices.size == 0:
        return jnp.zeros((*stack_shape, min(m, n)), jnp.float32)
    (values,) = eigenvalues_of_stacks([matrices.reshape(-1, m, n)], solver)
    return values.reshape(*stack_shape, min(m, n))


@functools.partial(jax.jit, static_argnames=("solver", "upper_half"))
def eigenvalues_of_stacks(stacks: Sequence[jax.Array], solver: Solver, *, upper_half: bool = False) -> list[jax.Array]:
    """Compute the eigenvalues of several stacks, ``[k, m, n] -> [k, N]`` each with ``N = min(m, n)``.

    With ``upper_half`` the result holds the eigenvalues from ``N // 2`` on, and a solver that can leaves out the work
    for the others.
    """
    of_stack: dict[int, jax.Array] = {}
    for values, members in joined_eigenvalues(stacks, solver, upper_half=upper_half):
        of_stack |= zip(members, split(values, [len(stacks[member]) for member in members]), strict=True)
    return [of_stack[position] for position in range(len(stacks))]


def joined_eigenvalues(
    stacks: Sequence[jax.Array], solver: Solver, *, upper_half: bool = False
) -> list[tuple[jax.Array, list[int]]]:
    """As :func:`eigenvalues_of_stacks`, those with equally many in one array: a compiler takes 10 ms for each part.

    Returns:
      For every number of eigenvalues ``N`` an array ``[K, N]``, and the positions of the stacks that its rows are of,
      in the order of the rows.
    """
    members = [[position for group in groups for position in group] for groups in _groups(stacks)]
    return list(zip(_joined(list(stacks), solver, upper_half), members, strict=True))


@functools.partial(jax.jit, static_argnames=("solver", "upper_half"))
def _joined(stacks: list[jax.Array], solver: Solver, upper_half: bool) -> list[jax.Array]:
    solver = stochastic() if solver == "stochastic" else solver
    solve = functools.partial(_stochastic, settings=solver) if isinstance(solver, Stochastic) else _SOLVERS[solver]
    return solve(stacks, upper_half)


def check_solver(solver: Solver) -> None:
    """Raise a ValueError that lists the solvers if ``solver`` is not one of them."""
    names = get_args(SolverName)
    if not isinstance(solver, Stochastic) and solver not in names:
        raise ValueError(f"unknown solver {solver!r}; choose one of {', '.join(map(repr, names))}, or stochastic(...).")


def _tridiagonal(stacks: list[jax.Array], upper_half: bool) -> list[jax.Array]:
    """Reduce one matrix after the other, then bisect for the eigenvalues of all matrices of one size at once."""

    def reduce(matrix: jax.Array) -> _Reduced:
        matrix, scale = _scaled(matrix)
        _, diagonal, off_diagonal, _ = jax.lax.linalg.tridiagonal(_lower_gram(matrix), lower=True)
        return diagonal, off_diagonal, scale

    def solve(group: list[_Reduced]) -> jax.Array:
        diagonals, off_diagonals, scales = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *group)
        first = diagonals.shape[-1] // 2 if upper_half else 0
        return _unscale(bisect(diagonals, off_diagonals, first=first), scales[:, None])

    return [solve(groups) for groups in _map_matrices(reduce, stacks)]


def _eigvalsh(stacks: list[jax.Array], upper_half: bool) -> list[jax.Array]:
    return _solve_each(_of_gram(jnp.linalg.eigvalsh), stacks, upper_half)


def _jacobi(stacks: list[jax.Array], upper_half: bool) -> list[jax.Array]:
    def solve(gram: jax.Array) -> jax.Array:
        return jax.lax.linalg.eigh(gram, implementation=jax.lax.linalg.EighImplementation.JACOBI)[1]

    solve_anywhere = functools.partial(jax.lax.platform_dependent, cpu=jnp.linalg.eigvalsh, default=solve)
    return _solve_each(_of_gram(solve_anywhere), stacks, upper_half)


def _svd(stacks: list[jax.Array], upper_half: bool) -> list[jax.Array]:
    def solve(matrix: jax.Array) -> jax.Array:
        # NaN in, NaN out: LAPACK's SVD does not promise it.
        values = jnp.linalg.svd(matrix.astype(jnp.float32), compute_uv=False)[::-1] ** 2
        return jnp.where(jnp.isfinite(matrix).all(), values, jnp.nan)

    return _solve_each(solve, stacks, upper_half)


def _auto(stacks: list[jax.Array], upper_half: bool) -> list[jax.Array]:
    tridiagonal = functools.partial(_tridiagonal, upper_half=upper_half)
    jacobi = functools.partial(_jacobi, upper_half=upper_half)
    values: list[jax.Array] = jax.lax.platform_dependent(
        stacks, cpu=tridiagonal, cuda=tridiagonal, rocm=tridiagonal, default=jacobi
    )
    return values


def _stochastic(stacks: list[jax.Array], upper_half: bool, settings: Stochastic) -> list[jax.Array]:
    def solve(matrix: jax.Array) -> jax.Array:
        matrix, scale = _scaled(matrix)
        return _unscale(quadrature(matrix, **dataclasses.asdict(settings)), scale)

    return _solve_each(solve, stacks, upper_half)


_SOLVERS: dict[SolverName, Callable[[list[jax.Array], bool], list[jax.Array]]] = {
    "auto": _auto,
    "tridiagonal": _tridiagonal,
    "eigvalsh": _eigvalsh,
    "jacobi": _jacobi,
    "svd": _svd,
}


def _solve_each(solve: Callable[[jax.Array], jax.Array], stacks: list[jax.Array], upper_half: bool) -> list[jax.Array]:
    def solve_one(matrix: jax.Array) -> jax.Array:
        values = solve(matrix)
        return values[len(values) // 2 :] if upper_half else values

    return [jnp.concatenate(groups) for groups in _map_matrices(solve_one, stacks)]


def _of_gram(solve: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Turn a solver of Gram matrices into one of matrices."""

    def eigenvalues_of(matrix: jax.Array) -> jax.Array:
        matrix, scale = _scaled(matrix)
        return _unscale(solve(_product(matrix, matrix)), scale)

    return eigenvalues_of


def _scaled(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Divide the matrix, smaller side first, by a power of two that brings its largest entry near 1.

    Without the scale, the squares in the Gram matrix would leave the range of float32 before the eigenvalues do.
    """
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    matrix = matrix.astype(jnp.float32)
    # Column by column first, which compilers for CPUs turn into vector instructions.
    _, exponent = jnp.frexp(jnp.abs(matrix).max(axis=0).max())
    exponent = jnp.clip(exponent, -126, 126)
    return matrix * jnp.ldexp(jnp.float32(1), -exponent), jnp.ldexp(jnp.float32(1), exponent)


def _unscale(values: jax.Array, scale: jax.Array) -> jax.Array:
    return values * scale * scale


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Compute ``left @ right.T`` in full float32, which accelerators do only when asked to."""
    return jax.lax.dot_general(left, right, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)


def _lower_gram(matrix: jax.Array) -> jax.Array:
    """Compute the lower triangle of ``W @ W.T`` in two blocks of rows, with 3/4 of the work.

    The upper block stops at the diagonal. More blocks would save more work but no time: their products are smaller.
    """
    half = len(matrix) // 2
    upper, lower = _product(matrix[:half], matrix[:half]), _product(matrix[half:], matrix)
    return jnp.concatenate([jnp.pad(upper, ((0, 0), (0, len(matrix) - half))), lower])


def _groups(stacks: Sequence[jax.Array]) -> list[list[list[int]]]:
    """Positions of stacks, by their number of eigenvalues and then by what one loop can go over."""
    by_size: dict[int, dict[tuple[object, ...], list[int]]] = {}
    for position, stack in enumerate(stacks):
        alike = len(stack) == 1, stack.shape[1:], stack.dtype
        by_size.setdefault(min(stack.shape[1:]), {}).setdefault(alike, []).append(position)
    return [list(groups.values()) for groups in by_size.values()]


def _map_matrices(function: Callable[[jax.Array], T], stacks: list[jax.Array]) -> list[list[T]]:
    """Apply a function to every matrix of every stack, with the intermediates of one matrix in memory at a time.

    There is one loop for the stacks of each shape, and one for the separate matrices: without a loop nothing would keep
    the compiler from having the Gram matrices of all of them alive at once. Each of :func:`_groups` gives one result.
    """

    def map_group(group: list[int]) -> T:
        members = [stacks[position] for position in group]
        return _map_separate(function, members) if len(members[0]) == 1 else _map_stacked(function, members)

    return [list(map(map_group, groups)) for groups in _groups(stacks)]


def _map_stacked(function: Callable[[jax.Array], T], stacks: list[jax.Array]) -> T:
    """Apply a function to every matrix of stacks ``[k, m, n]``, picked one at a time; results are concatenated."""
    sizes = [len(stack) for stack in stacks]
    pick = [functools.partial(jax.lax.dynamic_index_in_dim, stack, keepdims=False) for stack in stacks]
    stack_index = np.repeat(np.arange(len(sizes)), sizes)
    row_index = np.concatenate([np.arange(size) for size in sizes])
    mapped: T = jax.lax.map(lambda index: function(jax.lax.switch(index[0], pick, index[1])), (stack_index, row_index))
    return mapped


def _map_separate(function: Callable[[jax.Array], T], matrices: list[jax.Array]) -> T:
    """Apply a function to separate matrices ``[1, m, n]``; results are concatenated.

    The matrices are copied block by block: a compiler takes some 20 ms for each block, and would for each matrix.
    """
    length = _block_length(len(matrices), matrices[0].size * matrices[0].dtype.itemsize)
    blocks = [matrices[start : start + length] for start in range(0, len(matrices), length)]

    def stacked(block: list[jax.Array]) -> jax.Array:
        return jnp.pad(jnp.concatenate(block), ((0, length - len(block)), (0, 0), (0, 0)))

    def map_block(index: jax.Array) -> T:
        matrices_BxMxN = jax.lax.switch(index, [functools.partial(stacked, block) for block in blocks])
        in_block = jnp.minimum(length, len(matrices) - index * length)
        mapped: T = jax.lax.map(
            lambda row: _unless_padding(function, row[0] < in_block, row[1]), (np.arange(length), matrices_BxMxN)
        )
        return mapped

    by_block = jax.lax.map(map_block, np.arange(len(blocks)))
    mapped: T = jax.tree.map(
        lambda leaf: leaf.reshape(len(blocks) * length, *leaf.shape[2:])[: len(matrices)], by_block
    )
    return mapped


def _block_length(count: int, size: int) -> int:
    """Choose how many matrices of ``size`` bytes to copy at once: a divisor of their number if one is near the most."""
    most = min(max(_BLOCK_BYTES // size, 1), count)
    return next((length for length in range(most, most // 2, -1) if count % length == 0), most)


def _unless_padding(function: Callable[[jax.Array], T], is_matrix: jax.Array, matrix: jax.Array) -> T:
    """Apply a function to a matrix; where it is padding, give zeros, which cost nothing."""
    axes = varying_axes([matrix])

    def zeros() -> T:
        shapes = jax.eval_shape(function, matrix)
        return jax.tree.map(lambda leaf: pcast_varying(jnp.zeros(leaf.shape, leaf.dtype), axes), shapes)

    result: T = jax.lax.cond(is_matrix, lambda: function(matrix), zeros)
    return result
