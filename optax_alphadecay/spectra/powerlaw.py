"""Eigenvalues to alpha: power-law fits of the tail of a spectrum."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

Fit = Callable[[jax.Array], jax.Array]
"""Ascending eigenvalues ``[..., N]`` to alphas ``[...]``; NaN where the spectrum does not determine one."""

# A float32 Gram matrix carries round-off of up to 4 epsilons of its largest eigenvalue (measured up to N = 2048 on
# matrices of known rank). What lies below twice that is noise, and no tail begins there.
NOISE_FLOOR = 8 * float(jnp.finfo(jnp.float32).eps)
# Eigenvalues of an orthogonal matrix are all 1 but for the rounding of its entries, which adds up to far more than the
# Gram matrix's own round-off. A spectrum that spreads less than the root of epsilon is taken for constant.
CONSTANT_SPAN = float(jnp.finfo(jnp.float32).eps) ** 0.5
_BINS = 100


def median() -> Fit:
    """Fit the upper half of the spectrum with the Hill estimator, the paper's default.

    With ``i = N // 2`` and ``k = N - i``, ``alpha = 1 + k / sum_{j >= i} ln(lambda_j / lambda_i)``. This is the
    authors' code: the cutoff ``lambda_i`` is itself one of the ``k``. The textbook estimator (the paper's
    eq. 2) leaves it out, which multiplies ``alpha - 1`` by ``(k - 1) / k``.

    Returns:
      A function of ascending eigenvalues, float32 ``[..., N]`` to float32 ``[...]``. NaN where the upper half
      is constant, starts at or below the float32 noise of the largest eigenvalue, or is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> print(oad.median()(jnp.array([1.0, 2.0, 4.0, 8.0])).round(4))
      3.8854

    References:
      `AlphaDecay <https://arxiv.org/abs/2506.14562>`_, eq. 2; Hill, `A Simple General Approach to Inference About
      the Tail of a Distribution <https://doi.org/10.1214/aos/1176343247>`_, 1975.
    """
    return UpperHalf(_hill_of_all)


def goodness_of_fit() -> Fit:
    """Fit from the cutoff with the smallest Kolmogorov-Smirnov distance.

    Every eigenvalue but the last is tried as cutoff ``lambda_i``: its ``alpha_i`` is the Hill estimate over the ``n``
    eigenvalues from there on, its distance ``max_j |1 - (lambda_{i+j} / lambda_i)^(1 - alpha_i) - j / n|``.

    Returns:
      A function of ascending eigenvalues, float32 ``[..., N]`` to float32 ``[...]``. NaN where no cutoff above the
      float32 noise of the largest eigenvalue gives an ``alpha > 1``.

    References:
      Clauset et al., `Power-law distributions in empirical data <https://arxiv.org/abs/0706.1062>`_, section 3.3.
    """
    return lambda eigenvalues: _best_cutoff(eigenvalues, _may_begin_tail(eigenvalues))


def fix_finger(*, authors_bound: bool = False) -> Fit:
    """Fit from the best cutoff near the peak of the spectral density.

    The peak ``x`` is the left edge of the fullest of 100 bins of ``log10(lambda)``; cutoffs run from ``0.95 x``
    to ``1.5 x``.

    Args:
      authors_bound: take ``log10(0.95 x)`` as the lower bound on eigenvalues, as the authors' code does. It compares a
        logarithm with an eigenvalue, so that there is no lower bound whenever ``0.95 x <= 1``. To reproduce
        their numbers only.

    The bins reach down to the smallest eigenvalue, whose digits a float32 Gram matrix does not keep: on a nearly
    singular matrix use ``solver="svd"`` to have them.

    Returns:
      A function of ascending eigenvalues, float32 ``[..., N]`` to float32 ``[...]``. NaN where no cutoff in the window
      gives an ``alpha > 1``.

    References:
      Martin et al., `WeightWatcher <https://github.com/CalculatedContent/WeightWatcher>`_, ``fix_fingers="xmin_peak"``.
    """

    def fit(eigenvalues: jax.Array) -> jax.Array:
        peak = _density_peak(eigenvalues)[..., None]
        lowest = jnp.log10(0.95 * peak) if authors_bound else 0.95 * peak
        in_window = (eigenvalues >= lowest) & (eigenvalues <= 1.5 * peak)
        return _best_cutoff(eigenvalues, in_window & _may_begin_tail(eigenvalues))

    return fit


@dataclasses.dataclass(frozen=True)
class UpperHalf:
    """A fit of the eigenvalues from ``N // 2`` on, so that a solver may leave out the others."""

    of_upper_half: Fit
    """From ascending eigenvalues, float32 ``[..., N - N // 2]`` to float32 ``[...]``."""

    def __call__(self, eigenvalues: jax.Array) -> jax.Array:
        """The fit, of all eigenvalues ``[..., N]``."""
        return self.of_upper_half(eigenvalues[..., eigenvalues.shape[-1] // 2 :])


def has_no_tail(eigenvalues: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Tell whether eigenvalues are equal up to the rounding of the matrix's entries.

    Rounding the entries of an orthogonal matrix to a dtype with machine epsilon ``e`` spreads its eigenvalues, all 1,
    over about ``1 +- 0.62 e``: the noise ``E`` has entries of ``0.22 e`` of theirs, and the spectral norm of
    ``Q E^T + E Q^T`` is ``2 sqrt(2)`` times that. A median fit makes an alpha of 500 of it in bfloat16.

    Args:
      eigenvalues: ascending, float32 ``[..., N]``, of all or the upper half.
      dtype: that the matrix was stored in.

    Returns:
      bool ``[...]``: whether they spread at most ``2 e`` of the largest.
    """
    smallest, largest = eigenvalues[..., 0], eigenvalues[..., -1]
    return largest - smallest <= 2 * float(jnp.finfo(dtype).eps) * largest


def _hill_of_all(eigenvalues: jax.Array) -> jax.Array:
    """Estimate alpha with the first eigenvalue as the cutoff; NaN where that may not begin a tail."""
    return jnp.where(_may_begin_tail(eigenvalues)[..., 0], _hill(_log_spectrum(eigenvalues))[..., 0], jnp.nan)


def _log_spectrum(eigenvalues: jax.Array) -> jax.Array:
    """Compute ``ln(lambda / lambda_max)``: small numbers, so that sums of them keep their digits."""
    return jnp.log(eigenvalues / eigenvalues[..., -1:])


def _hill(log_spectrum: jax.Array) -> jax.Array:
    """Compute the Hill estimate from every cutoff on, ``[..., N] -> [..., N]``, where the logarithms are finite."""
    n = log_spectrum.shape[-1]
    in_tail = jnp.arange(n, 0, -1, dtype=jnp.float32).reshape((1,) * (log_spectrum.ndim - 1) + (n,))
    tail_sum = jax.lax.cumsum(log_spectrum, axis=log_spectrum.ndim - 1, reverse=True)
    above_cutoff = tail_sum - in_tail * log_spectrum
    # Nothing is above the last cutoff; jax.experimental.checkify would report a division by it.
    return jnp.where(above_cutoff == 0, jnp.inf, 1 + in_tail / jnp.where(above_cutoff == 0, 1.0, above_cutoff))


def _may_begin_tail(eigenvalues: jax.Array) -> jax.Array:
    """Mark the eigenvalues above the round-off of the largest and apart from it, ``[..., N]`` bool.

    Equal eigenvalues come out of a solver as ones that differ by round-off, and a Hill estimate out of that is huge but
    finite. Hence "apart".
    """
    largest = eigenvalues[..., -1:]
    finite = jnp.isfinite(eigenvalues).all(axis=-1, keepdims=True)
    above_noise = eigenvalues > NOISE_FLOOR * largest
    return finite & above_noise & (largest - eigenvalues > CONSTANT_SPAN * largest)


@jax.jit
def _best_cutoff(eigenvalues: jax.Array, eligible: jax.Array) -> jax.Array:
    """Find alpha at the eligible cutoff with the smallest distance, one spectrum at a time."""
    n = eigenvalues.shape[-1]
    spectra = eigenvalues.reshape(-1, n), eligible.reshape(-1, n)
    return jax.lax.map(lambda spectrum: _best_cutoff_of_one(*spectrum), spectra).reshape(eigenvalues.shape[:-1])


def _best_cutoff_of_one(eigenvalues: jax.Array, eligible: jax.Array) -> jax.Array:
    n = eigenvalues.shape[0]
    log_spectrum = _log_spectrum(eigenvalues)
    alphas = _hill(log_spectrum)
    index = jnp.arange(n)
    distances = jax.lax.map(
        lambda cutoff: _kolmogorov_smirnov(log_spectrum, *cutoff), (index, alphas), batch_size=min(n, 64)
    )
    eligible &= (alphas > 1) & (index < n - 1)
    distances = jnp.where(eligible, distances, jnp.inf)
    return jnp.where(eligible.any(), alphas[jnp.argmin(distances)], jnp.nan)


def _kolmogorov_smirnov(log_spectrum: jax.Array, cutoff: jax.Array, alpha: jax.Array) -> jax.Array:
    """Find the largest gap between the fitted and the empirical distribution of the tail from ``cutoff`` on."""
    n = log_spectrum.shape[0]
    rank = jnp.arange(n) - cutoff
    fitted = -jnp.expm1((1 - alpha) * (log_spectrum - log_spectrum[cutoff]))
    gap = jnp.abs(fitted - rank / (n - cutoff))
    return jnp.where(rank >= 0, gap, 0.0).max()


def _density_peak(eigenvalues: jax.Array) -> jax.Array:
    """Find the left edge of the fullest of 100 bins in ``log10(lambda)``, ``[..., N] -> [...]``."""
    positive = eigenvalues > 0
    logs = jnp.log10(jnp.where(positive, eigenvalues, 1.0))
    low = jnp.min(logs, axis=-1, keepdims=True, where=positive, initial=jnp.inf)
    high = jnp.max(logs, axis=-1, keepdims=True, where=positive, initial=-jnp.inf)
    bins = jnp.clip(jnp.floor((logs - low) / (high - low) * _BINS), 0, _BINS - 1)
    edges = jnp.arange(_BINS, dtype=jnp.float32).reshape((1,) * (logs.ndim - 1) + (_BINS,))
    counts = ((bins[..., None, :] == edges[..., :, None]) & positive[..., None, :]).sum(axis=-1)
    fullest = jnp.argmax(counts, axis=-1).astype(jnp.float32)
    return 10.0 ** (low[..., 0] + fullest * (high - low)[..., 0] / _BINS)
