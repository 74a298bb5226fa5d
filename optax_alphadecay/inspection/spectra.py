"""A matrix to its spectrum, and to that of its entries shuffled."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from optax_alphadecay.spectra.eigenvalues import eigenvalues
from optax_alphadecay.spectra.marchenko_pastur import marchenko_pastur_edges
from optax_alphadecay.spectra.powerlaw import NOISE_FLOOR

# 99.9 % point of the Tracy-Widom law of order 1, which the largest eigenvalue of a random matrix follows.
_TRACY_WIDOM = 3.27
# Entries of a matrix that are converted to float64 at once; but never fewer columns than make products efficient.
_BLOCK, _COLUMNS = 1 << 20, 1 << 10


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """All that is kept of a matrix once it has been read."""

    eigenvalues: np.ndarray
    """Of ``W W^T``, ascending, float64 ``[N]``."""
    mean: float
    """Of the entries."""
    stddev: float
    """Of the entries; NaN for the product of an adapter's factors, whose entries are not independent."""
    traps: int
    """Eigenvalues of the matrix with its entries shuffled that no random matrix has; -1 if that was not measured."""


def measure(matrix: np.ndarray, *, shuffle: np.random.Generator | None) -> Spectrum:
    """Measure one matrix.

    On a CPU, NumPy does it in float64, where nothing is compiled for each new shape; on an accelerator the library's
    own solver in float32.

    Args:
      matrix: ``[m, n]`` of any floating dtype, overwritten if it is to be shuffled.
      shuffle: source of the permutation of its entries; None leaves that out.

    Returns:
      Its spectrum. All NaN if an entry is.
    """
    spectrum = _eigenvalues(matrix)
    mean, stddev = _moments(matrix)
    traps = -1
    if shuffle is not None and math.isfinite(stddev):
        shuffled = np.ascontiguousarray(matrix).reshape(-1)
        # Bytes are moved alike whatever they mean.
        shuffle.shuffle(shuffled.view(f"u{shuffled.dtype.itemsize}"))
        m, n = matrix.shape
        traps = beyond_edge(_eigenvalues(shuffled.reshape(m, n)), m, n, stddev)
    return Spectrum(spectrum, mean, stddev, traps)


def measure_product(left: np.ndarray, right: np.ndarray, scale: float) -> Spectrum:
    """Measure ``scale * left @ right`` of low rank, from its factors ``[m, r]`` and ``[r, n]``.

    Returns:
      The spectrum of ``min(m, n, r)`` eigenvalues that are not zero because of the rank.
    """
    left_factor, right_factor = (np.linalg.qr(factor.astype(np.float64))[1] for factor in (left, right.T))
    values = np.linalg.svd(scale * left_factor @ right_factor.T, full_matrices=False, compute_uv=False)[::-1]
    kept = min(left.shape[0], right.shape[1], left.shape[1])
    return Spectrum(values[len(values) - kept :] ** 2, math.nan, math.nan, -1)


def beyond_edge(spectrum: np.ndarray, m: int, n: int, stddev: float) -> int:
    """Count the eigenvalues that no random matrix of this shape has.

    The largest eigenvalue of a random matrix lies near the Marchenko-Pastur edge. Counted is what lies beyond all but
    one in a thousand of them.

    References:
      Johnstone, `On the distribution of the largest eigenvalue in principal components analysis
      <https://doi.org/10.1214/aos/1009210544>`_, 2001.
    """
    smaller, larger = math.sqrt(min(m, n)), math.sqrt(max(m, n) - 1)
    spread = (smaller + larger) * (1 / smaller + 1 / larger) ** (1 / 3) if larger else math.inf
    edge = marchenko_pastur_edges(m, n, stddev)[1]
    # Of a constant matrix the edge is 0, and all but one eigenvalue are round-off.
    return int((spectrum > max(edge + _TRACY_WIDOM * stddev**2 * spread, NOISE_FLOOR * spectrum[-1])).sum())


def _eigenvalues(matrix: np.ndarray) -> np.ndarray:
    if jax.default_backend() != "cpu":
        return np.asarray(eigenvalues(jnp.asarray(matrix)), np.float64)
    gram = _gram(matrix)
    if not np.isfinite(gram).all():
        return np.full(len(gram), math.nan)
    return np.linalg.eigvalsh(gram)


def _gram(matrix: np.ndarray) -> np.ndarray:
    """Compute ``W W^T`` of the smaller side in float64, a block of columns at a time."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows, columns = matrix.shape
    gram = np.zeros((rows, rows))
    width = max(_COLUMNS, _BLOCK // rows)
    for start in range(0, columns, width):
        block = matrix[:, start : start + width].astype(np.float64)
        gram += block @ block.T
    return gram


def _moments(matrix: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the entries, a block of rows at a time."""
    height = max(1, _BLOCK // matrix.shape[1])
    sums = np.zeros(2)
    for start in range(0, len(matrix), height):
        block = matrix[start : start + height].astype(np.float64)
        sums += block.sum(), np.vdot(block, block)
    mean, square = sums / matrix.size
    return float(mean), math.sqrt(max(square - mean**2, 0.0)) if math.isfinite(square) else math.nan
