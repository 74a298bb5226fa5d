"""Which leaves are modules, how a leaf of any rank is seen as a stack of matrices, and what they are called."""
# SPDX-License-Identifier: Apache-2.0

from optax_alphadecay.modules.axes import MatrixAxes
from optax_alphadecay.modules.block_rule import BlockMatrices
from optax_alphadecay.modules.explain import LeafRecord, explain, leaf_records, resolve_and_warn, unmatched_names
from optax_alphadecay.modules.paths import KeyPath, PyTree, path_components, path_name
from optax_alphadecay.modules.resolve import ModuleRule, leaf_mask, per_leaf, resolve
from optax_alphadecay.modules.rules import block_matrices, modules_for
from optax_alphadecay.modules.stacks import ModuleStack, broadcast_to_leaves, names, slices

__all__ = [
    "BlockMatrices",
    "KeyPath",
    "LeafRecord",
    "MatrixAxes",
    "ModuleRule",
    "ModuleStack",
    "PyTree",
    "block_matrices",
    "broadcast_to_leaves",
    "explain",
    "leaf_mask",
    "leaf_records",
    "modules_for",
    "names",
    "path_components",
    "path_name",
    "per_leaf",
    "resolve",
    "resolve_and_warn",
    "slices",
    "unmatched_names",
]
