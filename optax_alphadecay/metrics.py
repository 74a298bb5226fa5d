"""Modules to scores, from their weights or gradients."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from optax_alphadecay.spectra import powerlaw
from optax_alphadecay.spectra.eigenvalues import Solver, check_solver, joined_eigenvalues
from optax_alphadecay.spectra.lanczos import Stochastic

Metric = Callable[[jax.Array, jax.Array], jax.Array]
"""``(weights[k, m, n], gradients[k, m, n]) -> scores[k]`` of one stack of equally shaped modules.

The metrics of this package also take one matrix, or any ``[..., m, n]``, and the weights alone if they measure those.

A score that is not finite refuses the module: it keeps its last good ratio. Any such function is a metric, if it
measures each module by itself: on a mesh, a stack holds any modules of one shape, and some that are all zeros. See
:func:`spectral` for metrics of eigenvalues.
"""


def spectral(score: Callable[[jax.Array], jax.Array], *, solver: Solver = "auto") -> Metric:
    """Make a metric from a function of eigenvalues.

    Modules with equally many eigenvalues are solved and scored at once, and spread over the devices of a mesh. The
    spectral metrics of this package are made with it.

    Args:
      score: ascending eigenvalues of ``W @ W.T``, float32 ``[k, N]``, to scores ``[k]``. It scores each spectrum by
        itself; on a mesh, some are all zeros. A score that is not finite refuses its module.
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric with float32 scores.

    Raises:
      ValueError: if ``score`` is not a function or the solver is unknown; when the metric is called, if there is not
        one score a module.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> condition_number = oad.spectral(lambda eigenvalues: jnp.sqrt(eigenvalues[:, -1] / eigenvalues[:, 0]))
      >>> weights = jnp.diag(jnp.array([2.0, 1.0, 8.0]))[None]
      >>> print(condition_number(weights, weights).round(4))
      [8.]
      >>> optimizer = oad.adamw(1e-3, metric=condition_number)
    """
    if not callable(score):
        raise ValueError(f"spectral: score must be a function of eigenvalues, [k, N] -> [k], got {score!r}.")
    return SpectralMetric(score, solver)


def pl_alpha_hill(fit: powerlaw.Fit | None = None, *, solver: Solver = "auto") -> Metric:
    """Measure the power-law exponent alpha of the spectrum, as AlphaDecay does.

    Args:
      fit: a power-law fit; :func:`median` (the Hill estimator) if None.
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric; scores are float32 and above 1, the lower the heavier the tail. NaN, which refuses the module, where
      the spectrum has no tail: eigenvalues that are equal up to the rounding of the dtype that the weights are stored
      in, as those of an orthogonal matrix.

    Raises:
      ValueError: if the fit is no function of eigenvalues, or the solver is unknown, or is stochastic and the fit
        another than :func:`median`.

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
    return SpectralMetric(_fit_for("pl_alpha_hill", fit, solver), solver, needs_tail=True)


def alpha_hat(fit: powerlaw.Fit | None = None, *, solver: Solver = "auto") -> Metric:
    """Measure the log-norm weighted alpha, ``ln(1 + exp(alpha * log10(sigma_max^2)))``.

    Args:
      fit: a power-law fit; :func:`median` if None.
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric with float32 scores; NaN where :func:`pl_alpha_hill` is.

    Raises:
      ValueError: as :func:`pl_alpha_hill`.

    References:
      Martin et al., `Predicting trends in the quality of state-of-the-art neural networks without access to
      training or testing data <https://www.nature.com/articles/s41467-021-24025-8>`_, 2021.
    """
    alpha = _fit_for("alpha_hat", fit, solver)
    of_tail = alpha.of_upper_half if isinstance(alpha, powerlaw.UpperHalf) else alpha

    def score(values: jax.Array) -> jax.Array:
        return jax.nn.softplus(of_tail(values) * jnp.log10(values[..., -1]))

    is_of_half = isinstance(alpha, powerlaw.UpperHalf)
    return SpectralMetric(powerlaw.UpperHalf(score) if is_of_half else score, solver, needs_tail=True)


def spectral_norm(*, solver: Solver = "auto") -> Metric:
    """Measure the largest eigenvalue, the squared spectral norm, as the authors' code does.

    Args:
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric with float32 scores.
    """
    return spectral(lambda values: values[:, -1], solver=solver)


def stable_rank(*, solver: Solver = "auto") -> Metric:
    """Measure the stable rank, ``sum(sigma^2) / sigma_max^2``.

    Args:
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric with float32 scores between 1 and ``min(m, n)``.
    """
    return spectral(lambda values: values.sum(axis=1) / values[:, -1], solver=solver)


def spectral_entropy(*, solver: Solver = "auto") -> Metric:
    """Measure the entropy of the eigenvalues, divided by the logarithm of their number.

    Args:
      solver: how eigenvalues are computed, see :func:`eigenvalues`.

    Returns:
      A metric with float32 scores between 0 (rank one) and 1 (all equal).
    """

    def entropy(values: jax.Array) -> jax.Array:
        values = jnp.maximum(values, 0.0)
        shares = values / values.sum(axis=-1, keepdims=True)
        return jax.scipy.special.entr(shares).sum(axis=-1) / jnp.log(values.shape[-1])

    return spectral(entropy, solver=solver)


def frobenius_norm() -> Metric:
    """Measure the squared Frobenius norm of the weights, as the authors' code does.

    Returns:
      A metric with float32 scores.
    """
    return NormMetric(lambda weights, gradients: _sum_of_squares(weights))


