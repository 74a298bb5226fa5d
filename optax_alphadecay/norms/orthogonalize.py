"""Nearest orthogonal matrices of whole stacks: the official iterations, bounded in memory."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optax_alphadecay.decay import wide_dtype

Orthogonalizer = Callable[[jax.Array], jax.Array]
"""From matrices ``[k, m, n]`` to matrices of the same shape with the same singular vectors and values near 1."""

_ELEMENTS_AT_ONCE = 2**26
"""Elements of a stack that are orthogonalised at once: 16 matrices of 2048 x 2048, some 0.5 GB in bfloat16."""

_NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5
# Polar Express: the first five of the polynomials, each for arguments that are 1.01 times too small, for safety.
_POLAR_EXPRESS = tuple(
    (a / 1.01, b / 1.01**3, c / 1.01**5)
    for a, b, c in (
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    )
)


def newton_schulz(matrices: jax.Array) -> jax.Array:
    """Orthogonalises by five Newton-Schulz steps.

    Singular values of at least 0.003 of the Frobenius norm end between 0.68 and 1.21.

    In float32 this is the arithmetic of ``optax.contrib.orthogonalize_via_newton_schulz`` with ``eps=1e-7``. In
    bfloat16 it is not: optax rounds the coefficients to bfloat16, the official code only the products.

    Args:
      matrices: ``[k, m, n]``, in the dtype to compute in. A matrix of zeros stays one.

    Returns:
      ``[k, m, n]`` in that dtype.

    References:
      Jordan et al., `Muon <https://kellerjordan.github.io/posts/muon/>`_, 2024.
    """
    return _iterate(matrices, _NEWTON_SCHULZ, slack=1.0, eps=1e-7)


def polar_express(matrices: jax.Array) -> jax.Array:
    """Orthogonalises by five steps of Polar Express.

    Singular values of at least 0.003 of the Frobenius norm end between 0.87 and 1.13.

    Args:
      matrices: ``[k, m, n]``, in the dtype to compute in. A matrix of zeros stays one.

    Returns:
      ``[k, m, n]`` in that dtype.

    References:
      Amsel et al., `The Polar Express <https://arxiv.org/abs/2505.16932>`_, 2025.
    """
    return _iterate(matrices, _POLAR_EXPRESS, slack=1.01, eps=1e-8)


def polar_factor(matrices: jax.Array) -> jax.Array:
    """Orthogonalises exactly, by a singular value decomposition in at least float32.

    A matrix of zeros stays one, and one with NaN is all NaN.
    """
    wide = matrices.astype(wide_dtype(matrices))
    u, values, vt = jnp.linalg.svd(wide, full_matrices=False)
    product = jnp.matmul(u, vt, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(values.max(axis=-1)[:, None, None] == 0, 0, product).astype(matrices.dtype)


METHODS: dict[str, Orthogonalizer] = {
    "newton_schulz": newton_schulz,
    "polar_express": polar_express,
    "svd": polar_factor,
}


def orthogonalizer(name: str, method: str | Orthogonalizer) -> Orthogonalizer:
    """The method of that name, for a bounded number of matrices at once.

    Args:
      name: whose argument it is, for the error.
      method: ``"newton_schulz"``, ``"polar_express"``, ``"svd"`` or a function of matrices ``[k, m, n]``.

    Returns:
      A function of matrices ``[k, m, n]``.

    Raises:
      ValueError: if the method is unknown.
    """
    if not callable(method) and method not in METHODS:
        raise ValueError(
            f"{name}: orthogonalize must be one of {', '.join(map(repr, METHODS))}, or a function of matrices"
            f" [k, m, n]; got {method!r}."
        )
    function = method if callable(method) else METHODS[method]

    def orthogonalize(matrices: jax.Array) -> jax.Array:
        k, m, n = matrices.shape
        at_once = max(1, _ELEMENTS_AT_ONCE // (m * n))
        if k <= at_once:
            return function(matrices)
        return jax.lax.map(lambda matrix: function(matrix[None])[0], matrices, batch_size=at_once)

    return orthogonalize


def _iterate(
    matrices: jax.Array, polynomials: tuple[tuple[float, float, float], ...], slack: float, eps: float
) -> jax.Array:
    """Applies odd polynomials ``a x + b x^3 + c x^5`` to the singular values, which first come to at most 1/slack.

    Products of matrices are rounded to their dtype, sums and scalings are not before they are stored.
    """
    dtype, is_tall = matrices.dtype, matrices.shape[1] > matrices.shape[2]
    wide = wide_dtype(matrices)
    x = (matrices.swapaxes(1, 2) if is_tall else matrices).astype(wide)
    norms = jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True))
    x = (x / (slack * norms + eps)).astype(dtype)
    for a, b, c in polynomials:
        gram = x @ x.swapaxes(1, 2)
        factor = (b * gram.astype(wide) + c * (gram @ gram).astype(wide)).astype(dtype)
        x = (a * x.astype(wide) + (factor @ x).astype(wide)).astype(dtype)
    return x.swapaxes(1, 2) if is_tall else x
