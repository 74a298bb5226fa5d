"""What a ball of a norm is: the point furthest along a direction, the norm itself, and where weights start."""
# SPDX-License-Identifier: Apache-2.0

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.decay import wide_dtype
from optax_alphadecay.norms.matrix_view import MatrixView, view
from optax_alphadecay.norms.orthogonalize import polar_factor

_EPS = 1e-8  # of the official code


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormBall(abc.ABC):
    """A ball of a norm of matrices. Every matrix of a leaf is in one of its own.

    A matrix is ``[inputs, outputs]``, as JAX's kernels are; the official code's is the transpose of it. Made by
    :func:`spectral_norm_ball` and the other functions of this file.
    """

    radius: float
    """Relative to the other leaves' balls; Scion's ``scale`` multiplies all of them."""
    axes: MuonDimensionNumbers | None
    """Which axes of a leaf are inputs (reduced over) and outputs; the others are stacked. None: the ball's default."""

    is_spectral = False
    """Whether its extreme points are orthogonalised matrices."""

    def view(self, shape: tuple[int, ...]) -> MatrixView:
        """How a leaf of this shape is seen as matrices.

        Raises:
          ValueError: if its axes are not stated and cannot be guessed, or stated wrongly.
        """
        if self.axes is not None:
            return view(shape, *self.axes)
        return self._default_view(shape)

    def extreme_point(self, leaf: jax.Array, orthogonal: jax.Array | None = None) -> jax.Array:
        """The point of the unit ball whose inner product with ``leaf`` is the largest, up to round-off and eps.

        Args:
          leaf: of any rank that the ball's axes allow.
          orthogonal: for the spectral balls, the leaf with its matrices orthogonalised; by an exact decomposition if
            None. The result is as far from the best point as this is from exact.

        Returns:
          An array like ``leaf``. A matrix of zeros gives one.
        """
        seen = self.view(leaf.shape)
        size = self._size(seen)
        return seen.as_leaf(size * self._direction(seen.as_matrices(leaf), _EPS * size))

    def norm(self, leaf: jax.Array) -> jax.Array:
        """The norm of each matrix of the leaf, ``[k]``: at most 1 in the unit ball."""
        seen = self.view(leaf.shape)
        return self._norm(seen.as_matrices(leaf)) / self._size(seen)

    def project(self, leaf: jax.Array) -> jax.Array:
        """Initial weights brought onto the unit ball as the official code's ``init`` draws them there."""
        return self.extreme_point(leaf)

    def _default_view(self, shape: tuple[int, ...]) -> MatrixView:
        if len(shape) != 2:
            raise ValueError(
                f"which of the axes of the shape {shape} are inputs, outputs and stacked is not known; give the ball"
                " axes=optax.contrib.MuonDimensionNumbers(reduction_axis=..., output_axis=...)"
            )
        return view(shape, 0, 1)

    @abc.abstractmethod
    def _size(self, seen: MatrixView) -> float:
        """What the direction is multiplied by."""

    @abc.abstractmethod
    def _direction(self, matrices: jax.Array, eps: float) -> jax.Array:
        """The extreme point of the plain norm's unit ball, ``[k, m, n]``."""

    @abc.abstractmethod
    def _norm(self, matrices: jax.Array) -> jax.Array:
        """The plain norm, ``[k]``."""


class _Orthogonal(NormBall):
    is_spectral = True

    def extreme_point(self, leaf: jax.Array, orthogonal: jax.Array | None = None) -> jax.Array:
        return super().extreme_point(leaf) if orthogonal is None else self._size(self.view(leaf.shape)) * orthogonal

    def _direction(self, matrices: jax.Array, eps: float) -> jax.Array:
        return polar_factor(matrices)

    def _norm(self, matrices: jax.Array) -> jax.Array:
        return jnp.linalg.svd(matrices, compute_uv=False)[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectral(_Orthogonal):
    """See :func:`spectral_norm_ball`."""

    max: bool
    normalized: bool

    def _size(self, seen: MatrixView) -> float:
        size = math.sqrt(seen.size(seen.outputs) / (seen.size(seen.inputs) if self.normalized else 1))
        return max(1.0, size) if self.max else size


class Convolution(_Orthogonal):
    """See :func:`convolution_ball`."""

    def project(self, leaf: jax.Array) -> jax.Array:
        """Every tap orthogonal."""
        seen = self.view(leaf.shape)
        # Each tap by itself, where a step orthogonalises all of them as one matrix.
        tap = view(leaf.shape, seen.inputs[-1], seen.outputs)
        return tap.as_leaf(self._size(seen) * polar_factor(tap.as_matrices(leaf)))

    def _size(self, seen: MatrixView) -> float:
        *taps, channels = seen.inputs
        return math.sqrt(seen.size(seen.outputs) / seen.shape[channels]) / seen.size(tuple(taps))

    def _default_view(self, shape: tuple[int, ...]) -> MatrixView:
        rank = len(shape)
        return view(shape, range(rank - 1), rank - 1) if rank in (3, 4) else super()._default_view(shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign(NormBall):
    """See :func:`sign_ball`."""

    normalized: bool

    def _size(self, seen: MatrixView) -> float:
        return 1 / max(seen.size(seen.inputs), 1) if self.normalized else 1.0

    def _direction(self, matrices: jax.Array, eps: float) -> jax.Array:
        return jnp.sign(matrices)

    def _norm(self, matrices: jax.Array) -> jax.Array:
        return jnp.abs(matrices).max(axis=(1, 2))


class _Vectors(NormBall):
    """Vectors of one Euclidean length, along one side of the matrices."""

    side = 2

    def _direction(self, matrices: jax.Array, eps: float) -> jax.Array:
        wide = matrices.astype(wide_dtype(matrices))  # squares and eps are out of the range of float16
        return (wide / (jnp.linalg.norm(wide, axis=self.side, keepdims=True) + eps)).astype(matrices.dtype)

    def _norm(self, matrices: jax.Array) -> jax.Array:
        return jnp.linalg.norm(matrices.astype(wide_dtype(matrices)), axis=self.side).max(axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column(_Vectors):
    """See :func:`column_ball`."""

    normalized: bool

    def _size(self, seen: MatrixView) -> float:
        return math.sqrt(seen.size(seen.outputs)) / (seen.size(seen.inputs) if self.normalized else 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(_Vectors):
    """See :func:`row_ball`."""

    normalized: bool
    side = 1

    def _size(self, seen: MatrixView) -> float:
        return 1 / math.sqrt(seen.size(seen.inputs)) if self.normalized else 1.0


class Bias(_Vectors):
    """See :func:`bias_ball`."""

    def project(self, leaf: jax.Array) -> jax.Array:
        """Zeros."""
        return jnp.zeros_like(leaf)

    def _size(self, seen: MatrixView) -> float:
        return math.sqrt(seen.size(seen.outputs))

    def _default_view(self, shape: tuple[int, ...]) -> MatrixView:
        return view(shape, (), range(len(shape))) if len(shape) < 2 else super()._default_view(shape)
