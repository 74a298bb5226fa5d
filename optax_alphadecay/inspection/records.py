"""What is known of each module: typed records, one a module, and as a table of pandas."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from optax_alphadecay.assignment.sigmoid import transformer_block
from optax_alphadecay.inspection.fits import fit_all
from optax_alphadecay.inspection.spectra import Spectrum, beyond_edge
from optax_alphadecay.inspection.tensors import LeftOut, require
from optax_alphadecay.spectra.marchenko_pastur import marchenko_pastur_edges, random_matrix_alpha


@dataclasses.dataclass(frozen=True)
class ModuleRecord:
    """One module: its spectrum, what was measured of it, and the decay that AlphaDecay would give it.

    A number is NaN where it is not determined.
    """

    name: str
    """Path of the tensor, followed by the index in its stack."""
    type: str
    """The name without the numbers in it, and without the layer's path."""
    layer: int | None
    """Number of the transformer block, if the name has one."""
    shape: tuple[int, int]
    """``(m, n)``, inputs and outputs in the order in which they are stored."""
    dtype: str
    """How it is stored."""
    eigenvalues: np.ndarray = dataclasses.field(repr=False, compare=False)
    """Of ``W W^T``, ascending, float64 ``[N]``."""
    alpha: float
    """Exponent of the power law, by the median fit: what AlphaDecay goes by."""
    alpha_goodness_of_fit: float
    """The same from the cutoff with the smallest Kolmogorov-Smirnov distance."""
    xmin: float
    """That cutoff, an eigenvalue."""
    ks_distance: float
    """That distance."""
    alpha_fix_finger: float
    """The same from the best cutoff near the peak of the density."""
    alpha_hat: float
    """``ln(1 + exp(alpha * log10(largest eigenvalue)))``."""
    frobenius_norm: float
    """Root of the sum of all eigenvalues. The metric of that name gives its square."""
    spectral_norm: float
    """Root of the largest eigenvalue. The metric of that name gives its square."""
    stable_rank: float
    """Sum of the eigenvalues over the largest."""
    entropy: float
    """Of the eigenvalues, over the logarithm of their number."""
    random_alpha: float
    """Alpha of a large random matrix of this shape."""
    mp_edge: float
    """Largest eigenvalue of a large random matrix with entries of this standard deviation."""
    beyond_edge: int
    """Eigenvalues beyond that edge and its spread; -1 if there is no edge."""
    traps: int
    """The same of the matrix with its entries shuffled (correlation traps); -1 if that was not measured."""
    ratio: float = math.nan
    """Decay as a multiple of the base rate."""
    decay: float = math.nan
    """The decay itself."""
    note: str = ""
    """What else there is to know."""
    is_product: bool = False
    """It is the product of an adapter's factors, which AlphaDecay does not see."""


COLUMNS = tuple(field.name for field in dataclasses.fields(ModuleRecord) if field.name != "eigenvalues")
"""Names of all fields but the spectrum, in their order."""


@dataclasses.dataclass(frozen=True)
class Inspection:
    """All modules of a model, and what was left out."""

    source: str
    """What was read: the path, or the file or step in it, or ``"params"``."""
    modules: tuple[ModuleRecord, ...]
    """One record a module."""
    left_out: tuple[LeftOut, ...]
    """Tensors that are no modules, with the reason."""
    weight_decay: float
    """Base rate of the decays."""
    unmatched: tuple[str, ...] = ()
    """What the rule or ``exclude`` name that no tensor has, as ``exclude: 'bias'``."""

    def __iter__(self) -> Iterator[ModuleRecord]:
        """The records."""
        return iter(self.modules)

    def __len__(self) -> int:
        """How many modules there are."""
        return len(self.modules)

    def to_pandas(self) -> Any:
        """Make a ``pandas.DataFrame`` with one row a module and one column a field.

        Raises:
          ValueError: if pandas is not installed; says what to install.
        """
        pandas = require("pandas", "to_pandas()", "pandas")
        return pandas.DataFrame([rows_of(module) for module in self.modules], columns=COLUMNS)


def rows_of(module: ModuleRecord) -> dict[str, Any]:
    """List the fields of a record by name, without the spectrum."""
    return {name: getattr(module, name) for name in COLUMNS}


def record(
    name: str, shape: tuple[int, int], dtype: str, spectrum: Spectrum, *, note: str = "", is_product: bool = False
) -> ModuleRecord:
    """Make the record of a module from its spectrum.

    Args:
      name: of the module.
      shape: ``(m, n)``.
      dtype: how it is stored.
      spectrum: what was measured.
      note: what else there is to know.
      is_product: it is the product of an adapter's factors, to which no law of random matrices is compared.

    Returns:
      The record, without ratio and decay.
    """
    values, (m, n) = spectrum.eigenvalues, shape
    fits = fit_all(values, dtype)
    largest, total, alpha = float(values[-1]), float(values.sum()), fits.median.alpha
    layer, kind = layer_and_type(name)
    return ModuleRecord(
        name=name,
        type=kind,
        layer=layer,
        shape=shape,
        dtype=dtype,
        eigenvalues=values,
        alpha=alpha,
        alpha_goodness_of_fit=fits.goodness_of_fit.alpha,
        xmin=fits.goodness_of_fit.xmin,
        ks_distance=fits.goodness_of_fit.ks_distance,
        alpha_fix_finger=fits.fix_finger.alpha,
        alpha_hat=_alpha_hat(alpha, largest),
        frobenius_norm=math.sqrt(total) if total >= 0 else math.nan,
        spectral_norm=math.sqrt(largest) if largest >= 0 else math.nan,
        stable_rank=total / largest if largest > 0 else math.nan,
        entropy=_entropy(values),
        random_alpha=math.nan if is_product else random_matrix_alpha(m, n),
        mp_edge=marchenko_pastur_edges(m, n, spectrum.stddev)[1],
        beyond_edge=beyond_edge(values, m, n, spectrum.stddev) if math.isfinite(spectrum.stddev) else -1,
        traps=spectrum.traps,
        note=note or ("holds NaN or infinity" if math.isnan(largest) else ""),
        is_product=is_product,
    )


def _alpha_hat(alpha: float, largest: float) -> float:
    return float(np.logaddexp(0.0, alpha * math.log10(largest))) if math.isfinite(alpha) else math.nan


def _entropy(values: np.ndarray) -> float:
    positive = values[values > 0]
    if len(values) < 2 or not len(positive):
        return math.nan
    shares = positive / positive.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(len(values)))


def layer_and_type(name: str) -> tuple[int | None, str]:
    """Read the number of the layer, and the type of the module, off a name.

    Example:
      >>> from optax_alphadecay.inspection.records import layer_and_type
      >>> layer_and_type("encoder/layer/3/attention/query/weight"), layer_and_type("layers/mlp/up/kernel/3")
      ((3, 'attention/query'), (3, 'mlp/up'))
    """
    components = name.split("/")
    block = transformer_block(name)
    layer = None
    if isinstance(block, tuple) and block:
        digits = "".join(char if char.isdigit() else " " for char in block[-1]).split()
        layer = int(digits[-1])
        components = (
            components[len(block) :] if components[: len(block)] == list(block) else components[len(block) - 1 :]
        )
    kept = [part for part in components if not part.isdigit() and part not in ("weight", "kernel", "w")]
    if kept:
        return layer, "/".join(kept)
    # Nothing but layers and numbers: the last part of the name that is no number, if there is one.
    return layer, next((part for part in reversed(name.split("/")) if not part.isdigit()), name)