def grad_norm() -> Metric:
    """Measure the Frobenius norm of the gradient.

    Returns:
      A metric with float32 scores.
    """
    return NormMetric(lambda weights, gradients: jnp.sqrt(_sum_of_squares(gradients)), of_gradients=True)


def _fit_for(name: str, fit: powerlaw.Fit | None, solver: Solver) -> powerlaw.Fit:
    """Return the fit, or the default one, if it can be made with the solver."""
    check_solver(solver)
    fit = powerlaw.median() if fit is None else fit
    try:
        inspect.signature(fit).bind("eigenvalues")
    except TypeError as error:
        makers: tuple[object, ...] = (powerlaw.median, powerlaw.goodness_of_fit, powerlaw.fix_finger)
        uncalled = f"; call it: {fit.__name__}()" if fit in makers else ""
        raise ValueError(
            f"{name}: fit must be a function of eigenvalues, such as median() makes, got {fit!r}{uncalled}."
        ) from error
    except ValueError:
        pass  # a function written in C, which does not tell its arguments
    # Estimated quantiles are too smooth for a fit that searches for the start of the tail.
    if not isinstance(fit, powerlaw.UpperHalf) and (isinstance(solver, Stochastic) or solver == "stochastic"):
        raise ValueError(f"{name}: only the fit median() can be made to what solver={solver!r} estimates, not {fit!r}.")
    return fit


@dataclasses.dataclass(frozen=True)
class SpectralMetric:
    """A metric that is a function of eigenvalues, float32 ``[k, N] -> [k]``."""

    score: Callable[[jax.Array], jax.Array]
    solver: Solver
    needs_tail: bool = False
    """Whether spectra are refused that are constant up to the rounding of the weights' dtype."""

    def __post_init__(self) -> None:
        """Check the solver."""
        check_solver(self.solver)

    def __call__(self, weights: jax.Array, gradients: jax.Array | None = None) -> jax.Array:
        """Score matrices ``[..., m, n]``."""
        return _of_any_rank(lambda weights, _: self.of_stacks([weights]), weights, weights)

    def of_stacks(self, stacks: Sequence[jax.Array]) -> jax.Array:
        """Score several stacks; those with equally many eigenvalues are solved and scored at once."""
        upper_half = isinstance(self.score, powerlaw.UpperHalf)
        score = self.score.of_upper_half if isinstance(self.score, powerlaw.UpperHalf) else self.score
        ends = np.cumsum([len(stack) for stack in stacks])
        scores, rows = [], []
        for values, members in joined_eigenvalues(stacks, self.solver, upper_half=upper_half):
            scored = one_score_a_module(score, score(values), values.shape)
            if self.needs_tail:
                dtypes = [stacks[member].dtype for member in members for _ in range(len(stacks[member]))]
                scored = jnp.where(_have_no_tail(values, dtypes), jnp.nan, scored)
            scores.append(scored)
            rows += [np.arange(ends[member] - len(stacks[member]), ends[member]) for member in members]
        joined, module_of_row = jnp.concatenate(scores), np.concatenate(rows)
        # One gather: a slice for each stack would take a compiler long.
        return joined if np.all(np.diff(module_of_row) > 0) else joined[np.argsort(module_of_row)]


@dataclasses.dataclass(frozen=True)
class NormMetric:
    """A metric that is a sum over entries. Devices sum the parts of matrices that they hold; no weights move."""

    score: Metric
    of_gradients: bool = False

    def __call__(self, weights: jax.Array, gradients: jax.Array | None = None) -> jax.Array:
        """Score matrices ``[..., m, n]``."""
        if gradients is None and self.of_gradients:
            raise ValueError("grad_norm: call it as metric(weights, gradients); it measures the gradients.")
        return _of_any_rank(self.score, weights, weights if gradients is None else gradients)


def _have_no_tail(values: jax.Array, dtypes: list[jnp.dtype]) -> jax.Array:
    """Which spectra ``[k, N]`` of matrices stored in these dtypes are constant up to rounding, bool ``[k]``."""
    of_dtype = [
        powerlaw.has_no_tail(values, dtype) & np.array([other == dtype for other in dtypes])
        for dtype in dict.fromkeys(dtypes)
    ]
    return jnp.stack(of_dtype).any(axis=0)


def _of_any_rank(score: Metric, weights: jax.Array, gradients: jax.Array) -> jax.Array:
    """Score matrices ``[..., m, n]`` as one stack, ``[...]``."""
    if jnp.ndim(weights) < 2:
        raise ValueError(
            f"a metric scores matrices [m, n] or stacks [k, m, n] of them, got shape {jnp.shape(weights)}."
        )
    if jnp.ndim(weights) == 3:
        return score(weights, gradients)
    shape = jnp.shape(weights)
    stacks = (jnp.reshape(matrices, (-1, *shape[-2:])) for matrices in (weights, gradients))
    return score(*stacks).reshape(shape[:-2])


def _sum_of_squares(matrices: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(matrices.astype(jnp.float32)), axis=(-2, -1))


def one_score_a_module(function: object, scores: jax.typing.ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Cast scores to float32 ``[k]``; raise a ValueError unless there is one for each of the ``k`` modules."""
    if jnp.shape(scores) != shape[:1]:
        raise ValueError(
            f"{function} gave scores of shape {jnp.shape(scores)} for a stack of shape {shape}; it must give"
            f" one score a module, shape {shape[:1]}."
        )
    return jnp.asarray(scores, jnp.float32)
