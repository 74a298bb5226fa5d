"""Scion and ScionC: steps to the point of a norm's ball that lies furthest along the momentum."""
# SPDX-License-Identifier: Apache-2.0

import functools
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from optax_alphadecay.aliases import with_gradients
from optax_alphadecay.correction.corrected import DecayFactory, corrected, partly_corrected
from optax_alphadecay.decay import Mask, ScalarOrSchedule, check_nonnegative, check_positive, wide_dtype
from optax_alphadecay.distribution import check_mesh
from optax_alphadecay.modules import PyTree
from optax_alphadecay.norms.constructors import NormRule, balls_of
from optax_alphadecay.norms.orthogonalize import Orthogonalizer, orthogonalizer
from optax_alphadecay.norms.spread_stacks import orthogonalize_leaves


class ScionState(NamedTuple):
    """State of :func:`scale_by_scion`."""

    momentum: optax.Updates | None  # like params; None where momentum is 1


def scale_by_scion(
    momentum: jax.typing.ArrayLike = 0.1,
    norms: NormRule = None,
    orthogonalize: str | Orthogonalizer = "newton_schulz",
    dtype: jax.typing.DTypeLike = "bfloat16",
    *,
    mesh: Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces gradients by the points of norm balls that lie furthest along their running mean.

    ``m <- (1 - a) m + a g`` from 0, without bias correction or Nesterov's step; the result is, for each matrix of each
    leaf, the point of its ball with the largest inner product with ``m``.

    Args:
      momentum: ``a``, the share of the newest gradient: 1 is none, and 0.1 what others call 0.9.
      norms: a ball for all leaves, a tree of balls like params (or a prefix of one), or a function of params that
        gives it; :func:`scion_norms` if None.
      orthogonalize: how the spectral balls' matrices are orthogonalised: ``"newton_schulz"``, ``"polar_express"``,
        ``"svd"`` (exact, in at least float32) or a function of matrices ``[k, m, n]``.
      dtype: dtype it is computed in; ``"svd"`` computes in at least float32 and that of the gradients.
      mesh: devices to spread the orthogonalisation over, as in :func:`alphadecay`.

    Returns:
      A transformation with state :class:`ScionState`. Updates keep their dtype.

    Raises:
      ValueError: if an argument is out of range, or ``norms`` does not fit params; names the leaf.

    References:
      Pethick et al., `Training Deep Learning Models with Norm-Constrained LMOs <https://arxiv.org/abs/2502.07529>`_,
      2025.
    """
    if isinstance(momentum, numbers.Real) and not 0 < momentum <= 1:
        raise ValueError(
            f"scion: momentum must be in (0, 1], the share of the newest gradient (1 is no momentum); got {momentum!r}."
        )
    check_mesh("scion", mesh)
    orthogonal = orthogonalizer("scion", orthogonalize)
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        raise ValueError(f"scion: dtype must be a floating one, for instance jnp.bfloat16; got {dtype!r}.")
    is_plain = isinstance(momentum, numbers.Real) and momentum == 1
    is_exact = orthogonalize == "svd"

    def init(params: optax.Params) -> ScionState:
        balls_of(norms, params)
        return ScionState(momentum=None if is_plain else optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: ScionState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, ScionState]:
        means = updates if is_plain else jax.tree.map(functools.partial(_mean, momentum), updates, state.momentum)
        leaves, structure = jax.tree.flatten(means)
        balls = balls_of(norms, means if params is None else params)
        spectral = [at for at, (ball, _) in enumerate(balls) if ball.is_spectral]
        # Cast before they travel: half the bytes in bfloat16. An exact decomposition is of what was not rounded.
        cast = [
            leaves[at].astype(wide_dtype(leaves[at], jnp.empty((), dtype)) if is_exact else dtype) for at in spectral
        ]
        matrices = orthogonalize_leaves(orthogonal, cast, [balls[at][1] for at in spectral], mesh)
        orthogonal_of = {at: m.astype(leaves[at].dtype) for at, m in zip(spectral, matrices, strict=True)}
        points = [
            ball.radius * ball.extreme_point(leaf, orthogonal_of.get(at))
            for at, (leaf, (ball, _)) in enumerate(zip(leaves, balls, strict=True))
        ]
        steps = jax.tree.map(lambda p, g: p.astype(g.dtype), jax.tree.unflatten(structure, points), updates)
        return steps, ScionState(momentum=None if is_plain else means)

    return optax.GradientTransformationExtraArgs(init, update)


def scion(
    learning_rate: ScalarOrSchedule,
    momentum: jax.typing.ArrayLike = 0.1,
    norms: NormRule = None,
    scale: jax.typing.ArrayLike = 1.0,
    constrained: bool = True,
    orthogonalize: str | Orthogonalizer = "newton_schulz",
    dtype: jax.typing.DTypeLike = "bfloat16",
    *,
    decay: DecayFactory | None = None,
    mesh: Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Scion: ``w <- (1 - gamma) w - gamma * scale * point``, which keeps weights in the ball of radius ``scale``.

    The official nanoGPT example is ``scion(schedule, scale=50.0)`` with a peak of ``2**-12``.

    Args:
      learning_rate: ``gamma``, a scalar or an optax schedule.
      momentum: see :func:`scale_by_scion`.
      norms: see :func:`scale_by_scion`. A ball's ``radius`` multiplies ``scale`` for its leaves.
      scale: radius of the balls.
      constrained: False leaves the factor ``1 - gamma`` out; the weights may then leave the ball.
      orthogonalize: see :func:`scale_by_scion`.
      dtype: see :func:`scale_by_scion`.
      decay: makes the factor ``1 - gamma``, called as ``decay(1.0, mask=True)``: :func:`alphadecay` for shares of it
        by module. None: :func:`optax.add_decayed_weights`.
      mesh: see :func:`scale_by_scion`.

    Returns:
      An optimizer.

    Raises:
      ValueError: as :func:`scale_by_scion`; if ``scale`` is not positive; for a ``decay`` where not constrained.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> params = {"up": jnp.ones((64, 256)), "lm_head": jnp.ones((64, 512))}
      >>> optimizer = oad.scion(2**-12, scale=50.0)
      >>> state = optimizer.init(params)

    References:
      Pethick et al., `Training Deep Learning Models with Norm-Constrained LMOs <https://arxiv.org/abs/2502.07529>`_,
      2025.
    """
    check_nonnegative("scion", "learning_rate", learning_rate)
    check_positive("scion", "scale", scale)
    if decay is not None and not constrained:
        raise ValueError("scion: constrained=False leaves the decay out, so give no decay, or constrained=True.")
    parts = [scale_by_scion(momentum, norms, orthogonalize, dtype, mesh=mesh), _scale(scale)]
    if constrained:
        parts.append(partly_corrected(1.0, 1.0, True, None, decay))
    return with_gradients(optax.chain(*parts, optax.scale_by_learning_rate(learning_rate)))


def scionc(
    learning_rate: ScalarOrSchedule,
    weight_decay: jax.typing.ArrayLike,
    momentum: jax.typing.ArrayLike = 0.1,
    norms: NormRule = None,
    exact: bool = False,
    orthogonalize: str | Orthogonalizer = "polar_express",
    dtype: jax.typing.DTypeLike = "bfloat16",
    *,
    peak: jax.typing.ArrayLike | None = None,
    correct: Mask = None,
    mask: Mask = None,
    decay: DecayFactory | None = None,
    mesh: Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """ScionC, Scion with corrected decay: ``w <- (1 - gamma_t lam_t) w - gamma_t * point``.

    The radius is folded into the learning rate: Scion with ``scale=50.0`` and a peak of ``2**-12`` has the peak
    ``50 * 2**-12`` and the coefficient ``1 / 50`` here. The default balls' radii give the output layer the official
    runs' ``3000 * 2**-12`` and ``1 / 3000``.

    Args:
      learning_rate: ``gamma``, a scalar or an optax schedule.
      weight_decay: the coefficient ``lam_0`` at the peak of the learning rate. Runs with corrected decay need a higher
        one than runs without.
      momentum: see :func:`scale_by_scion`.
      norms: see :func:`scale_by_scion`. A ball's ``radius`` multiplies the steps of its leaves, not their decay.
      exact: see :func:`corrected`.
      orthogonalize: see :func:`scale_by_scion`.
      dtype: see :func:`scale_by_scion`.
      peak: see :func:`corrected`.
      correct: which leaves have the corrected coefficient, as a tree, a prefix of one or a function of params; the
        others have the constant one. None: the leaves with a spectral ball, as the official runs.
      mask: which leaves are decayed at all, as in :func:`optax.add_decayed_weights`; None: all of them.
      decay: makes the decay of the corrected leaves, ``decay(coefficient, mask=mask)``: :func:`alphadecay`, or one
        with options, ``functools.partial(oad.alphadecay, refresh_every=100)``. None:
        :func:`optax.add_decayed_weights`.
      mesh: see :func:`scale_by_scion`.

    Returns:
      An optimizer.

    Raises:
      ValueError: as :func:`scale_by_scion` and :func:`corrected`.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax, optax_alphadecay as oad
      >>> params = {"up": jnp.ones((64, 256)), "lm_head": jnp.ones((64, 512))}
      >>> schedule = optax.cosine_decay_schedule(50 * 2**-12, 1000)
      >>> optimizer = oad.scionc(schedule, weight_decay=1 / 50, decay=oad.alphadecay)
      >>> state = optimizer.init(params)

    References:
      Chou, `Correction of Decoupled Weight Decay <https://arxiv.org/abs/2512.08217>`_, 2025.
    """
    check_nonnegative("scionc", "learning_rate", learning_rate)

    def is_spectral(params: PyTree) -> PyTree:
        balls = [ball.is_spectral for ball, _ in balls_of(norms, params)]
        return jax.tree.unflatten(jax.tree.structure(params), balls)

    return with_gradients(
        optax.chain(
            scale_by_scion(momentum, norms, orthogonalize, dtype, mesh=mesh),
            partly_corrected(
                weight_decay,
                corrected(weight_decay, learning_rate, exact, peak=peak),
                is_spectral if correct is None else correct,
                mask,
                decay,
            ),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def project_onto_ball(params: PyTree, norms: NormRule = None, scale: float = 1.0) -> PyTree:
    """Initial weights on the balls' surfaces, where the official code's ``init`` draws them.

    Matrices become orthogonal, entries signs, vectors of one length, biases 0, each times its ball's factor and radius
    and ``scale``. Of Gaussian weights, the results have the distribution that ``init`` draws from. Matrices of zeros
    stay so. A convolution's taps are orthogonal one by one, as in ``init``. The official ScionC runs project nothing.

    Args:
      params: freshly initialised.
      norms: as given to :func:`scion`.
      scale: as given to :func:`scion`.

    Returns:
      A tree like ``params``, dtypes too.

    Raises:
      ValueError: if ``norms`` does not fit ``params``, or ``scale`` is not positive.

    Example:
      >>> import jax
      >>> import optax_alphadecay as oad
      >>> params = oad.project_onto_ball({"up": jax.random.normal(jax.random.key(0), (64, 256))})
      >>> print(oad.spectral_norm_ball().norm(params["up"]))
      [1.00]
    """
    check_positive("project_onto_ball", "scale", scale)
    leaves, structure = jax.tree.flatten(params)
    projected = [
        (scale * ball.radius * ball.project(leaf)).astype(leaf.dtype)
        for leaf, (ball, _) in zip(leaves, balls_of(norms, params), strict=True)
    ]
    return jax.tree.unflatten(structure, projected)


def _mean(momentum: jax.typing.ArrayLike, gradient: jax.Array, mean: jax.Array) -> jax.Array:
    """``(1 - a) m + a g``, in at least float32, kept in the dtype of ``m``."""
    dtype = wide_dtype(mean)
    share = jnp.asarray(momentum, dtype)
    return ((1 - share) * mean.astype(dtype) + share * gradient.astype(dtype)).astype(mean.dtype)


def _scale(scale: jax.typing.ArrayLike) -> optax.GradientTransformation:
    """Multiplies updates by ``scale``, in their dtype."""
    return optax.stateless(lambda updates, params: jax.tree.map(lambda u: jnp.asarray(scale, u.dtype) * u, updates))
