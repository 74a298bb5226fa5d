"""Which leaves are modules, how a leaf of any rank is seen as a stack of matrices, and what they are called."""
# SPDX-License-Identifier: Apache-2.0

from optax_alphadecay.modules.paths import KeyPath, PyTree
from optax_alphadecay.modules.resolve import ModuleRule, leaf_mask, resolve
from optax_alphadecay.modules.rules import block_matrices
from optax_alphadecay.modules.stacks import ModuleStack, names, slices

__all__ = [
    "KeyPath",
    "ModuleRule",
    "ModuleStack",
    "PyTree",
    "block_matrices",
    "leaf_mask",
    "names",
    "resolve",
    "slices",
]
