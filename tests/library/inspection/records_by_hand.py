"""Records of modules that tests write by hand."""
# SPDX-License-Identifier: Apache-2.0

import math
from typing import Any

import numpy as np

from optax_alphadecay.inspection.records import ModuleRecord

NUMBERS = (
    "alpha",
    "alpha_goodness_of_fit",
    "xmin",
    "ks_distance",
    "alpha_fix_finger",
    "alpha_hat",
    "frobenius_norm",
    "spectral_norm",
    "stable_rank",
    "entropy",
    "random_alpha",
    "mp_edge",
)


def module(name: str, **fields: Any) -> ModuleRecord:
    """A module of 4 x 6 with nothing measured but what is given."""
    numbers = dict.fromkeys(NUMBERS, math.nan)
    known: dict[str, Any] = {"type": name, "layer": None, "shape": (4, 6), "dtype": "float32", "traps": -1}
    known |= {"eigenvalues": np.arange(1.0, 5.0), "beyond_edge": -1, **numbers}
    return ModuleRecord(name, **known | fields)
