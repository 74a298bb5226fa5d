"""How many dimensions the products of attention use: pseudo-rank, stable rank and entropy rank of every head."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

SHARE = 0.95
"""Share of the sum of the singular values that the pseudo-rank asks for."""
PRODUCTS = {"W_Q W_K^T": ("q_proj", "k_proj"), "W_V W_O": ("v_proj", "o_proj")}


class Ranks(NamedTuple):
    """Three measures of one matrix; all are 0 for a matrix of zeros, and NaN for one that is not finite."""

    pseudo: float
    """The fewest singular values that sum to `SHARE` of the sum of all, divided by how many could be positive."""
    stable: float
    """Sum of the squared singular values over the largest squared."""
    entropy: float
    """`exp(-sum p ln p)` with `p` the singular values over their sum."""


def ranks(singular_values: np.ndarray) -> Ranks:
    """Measures a matrix.

    The pseudo-rank has no settled definition; ours is that of `Ranks.pseudo`. The entropy rank is the effective rank
    of Roy and Vetterli, 2007.

    Args:
        singular_values: `[n]`, in any order, those that are 0 included; their number is the highest rank possible.

    Returns:
        The measures, computed in float64.

    Example:
        >>> ranks(np.array([1.0, 1.0, 0.0, 0.0]))
        Ranks(pseudo=0.5, stable=2.0, entropy=2.0)
    """
    values = np.sort(np.asarray(singular_values, np.float64))[::-1]
    total = values.sum()
    if not np.isfinite(total):
        return Ranks(np.nan, np.nan, np.nan)
    if total == 0:
        return Ranks(0.0, 0.0, 0.0)
    shares = values / total
    # A sum that rounds to just below the share counts as the share.
    needed = 1 + int(np.searchsorted(np.cumsum(shares), SHARE - 1e-12))
    positive = shares[shares > 0]
    entropy = float(np.exp(-(positive * np.log(positive)).sum()))
    return Ranks(needed / len(values), float(((values / values[0]) ** 2).sum()), entropy)


def head_ranks(params: Mapping[str, Any], num_heads: int) -> dict[str, list[list[Ranks]]]:
    """Measures what each attention head computes with: `W_Q W_K^T` and `W_V W_O`.

    Rotary positions stand between queries and keys: their scores follow `W_Q W_K^T` as it is at distance 0 alone.

    Args:
        params: Of a `Llama`, its blocks stacked under `layers`, on the host.
        num_heads: Attention heads.

    Returns:
        By product, the ranks of every head of every block, `[block][head]`.
    """
    kernels = {
        name: np.asarray(params["layers"]["self_attn"][name]["kernel"], np.float64)
        for pair in PRODUCTS.values()
        for name in pair
    }
    found: dict[str, list[list[Ranks]]] = {}
    for product, (first, second) in PRODUCTS.items():
        found[product] = []
        for left, right in zip(kernels[first], kernels[second], strict=True):
            # The inputs of o_proj are the heads; of the others it is the outputs.
            right = right.T if second == "o_proj" else right
            heads = zip(np.split(left, num_heads, axis=1), np.split(right, num_heads, axis=1), strict=True)
            found[product].append([ranks(product_singular_values(a, b)) for a, b in heads])
    return found


def product_singular_values(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Singular values of `left @ right.T`, descending, without forming it.

    Args:
        left: `[m, h]`, `h` at most `m`.
        right: `[n, h]`.

    Returns:
        Float64 `[h]`: the others are 0.
    """
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return np.full(left.shape[1], np.nan)
    first = np.linalg.qr(np.asarray(left, np.float64))[1]
    second = np.linalg.qr(np.asarray(right, np.float64))[1]
    values: np.ndarray = np.linalg.svd(first @ second.T, compute_uv=False)
    return values
