"""Eigenvalues of symmetric tridiagonal matrices by bisection."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np

# The first pass counts on a grid spaced by a constant factor, from below float32's noise up to the largest eigenvalue;
# each halving after it adds a bit to every eigenvalue's relative accuracy.
_GRID_START = 2.0**-26
_FEWEST_GRID_POINTS = 256
_HALVINGS = 18
# Steps of the recurrence compiled into one loop body: amortises the cost of a loop iteration.
_UNROLL = 4


def bisect(diagonals: jax.Array, off_diagonals: jax.Array, *, first: int = 0) -> jax.Array:
    """Compute eigenvalues of positive semi-definite tridiagonal matrices, each to relative accuracy.

    ``jax.scipy.linalg.eigh_tridiagonal`` halves one interval of linear scale for every eigenvalue, which leaves
    an error relative to the largest one. Spectra here span many orders of magnitude and are read on a log scale, so the
    search starts from a logarithmic grid instead: as accurate for small eigenvalues as the matrix allows,
    in fewer passes over it.

    Args:
      diagonals: float32 ``[k, N]``.
      off_diagonals: float32 ``[k, N - 1]``.
      first: how many of the smallest eigenvalues to leave out.

    Returns:
      float32 ``[k, N - first]``, ascending. Eigenvalues below ``2**-26`` of the norm, negative ones included, come out
      somewhere between plus and minus that. NaN where the input is not finite.

    References:
      Demmel, Dhillon and Ren, `On the correctness of some bisection-like parallel eigenvalue algorithms in
      floating point arithmetic <https://etna.math.kent.edu/vol.3.1995/pp116-149.dir/pp116-149.pdf>`_, 1995.
    """
    n = diagonals.shape[-1]
    absolute = jnp.abs(off_diagonals)
    radius = jnp.pad(absolute, ((0, 0), (0, 1))) + jnp.pad(absolute, ((0, 0), (1, 0)))
    norm = (diagonals + radius).max(axis=-1, keepdims=True) * 1.001  # Gershgorin
    squares = jnp.pad(off_diagonals**2, ((0, 0), (1, 0)))
    # A coupling of exactly zero after a pivot of exactly zero would make 0 / 0.
    squares = jnp.maximum(squares, jnp.float32(1e-30) * norm**2)

    grid = np.concatenate([[-_GRID_START], np.geomspace(_GRID_START, 1, max(n, _FEWEST_GRID_POINTS))]).astype(
        np.float32
    )
    edges = norm * grid[None]
    counts = _eigenvalues_below(diagonals, squares, edges[:, 1:])
    ranks = jnp.arange(first, n, dtype=jnp.int32)[None]
    interval = jax.vmap(lambda counts: jnp.searchsorted(counts, ranks[0], side="right"))(counts)
    interval = jnp.minimum(interval, edges.shape[-1] - 2)
    low = jnp.take_along_axis(edges, interval, axis=-1)
    high = jnp.take_along_axis(edges, interval + 1, axis=-1)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        is_above = _eigenvalues_below(diagonals, squares, middle) <= ranks
        return jnp.where(is_above, middle, low), jnp.where(is_above, high, middle)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return jnp.where(jnp.isfinite(norm), jax.lax.sort((low + high) / 2), jnp.nan)


def _eigenvalues_below(diagonals: jax.Array, squares: jax.Array, points: jax.Array) -> jax.Array:
    """Count the eigenvalues below each point, the negative pivots of ``T - x``: ``[k, p] -> int32 [k, p]``."""

    def eliminate(
        carry: tuple[jax.Array, jax.Array], row: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        pivot, count = carry
        diagonal, square = row
        # By IEEE arithmetic, a pivot of zero makes the next one infinite and the one after it finite again.
        pivot = diagonal[:, None] - points - square[:, None] / pivot
        return (pivot, count + (pivot < 0).astype(jnp.int32)), None

    start = jnp.full_like(points, jnp.inf), jnp.zeros_like(points, jnp.int32)
    (_, count), _ = jax.lax.scan(eliminate, start, (diagonals.T, squares.T), unroll=_UNROLL)
    return count
