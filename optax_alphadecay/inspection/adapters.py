"""LoRA adapters: pairs of factors, seen as the product that they stand for."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import re
from collections.abc import Sequence

from optax_alphadecay.inspection.tensors import LeftOut, Tensor

_PARTNERS = {"lora_A": "lora_B", "lora_a": "lora_b", "lora_down": "lora_up"}
_FIRST = re.compile(r"(?P<stem>.*)(?P<factor>lora_A|lora_a|lora_down)(?P<tail>[^a-zA-Z].*)?")


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The update ``scale * left @ right`` of one matrix."""

    name: str
    """Of the matrix, with ``lora`` behind it."""
    left: Tensor
    """``[m, r]``."""
    right: Tensor
    """``[r, n]``."""
    scale: Tensor | None
    """A scalar that, over the rank, multiplies the product; None where the checkpoint stores none."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(m, n)``."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """``r``."""
        return self.right.shape[0]


def find_adapters(tensors: Sequence[Tensor]) -> tuple[list[Adapter], list[Tensor], list[LeftOut]]:
    """Find the pairs of factors, ``lora_A`` and ``lora_B``, ``lora_a`` and ``lora_b`` or ``lora_down`` and ``lora_up``.

    PyTorch stores them as ``[r, inputs]`` and ``[outputs, r]``, Flax as ``[inputs, r]`` and ``[r, outputs]``.

    Returns:
      The adapters, the tensors that are no factors, and factors without a partner that fits.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    adapters, left_out, used = [], [], set()
    for tensor in tensors:
        if not (match := _FIRST.fullmatch(tensor.name)):
            continue
        stem, tail = match["stem"], match["tail"] or ""
        other = by_name.get(stem + _PARTNERS[match["factor"]] + tail)
        scale = by_name.get(stem + "alpha")
        adapter = _pair(f"{stem.rstrip('/_')}/lora", tensor, other, scale)
        used |= {tensor.name} | ({other.name} if other else set())
        if adapter:
            adapters.append(adapter)
            used |= {scale.name} if scale else set()
        else:
            reason = "a factor of an adapter without a partner that fits"
            for factor in filter(None, (tensor, other)):
                left_out.append(LeftOut(factor.name, factor.shape, str(factor.dtype), reason))
    return adapters, [tensor for tensor in tensors if tensor.name not in used], left_out


def _pair(name: str, first: Tensor, second: Tensor | None, scale: Tensor | None) -> Adapter | None:
    if second is None or len(first.shape) != 2 or len(second.shape) != 2 or 0 in first.shape + second.shape:
        return None
    torch_fits, flax_fits = first.shape[0] == second.shape[1], first.shape[1] == second.shape[0]
    # Where both fit, the rank is the smaller side.
    if torch_fits and (not flax_fits or first.shape[0] <= first.shape[1]):
        return Adapter(name, second, first, scale)
    return Adapter(name, first, second, scale) if flax_fits else None
