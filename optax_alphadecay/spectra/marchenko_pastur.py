"""The spectrum of a random matrix: its edges, and the alpha that its shape alone gives."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable

import numpy as np

# The integrands are smooth in the angle: 64 nodes agree with adaptive quadrature to 1e-12.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def marchenko_pastur_edges(m: int, n: int, stddev: float = 1.0) -> tuple[float, float]:
    """Ends of the spectrum of a large random matrix.

    Args:
      m: rows, at least 1.
      n: columns, at least 1.
      stddev: standard deviation of the entries, which are independent with mean 0.

    Returns:
      The smallest and the largest eigenvalue of ``W @ W.T`` on its smaller side, in the limit of large matrices.
      The ends of a finite matrix lie near them, on either side.

    Raises:
      ValueError: unless ``m`` and ``n`` are at least 1.

    Example:
      >>> import optax_alphadecay as oad
      >>> oad.marchenko_pastur_edges(64, 256)
      (64.0, 576.0)

    References:
      Marchenko and Pastur, `Distribution of eigenvalues for some sets of random matrices
      <https://doi.org/10.1070/SM1967v001n04ABEH001994>`_, 1967.
    """
    _check_sides("marchenko_pastur_edges", m, n)
    smaller, larger = np.sqrt(min(m, n)), np.sqrt(max(m, n))
    return float(stddev**2 * (larger - smaller) ** 2), float(stddev**2 * (larger + smaller) ** 2)


@functools.cache
def random_matrix_alpha(m: int, n: int) -> float:
    """Alpha, by the median fit, of a large random matrix: what its shape gives without any training.

    It depends on the aspect ratio alone, from 2.12 for a square matrix to 4.47 at 1 : 8. So a difference between alphas
    of matrices of different shapes tells nothing by itself.

    Args:
      m: rows, at least 1.
      n: columns, at least 1.

    Returns:
      ``1 + 1 / E[ln(lambda / median) | lambda >= median]`` under the Marchenko-Pastur law. A finite Gaussian matrix has
      this alpha on average, but for a deviation that shrinks with its number of eigenvalues.

    Raises:
      ValueError: unless ``m`` and ``n`` are at least 1.

    Example:
      >>> import optax_alphadecay as oad
      >>> print(f"{oad.random_matrix_alpha(512, 512):.4f} {oad.random_matrix_alpha(512, 1376):.4f}")
      2.1217 2.9992

    References:
      Hu et al., `Eigenspectrum Analysis of Neural Networks without Aspect Ratio Bias
      <https://arxiv.org/abs/2506.06280>`_, 2025.
    """
    _check_sides("random_matrix_alpha", m, n)
    q = min(m, n) / max(m, n)
    low, high = 0.0, np.pi
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _integral(q, middle, np.ones_like) < 0.5 else (low, middle)
    median = _eigenvalue(q, np.array(low))
    return float(1 + 0.5 / _integral(q, low, lambda eigenvalues: np.log(eigenvalues / median)))


def _eigenvalue(q: float, angle: np.ndarray) -> np.ndarray:
    """Eigenvalues over the larger side, from the upper edge (angle 0) to the lower one (pi)."""
    return 1 + q + 2 * np.sqrt(q) * np.cos(angle)


def _integral(q: float, angle: float, function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Integral of a function of the eigenvalue over the share of the spectrum above an angle's eigenvalue."""
    angles = angle * (_NODES + 1) / 2
    eigenvalues = _eigenvalue(q, angles)
    # Of the Marchenko-Pastur density in the angle; where q is 1 and the angle pi, 0 / 0 is not reached by any node.
    density = 2 * np.sin(angles) ** 2 / (np.pi * eigenvalues)
    return float(angle / 2 * (_WEIGHTS * density * function(eigenvalues)).sum())


def _check_sides(name: str, m: int, n: int) -> None:
    if min(m, n) < 1:
        raise ValueError(f"{name}: a matrix has at least one row and one column, got m={m!r} and n={n!r}.")
