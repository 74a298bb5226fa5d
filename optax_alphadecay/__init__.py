"""AlphaDecay for Optax: a module's score becomes its share of the weight decay."""
# SPDX-License-Identifier: Apache-2.0

from optax_alphadecay.aliases import adam, adamw, with_gradients
from optax_alphadecay.assignment.linear import linear
from optax_alphadecay.assignment.proportional import log2, proportional, sqrt
from optax_alphadecay.assignment.protocol import Assignment
from optax_alphadecay.assignment.sigmoid import sigmoid, transformer_block
from optax_alphadecay.baselines import AdaDecayState, AwdState, adadecay, awd, modulewise_adadecay
from optax_alphadecay.correction.adamc import adamc
from optax_alphadecay.correction.corrected import corrected
from optax_alphadecay.correction.module_norms import ModuleNorms, module_norms, norm_scalars
from optax_alphadecay.correction.steady_state import (
    effective_learning_rate,
    finite_step_norm,
    sign_steady_state_norm,
    steady_state_norm,
)
from optax_alphadecay.decoupled import decoupled
from optax_alphadecay.inspection.inspector import inspect
from optax_alphadecay.inspection.records import Inspection, ModuleRecord
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
from optax_alphadecay.modules import LeafRecord, MatrixAxes, block_matrices, explain, leaf_records, modules_for
from optax_alphadecay.monitoring import ModuleRow, format_table, module_table, scalars
from optax_alphadecay.norms.ball import NormBall
from optax_alphadecay.norms.constructors import (
    bias_ball,
    column_ball,
    convolution_ball,
    row_ball,
    scion_norms,
    sign_ball,
    spectral_norm_ball,
)
from optax_alphadecay.scion import ScionState, project_onto_ball, scale_by_scion, scion, scionc
from optax_alphadecay.spectra.eigenvalues import eigenvalues
from optax_alphadecay.spectra.lanczos import stochastic
from optax_alphadecay.spectra.marchenko_pastur import marchenko_pastur_edges, random_matrix_alpha
from optax_alphadecay.spectra.powerlaw import Fit, fix_finger, goodness_of_fit, median
from optax_alphadecay.state import AlphaDecayState, request_refresh
from optax_alphadecay.transform import alphadecay
from optax_alphadecay.upgrade import AlphaDecayStateV1, earlier_states, from_optax, state_v1, upgrade_state

__version__ = "0.2.0.dev0"

__all__ = [
    "AdaDecayState",
    "AlphaDecayState",
    "AlphaDecayStateV1",
    "Assignment",
    "AwdState",
    "Fit",
    "Inspection",
    "LeafRecord",
    "MatrixAxes",
    "Metric",
    "ModuleNorms",
    "ModuleRecord",
    "ModuleRow",
    "NormBall",
    "ScionState",
    "adadecay",
    "adam",
    "adamc",
    "adamw",
    "alpha_hat",
    "alphadecay",
    "awd",
    "bias_ball",
    "block_matrices",
    "column_ball",
    "convolution_ball",
    "corrected",
    "decoupled",
    "earlier_states",
    "effective_learning_rate",
    "eigenvalues",
    "explain",
    "finite_step_norm",
    "fix_finger",
    "format_table",
    "frobenius_norm",
    "from_optax",
    "goodness_of_fit",
    "grad_norm",
    "inspect",
    "leaf_records",
    "linear",
    "log2",
    "marchenko_pastur_edges",
    "median",
    "module_norms",
    "module_table",
    "modules_for",
    "modulewise_adadecay",
    "norm_scalars",
    "pl_alpha_hill",
    "project_onto_ball",
    "proportional",
    "random_matrix_alpha",
    "request_refresh",
    "row_ball",
    "scalars",
    "scale_by_scion",
    "scion",
    "scion_norms",
    "scionc",
    "sigmoid",
    "sign_ball",
    "sign_steady_state_norm",
    "spectral",
    "spectral_entropy",
    "spectral_norm",
    "spectral_norm_ball",
    "sqrt",
    "stable_rank",
    "state_v1",
    "steady_state_norm",
    "stochastic",
    "transformer_block",
    "upgrade_state",
    "with_gradients",
]
