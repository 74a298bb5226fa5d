"""The balls of norms that Scion steps in, and which leaf gets which."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.decay import check_positive
from optax_alphadecay.modules import (
    MatrixAxes,
    ModuleRule,
    PyTree,
    block_matrices,
    path_components,
    path_name,
    per_leaf,
)
from optax_alphadecay.modules.names import BIAS, EMBEDDING, NORM, SCALE
from optax_alphadecay.norms.ball import Bias, Column, Convolution, NormBall, Row, Sign, Spectral
from optax_alphadecay.norms.matrix_view import MatrixView

NormRule = PyTree | Callable[[PyTree], PyTree] | None
"""A ball, a tree (or a prefix of one) with balls as leaves, or a function of params that gives it."""

# Path components, lower case, of leaves that hold vectors, stacked or not; Haiku calls a bias b.
_VECTORS = (NORM, BIAS, SCALE, re.compile("b"))


def spectral_norm_ball(
    max: bool = False, normalized: bool = True, *, radius: float = 1.0, axes: MuonDimensionNumbers | None = None
) -> NormBall:
    """Ball of the spectral norm: steps are orthogonalised matrices, times ``sqrt(outputs / inputs)``.

    Args:
      max: whether that factor is at least 1, for first layers.
      normalized: False for the factor ``sqrt(outputs)``.
      radius: see :class:`NormBall`.
      axes: see :class:`NormBall`; by default those of a matrix ``[inputs, outputs]``. A fused kernel ``[3, d, d]`` is
        three matrices with ``axes=MuonDimensionNumbers(1, 2)``.

    Returns:
      A ball.

    Raises:
      ValueError: if ``radius`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> print(oad.spectral_norm_ball().extreme_point(jnp.eye(2, 8))[0, 0])
      2.0
    """
    check_positive("spectral_norm_ball", "radius", radius)
    return Spectral(radius=radius, axes=axes, max=max, normalized=normalized)


def convolution_ball(*, radius: float = 1.0, axes: MuonDimensionNumbers | None = None) -> NormBall:
    """Ball of the spectral norm of a flattened convolution kernel.

    A kernel ``[*taps, inputs, outputs]`` steps as one orthogonalised matrix ``[taps * inputs, outputs]``, times
    ``sqrt(outputs / inputs) / taps``.

    Args:
      radius: see :class:`NormBall`.
      axes: by default all but the last are reduced over, in kernels of rank 3 and 4. If given, the last reduced axis
        holds the input channels and the ones before it the taps.

    Returns:
      A ball.

    Raises:
      ValueError: if ``radius`` is not positive.
    """
    check_positive("convolution_ball", "radius", radius)
    return Convolution(radius=radius, axes=axes)


def sign_ball(normalized: bool = True, *, radius: float = 1.0, axes: MuonDimensionNumbers | None = None) -> NormBall:
    """Ball of the largest entry: steps are signs, divided by the number of inputs.

    Args:
      normalized: False for signs as they are.
      radius: see :class:`NormBall`.
      axes: see :class:`NormBall`; by default those of a matrix ``[inputs, outputs]``. An embedding ``[vocabulary, d]``
        that is tied to an output layer has ``axes=MuonDimensionNumbers(1, 0)``, the output layer's.

    Returns:
      A ball.

    Raises:
      ValueError: if ``radius`` is not positive.
    """
    check_positive("sign_ball", "radius", radius)
    return Sign(radius=radius, axes=axes, normalized=normalized)


def column_ball(normalized: bool = False, *, radius: float = 1.0, axes: MuonDimensionNumbers | None = None) -> NormBall:
    """Ball of the largest root mean square that one input has over all outputs, a column of the official layout.

    Args:
      normalized: whether steps are divided by the number of inputs; for layers that are not the first.
      radius: see :class:`NormBall`.
      axes: see :class:`NormBall`; by default those of a matrix ``[inputs, outputs]``, such as an embedding
        ``[vocabulary, d]``.

    Returns:
      A ball.

    Raises:
      ValueError: if ``radius`` is not positive.
    """
    check_positive("column_ball", "radius", radius)
    return Column(radius=radius, axes=axes, normalized=normalized)


def row_ball(normalized: bool = True, *, radius: float = 1.0, axes: MuonDimensionNumbers | None = None) -> NormBall:
    """Ball of the largest Euclidean norm that one output has over all inputs, a row of the official layout.

    Args:
      normalized: whether steps are divided by the root of the number of inputs; not for first layers.
      radius: see :class:`NormBall`.
      axes: see :class:`NormBall`; by default those of a matrix ``[inputs, outputs]``.

    Returns:
      A ball.

    Raises:
      ValueError: if ``radius`` is not positive.
    """
    check_positive("row_ball", "radius", radius)
    return Row(radius=radius, axes=axes, normalized=normalized)


def bias_ball(*, radius: float = 1.0, axes: MuonDimensionNumbers | None = None) -> NormBall:
    """Ball of the root mean square of a vector: steps have a root mean square of 1.

    Args:
      radius: see :class:`NormBall`.
      axes: by default that of a vector, or of a scalar. Stacked vectors have ``axes=MuonDimensionNumbers((), 1)``.

    Returns:
      A ball.

    Raises:
      ValueError: if ``radius`` is not positive.
    """
    check_positive("bias_ball", "radius", radius)
    return Bias(radius=radius, axes=axes)


def scion_norms(modules: ModuleRule = None, output_radius: float = 60.0) -> Callable[[PyTree], PyTree]:
    """The default rule: spectral norm for block matrices, signs for embedding and output layer, RMS for vectors.

    This is the official nanoGPT example (spectral norm of radius 50 for the blocks, signs of radius 3000 for the tied
    embedding; all of them times ``scale`` here) and the official default for vectors.

    Args:
      modules: which leaves are block matrices, as in :func:`alphadecay`; None: ``block_matrices(1)``, all of them
        however small. For scanned layers ``block_matrices(1, stacked=["layers"])``;
        :class:`optax.contrib.MuonDimensionNumbers` for kernels of other ranks.
      output_radius: radius of the signs, relative to that of the matrices.

    Returns:
      A function of params that gives a tree of balls. It raises a ValueError for a leaf of rank 3 or more that is
      neither a module nor, by its name, a vector: convolutions need a tree with :func:`convolution_ball`.

    Raises:
      ValueError: if ``output_radius`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> params = {"embed": jnp.ones((512, 64)), "up": jnp.ones((64, 256)), "bias": jnp.ones(256)}
      >>> {name: type(ball).__name__ for name, ball in oad.scion_norms()(params).items()}
      {'bias': 'Bias', 'embed': 'Sign', 'up': 'Spectral'}
    """
    check_positive("scion_norms", "output_radius", output_radius)

    def choose(choice: Any, path: tuple[Any, ...], leaf: Any) -> NormBall:
        components = [component.lower() for component in path_components(path)]
        rank = jnp.ndim(leaf)
        if isinstance(choice, MatrixAxes):
            if choice.sizes is not None:
                raise ValueError(
                    f"scion_norms: {path_name(path)!r} is split into outputs {choice.sizes}, and no ball is of a part;"
                    " pass a rule without split, or a tree of balls."
                )
            choice = choice.numbers
        if choice is True or isinstance(choice, MuonDimensionNumbers):
            return spectral_norm_ball(axes=None if choice is True else choice)
        if rank < 2:
            return bias_ball()
        if any(pattern.fullmatch(component) for component in components for pattern in _VECTORS):
            return bias_ball(axes=MuonDimensionNumbers((), rank - 1))
        is_table = any(EMBEDDING.fullmatch(component) for component in components)
        return sign_ball(radius=output_radius, axes=MuonDimensionNumbers(1, 0) if is_table and rank == 2 else None)

    def rule(params: PyTree) -> PyTree:
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        choices = per_leaf("modules", block_matrices(1) if modules is None else modules, params, "scion_norms")
        balls = [choose(choice, *leaf) for choice, leaf in zip(choices, leaves, strict=True)]
        return jax.tree.unflatten(structure, balls)

    return rule


def balls_of(norms: NormRule, params: PyTree) -> list[tuple[NormBall, MatrixView]]:
    """The ball of every leaf of ``params`` and how it sees the leaf.

    Raises:
      ValueError: if ``norms`` does not match ``params``, holds something else, or a ball does not fit its leaf.
    """
    if not jax.tree.leaves(params):  # as optax.tree.map_params asks, with a placeholder
        return []
    balls = per_leaf("norms", scion_norms() if norms is None else norms, params, "scion")
    found = []
    for ball, (path, leaf) in zip(balls, jax.tree_util.tree_flatten_with_path(params)[0], strict=True):
        name = path_name(path)
        if not isinstance(ball, NormBall):
            raise ValueError(f"scion: norms holds {ball!r} for {name!r}; use a ball, such as oad.spectral_norm_ball().")
        try:
            found.append((ball, ball.view(jnp.shape(leaf))))
        except ValueError as error:
            raise ValueError(f"scion: {type(ball).__name__} ball of {name!r}: {error}.") from error
    return found
