"""Ready rules: the kernels of known models that have more than two axes, or hold several matrices side by side."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from collections.abc import Sequence

from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.modules.paths import KeyPath, matches


@dataclasses.dataclass(frozen=True)
class ReadyRule:
    """How kernels whose path matches are seen as matrices."""

    pattern: str
    """Searched in the path."""
    rank: int
    """Number of axes, those of scanned layers not counted; with another number a kernel is not meant."""
    inputs: tuple[int, ...]
    """Input axes, counted without those of scanned layers."""
    outputs: tuple[int, ...]
    """Output axes, counted alike. What is left out is stacked modules."""
    reason: str
    """What such a kernel is."""
    parts: int | None = None
    """Number of equal parts along the output axis that are modules of their own."""

    def fits(self, path: KeyPath, rank: int) -> bool:
        """Whether a leaf of this path and number of axes is meant."""
        return rank == self.rank and matches(self.pattern, path)

    def numbers(self, own_axes: Sequence[int], shape: Sequence[int]) -> MuonDimensionNumbers:
        """The axes of a leaf, given those that run over no scanned layers."""
        inputs, outputs = (tuple(own_axes[axis] for axis in axes) for axes in (self.inputs, self.outputs))
        if self.parts and shape[inputs[0]] > shape[outputs[0]]:  # [outputs, inputs], as torch and Hugging Face's Flax
            inputs, outputs = outputs, inputs
        return MuonDimensionNumbers(
            inputs[0] if len(inputs) == 1 else inputs, outputs[0] if len(outputs) == 1 else outputs
        )


_ATTENTION = (
    ReadyRule(r"(^|/)(query|key|value)/kernel$", 3, (0,), (1, 2), "attention kernel [inputs, heads, head size]"),
    ReadyRule(r"(^|/)out/kernel$", 3, (0, 1), (2,), "attention kernel [heads, head size, outputs]"),
)
_EXPERTS = (
    ReadyRule(
        r"(?i)(experts?|moe)[^/]*/([^/]+/)*[^/]+$", 3, (1,), (2,), "one matrix an expert [experts, inputs, outputs]"
    ),
)

RULES: dict[str, tuple[ReadyRule, ...]] = {
    "flax": _ATTENTION,
    "maxtext": (
        *_ATTENTION,
        ReadyRule(r"qkv_proj/kernel$", 4, (0,), (2, 3), "fused kernel [inputs, 3, heads, head size]"),
        ReadyRule(r"mlp/wi/kernel$", 3, (0,), (2,), "fused kernel [inputs, 2, outputs]"),
        ReadyRule(r"wq_b/kernel$|wkv_b/kernel$|wq/kernel$", 3, (0,), (1, 2), "latent attention [inputs, heads, size]"),
        ReadyRule(r"(?i)(^|/)[^/]*moe[^/]*/([^/]+/)*(wi|wi_0|wi_1|wo)$", 3, (1,), (2,), "one matrix an expert"),
    ),
    "tunix": (
        ReadyRule(r"(^|/)(q|k|v)_proj/w$", 3, (0,), (1, 2), "attention kernel [inputs, heads, head size]"),
        ReadyRule(r"(^|/)o_proj/w$", 3, (0, 1), (2,), "attention kernel [heads, head size, outputs]"),
        ReadyRule(r"(^|/)mlp/(gate|up|down)_proj$", 3, (1,), (2,), "one matrix an expert [experts, inputs, outputs]"),
        ReadyRule(r"(^|/)q_einsum/w$", 3, (1,), (0, 2), "attention kernel [heads, inputs, head size]"),
        ReadyRule(r"(^|/)kv_einsum/w$", 4, (2,), (1, 3), "fused kernel [2, heads, inputs, head size]"),
        ReadyRule(r"(^|/)qkv_einsum/w$", 4, (2,), (1, 3), "fused kernel [3, heads, inputs, head size]"),
        ReadyRule(r"(^|/)attn_vec_einsum/w$", 3, (0, 1), (2,), "attention kernel [heads, head size, outputs]"),
        *_EXPERTS,
    ),
    "gpt2": (ReadyRule(r"(^|/)c_attn/(kernel|weight|w)$", 2, (0,), (1,), "fused query, key and value", parts=3),),
    "convolutions": (
        *(
            ReadyRule(r"(?i)(^|/)[^/]*conv[^/]*/(kernel|w)$", rank, (*range(rank - 1),), (rank - 1,), "a convolution")
            for rank in (3, 4, 5)
        ),
        *(
            ReadyRule(r"(?i)(^|/)[^/]*conv[^/]*/weight$", rank, (*range(1, rank),), (0,), "a convolution")
            for rank in (3, 4, 5)
        ),
    ),
    "experts": _EXPERTS,
}
"""By name, in the order in which a leaf is tried against them."""

STACKED = {"maxtext": {"layers": 1, "dense_layers": 1, "moe_layers": 1}}
"""Scanned layers of a model and their axis, where :func:`block_matrices` is not told."""
