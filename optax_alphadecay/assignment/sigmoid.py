"""A sigmoid of scores that are standardised within each transformer block."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from optax_alphadecay.assignment.protocol import Assignment
from optax_alphadecay.decay import check_positive

# Names of the layers of a model, and a layer's name with its number. Elsewhere a number may count anything.
_LAYERS = re.compile(r"(?i)(.*[^a-z])?(h|[a-z]*blocks?|[a-z]*layers?)")
_LAYER = re.compile(rf"{_LAYERS.pattern}_?\d+")
_NUMBERED = re.compile(r"([A-Za-z_]*_)?\d+")


def transformer_block(name: str) -> Hashable:
    """Read the transformer block of a module off its name.

    Args:
      name: a module's name, such as ``"layers/3/attention/query/kernel"`` or, for stacked layers,
        ``"layers/attention/query/kernel/3"``. It is split at slashes and dots.

    Returns:
      The path up to the first component that names layers (``layers``, ``blocks``, ``EncoderBlock``, ``h`` and the
      like), with the number that it has or that follows it. Where it has none, the layers are stacked: the path and
      the first index at the end of the name, for :func:`block_matrices` puts scanned layers before other stacks, such
      as experts. Without such a component, the path up to the first number; without a number, the first component,
      past a leading ``params``, and the first index at the end; without an index, the empty tuple: modules whose names
      have no number are one block. Where your names mean something else, pass a function of your own to
      :func:`sigmoid`.

    Example:
      >>> from optax_alphadecay import transformer_block
      >>> transformer_block("params/h_3/attention/query/kernel"), transformer_block("layers/mlp/up/kernel/3")
      (('params', 'h_3'), ('layers', '3'))
    """
    components = re.split("[/.]", name)
    end = len(components)
    while end > 0 and components[end - 1].isdigit():
        end -= 1
    path, index = components[:end], components[end:]
    # Haliax stacks layers under this name, and its named arrays add an index of their own before that of the stack.
    index = index[1:2] if "stacked" in path and len(index) > 1 else index[:1]
    for at, component in enumerate(path):
        if _LAYER.fullmatch(component):
            return tuple(path[: at + 1])
        if _LAYERS.fullmatch(component):
            if at + 1 < end and path[at + 1].isdigit():
                return tuple(path[: at + 2])
            if index:
                return (*path[: at + 1], *index)
    numbered = next((at for at, component in enumerate(path[:-1]) if _NUMBERED.fullmatch(component)), None)
    if numbered is not None:
        return tuple(path[: numbered + 1])
    return (*path[: 2 if path[:1] == ["params"] else 1], *index) if index else ()


def sigmoid(a: float = 4.0, *, block_of: Callable[[str], Hashable] = transformer_block) -> Assignment:
    """Take a sigmoid of the scores standardised within each transformer block, as AdaDecay does by module.

    Args:
      a: steepness.
      block_of: function from a module's name to the block it belongs to.

    Returns:
      An assignment, ``2 / (1 + exp(-a z))`` with ``z = (s - mean) / (std + 1e-8)`` over the modules of a block.
      Called without names, it takes all modules for one block.

    Raises:
      ValueError: unless ``a`` is positive and finite.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> print(oad.sigmoid()(jnp.array([1.0, 1.0]), ["layers/0/q", "layers/0/k"]))
      [1. 1.]
    """
    check_positive("sigmoid", "a", a)

    def assign(scores: jax.Array, names: Sequence[str] | None = None) -> jax.Array:
        blocks = [None] * scores.shape[0] if names is None else [block_of(name) for name in names]
        number_of = {block: number for number, block in enumerate(dict.fromkeys(blocks))}
        block = np.array([number_of[block] for block in blocks], np.int32)
        finite = jnp.isfinite(scores)

        def block_mean(values: jax.Array) -> jax.Array:
            sums = jax.ops.segment_sum(jnp.where(finite, values, 0.0), block, len(number_of))
            members = jax.ops.segment_sum(finite.astype(scores.dtype), block, len(number_of))
            return (sums / jnp.maximum(members, 1))[block]

        # Measured from the block's lowest, so that the mean of equal scores is theirs to the last digit.
        lowest = jax.ops.segment_min(jnp.where(finite, scores, jnp.inf), block, len(number_of))[block]
        centred = (scores - lowest) - block_mean(scores - lowest)
        z = centred / (jnp.sqrt(block_mean(centred**2)) + 1e-8)
        return 2 * jax.nn.sigmoid(a * z)

    return assign
