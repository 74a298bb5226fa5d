"""Modules to scores: what is measured on the weights or gradients of every module."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from optax_alphadecay.distribution import AnyMesh, spread
from optax_alphadecay.spectra import powerlaw
from optax_alphadecay.spectra.eigenvalues import Solver, check_solver, eigenvalues_of_stacks
from optax_alphadecay.spectra.lanczos import Stochastic

Metric = Callable[[jax.Array, jax.Array], jax.Array]
"""``(weights[k, m, n], gradients[k, m, n]) -> scores[k]`` of one stack of equally shaped modules.

A score that is not finite refuses the module: it keeps its last good ratio. Any such function is a metric that looks at
each module by itself: on a mesh, a stack holds any modules of one shape, and some that are all zeros.
"""


def pl_alpha_hill(fit: powerlaw.Fit | None = None, *, solver: Solver = "auto") -> Metric:
    """The power-law exponent alpha of the module's spectrum, AlphaDecay's measure of heavy-tailedness.

    Args:
      fit: a power-law fit; :func:`median` (the Hill estimator) if None.
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric; scores are float32 and above 1, the lower the heavier the tail.

    Raises:
      ValueError: if the solver is unknown, or is stochastic and the fit another than :func:`median`.

    Example:
      >>> import jax
      >>> import optax_alphadecay as oad
      >>> weights = jax.random.normal(jax.random.key(0), (2, 64, 256))
      >>> scores = oad.pl_alpha_hill()(weights, weights)
      >>> scores.shape, scores.dtype
      ((2,), dtype('float32'))

    References:
      `AlphaDecay <https://arxiv.org/abs/2506.14562>`_, eq. 2.
    """
    return _Spectral(_fit_for("pl_alpha_hill", fit, solver), solver)


def alpha_hat(fit: powerlaw.Fit | None = None, *, solver: Solver = "auto") -> Metric:
    """The log-norm weighted alpha, ``ln(1 + exp(alpha * log10(sigma_max^2)))``.

    Args:
      fit: a power-law fit; :func:`median` if None.
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric with float32 scores.

    References:
      Martin et al., `Predicting trends in the quality of state-of-the-art neural networks without access to
      training or testing data <https://www.nature.com/articles/s41467-021-24025-8>`_, 2021.
    """
    alpha = _fit_for("alpha_hat", fit, solver)
    return _Spectral(lambda values: jax.nn.softplus(alpha(values) * jnp.log10(values[..., -1])), solver)


def spectral_norm(*, solver: Solver = "auto") -> Metric:
    """The largest eigenvalue, ``sigma_max^2``: the square of the spectral norm, as in the authors' code.

    Args:
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric with float32 scores.
    """
    return _Spectral(lambda values: values[..., -1], solver)


def stable_rank(*, solver: Solver = "auto") -> Metric:
    """``sum(sigma^2) / sigma_max^2``: how many directions carry the norm.

    Args:
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric with float32 scores between 1 and ``min(m, n)``.
    """
    return _Spectral(lambda values: values.sum(axis=-1) / values[..., -1], solver)


def spectral_entropy(*, solver: Solver = "auto") -> Metric:
    """Entropy of the eigenvalues as a distribution, divided by the logarithm of their number.

    Args:
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric with float32 scores between 0 (rank one) and 1 (all equal).
    """

    def entropy(values: jax.Array) -> jax.Array:
        values = jnp.maximum(values, 0.0)
        shares = values / values.sum(axis=-1, keepdims=True)
        return jax.scipy.special.entr(shares).sum(axis=-1) / jnp.log(values.shape[-1])

    return _Spectral(entropy, solver)


def frobenius_norm() -> Metric:
    """``sum(sigma^2)``: the square of the Frobenius norm of the weights, as in the authors' code.

    Returns:
      A metric with float32 scores.
    """
    return _Norm(lambda weights, gradients: _sum_of_squares(weights))


def grad_norm() -> Metric:
    """The Frobenius norm of the module's gradient.

    Returns:
      A metric with float32 scores.
    """
    return _Norm(lambda weights, gradients: jnp.sqrt(_sum_of_squares(gradients)))


def _fit_for(name: str, fit: powerlaw.Fit | None, solver: Solver) -> powerlaw.Fit:
    """The fit, or the default; estimated quantiles are too smooth for a fit that searches for where the tail begins."""
    check_solver(solver)
    fit = powerlaw.median() if fit is None else fit
    if not isinstance(fit, powerlaw.UpperHalf) and (isinstance(solver, Stochastic) or solver == "stochastic"):
        raise ValueError(f"{name}: only the fit median() can be made to what solver={solver!r} estimates, not {fit!r}.")
    return fit


@dataclasses.dataclass(frozen=True)
class _Spectral:
    """A metric that is a function of eigenvalues, float32 ``[k, N] -> [k]``."""

    score: Callable[[jax.Array], jax.Array]
    solver: Solver

    def __post_init__(self) -> None:
        check_solver(self.solver)

    def __call__(self, weights: jax.Array, gradients: jax.Array) -> jax.Array:
        return self.of_stacks([weights])

    def of_stacks(self, stacks: Sequence[jax.Array]) -> jax.Array:
        """Scores of several stacks; those with equally many eigenvalues are solved and scored together."""
        upper_half = isinstance(self.score, powerlaw.UpperHalf)
        score = self.score.of_upper_half if isinstance(self.score, powerlaw.UpperHalf) else self.score
        spectra = eigenvalues_of_stacks(stacks, self.solver, upper_half=upper_half)
        of_size = defaultdict(list)
        for position, spectrum in enumerate(spectra):
            of_size[spectrum.shape[-1]].append(position)
        scores: dict[int, jax.Array] = {}
        for positions in of_size.values():
            values = jnp.concatenate([spectra[position] for position in positions])
            together = _one_score_a_module(score, score(values), values.shape)
            ends = np.cumsum([len(spectra[position]) for position in positions])[:-1]
            scores |= zip(positions, jnp.split(together, ends), strict=True)
        return jnp.concatenate([scores[position] for position in range(len(stacks))])


@dataclasses.dataclass(frozen=True)
class _Norm:
    """A metric that is a sum over entries. Devices that hold parts of a matrix sum those parts; nothing is moved."""

    score: Metric

    def __call__(self, weights: jax.Array, gradients: jax.Array) -> jax.Array:
        return self.score(weights, gradients)


def _sum_of_squares(matrices: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(matrices.astype(jnp.float32)), axis=(-2, -1))


def measure(
    metric: Metric, weights: Sequence[jax.Array], gradients: Sequence[jax.Array], mesh: AnyMesh | None = None
) -> jax.Array:
    """Scores of all modules, float32 ``[n_modules]``, from one stack ``[k, m, n]`` of weights and gradients each.

    Args:
      metric: measures one stack.
      weights: one stack for each leaf.
      gradients: the same.
      mesh: devices to spread the modules over; None measures all of them here.

    Raises:
      ValueError: if the metric does not give one score for each module of a stack.
    """
    if not weights:
        return jnp.zeros((0,), jnp.float32)
    if mesh is not None and not isinstance(metric, _Norm):
        return _measure_spread(metric, weights, gradients, mesh)
    if isinstance(metric, _Spectral):
        return metric.of_stacks(weights)
    return jnp.concatenate([_score(metric, *stacks) for stacks in zip(weights, gradients, strict=True)])


def _measure_spread(
    metric: Metric, weights: Sequence[jax.Array], gradients: Sequence[jax.Array], mesh: AnyMesh
) -> jax.Array:
    """The same, on all devices of the mesh. Spectra know neither sides nor zeros, so those of one size go together."""
    spectral = isinstance(metric, _Spectral)
    classes = defaultdict(list)
    for position, stack in enumerate(weights):
        classes[_size_class(*stack.shape[1:]) if spectral else stack.shape[1:]].append(position)
    looked_at = [[_smaller_side_first(stack) for stack in weights]] if spectral else [weights, gradients]
    shares = [tuple([stacks[at] for at in positions] for stacks in looked_at) for positions in classes.values()]

    def measure_share(share: list[tuple[jax.Array, ...]]) -> list[jax.Array]:
        if isinstance(metric, _Spectral):
            return [metric.of_stacks(stacks) for stacks in share]
        return [_score(metric, *stacks) for stacks in share]

    scores: dict[int, jax.Array] = {}
    for positions, together in zip(classes.values(), spread(measure_share, shares, mesh), strict=True):
        ends = np.cumsum([len(weights[at]) for at in positions])[:-1]
        scores |= zip(positions, jnp.split(together, ends), strict=True)
    return jnp.concatenate([scores[position] for position in range(len(weights))])


def _size_class(m: int, n: int) -> tuple[int, int]:
    """Number of eigenvalues, and order of magnitude of the aspect ratio, in powers of 8: padding has bounds."""
    return min(m, n), ((max(m, n) // min(m, n)).bit_length() - 1) // 3


def _smaller_side_first(stack: jax.Array) -> jax.Array:
    return stack if stack.shape[1] <= stack.shape[2] else stack.swapaxes(1, 2)


def _score(metric: Metric, weights: jax.Array, gradients: jax.Array) -> jax.Array:
    return _one_score_a_module(metric, metric(weights, gradients), weights.shape)


def _one_score_a_module(function: object, scores: jax.typing.ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """The scores as float32 ``[k]``, or a ValueError if they are not one for each of the ``k`` modules."""
    if jnp.shape(scores) != shape[:1]:
        raise ValueError(
            f"{function} gave scores of shape {jnp.shape(scores)} for a stack of shape {shape}; it must give"
            f" one score a module, shape {shape[:1]}."
        )
    return jnp.asarray(scores, jnp.float32)
