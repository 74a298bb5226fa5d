"""AlphaDecay for Optax: a module's score becomes its share of the weight decay."""
# SPDX-License-Identifier: Apache-2.0

from optax_alphadecay.aliases import adam, adamw, with_gradients
from optax_alphadecay.assignment import Assignment, linear, log2, sigmoid, sqrt, transformer_block
from optax_alphadecay.baselines import AdaDecayState, AwdState, adadecay, awd, modulewise_adadecay
from optax_alphadecay.metrics import (
    Metric,
    alpha_hat,
    frobenius_norm,
    grad_norm,
    pl_alpha_hill,
    spectral,
    spectral_entropy,
    spectral_norm,
    stable_rank,
)
from optax_alphadecay.modules import block_matrices
from optax_alphadecay.monitoring import ModuleRow, format_table, module_table, scalars
from optax_alphadecay.spectra.eigenvalues import eigenvalues
from optax_alphadecay.spectra.lanczos import stochastic
from optax_alphadecay.spectra.marchenko_pastur import marchenko_pastur_edges, random_matrix_alpha
from optax_alphadecay.spectra.powerlaw import Fit, fix_finger, goodness_of_fit, median
from optax_alphadecay.transform import AlphaDecayState, alphadecay
from optax_alphadecay.upgrade import AlphaDecayStateV1, state_v1, upgrade_state

__version__ = "0.2.0.dev0"

__all__ = [
    "AdaDecayState",
    "AlphaDecayState",
    "AlphaDecayStateV1",
    "Assignment",
    "AwdState",
    "Fit",
    "Metric",
    "ModuleRow",
    "adadecay",
    "adam",
    "adamw",
    "alpha_hat",
    "alphadecay",
    "awd",
    "block_matrices",
    "eigenvalues",
    "fix_finger",
    "format_table",
    "frobenius_norm",
    "goodness_of_fit",
    "grad_norm",
    "linear",
    "log2",
    "marchenko_pastur_edges",
    "median",
    "module_table",
    "modulewise_adadecay",
    "pl_alpha_hill",
    "random_matrix_alpha",
    "scalars",
    "sigmoid",
    "spectral",
    "spectral_entropy",
    "spectral_norm",
    "sqrt",
    "stable_rank",
    "state_v1",
    "stochastic",
    "transformer_block",
    "upgrade_state",
    "with_gradients",
]
