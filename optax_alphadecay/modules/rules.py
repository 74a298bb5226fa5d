"""The rules that users build: block matrices, with overrides, split kernels and ready rules for known models."""
# SPDX-License-Identifier: Apache-2.0

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.modules.block_rule import BlockMatrices
from optax_alphadecay.modules.ready import RULES, STACKED


def block_matrices(
    min_eigenvalues: int = 50,
    *,
    stacked: Collection[str] | Mapping[str, int] = (),
    axes: Mapping[str, bool | MuonDimensionNumbers] | None = None,
    split: Mapping[str, Sequence[int] | int] | None = None,
) -> BlockMatrices:
    """The default rule: the weight matrices of the transformer blocks.

    A floating leaf is a module if it is a matrix with at least ``min_eigenvalues`` eigenvalues and neither its own name
    nor that of its layer names an embedding, an output head, a norm, a scale or a bias. Everything else keeps the base
    decay. Paths are split at slashes and dots. Kernels of Haliax's linear layers are seen by their named axes.

    Patterns are regular expressions, searched in the path joined by slashes; the first that matches is taken.

    Args:
      min_eigenvalues: matrices whose smaller side is shorter are left out: too few to fit a power law to.
      stacked: path components, such as ``"layers"``, below which an axis of every leaf runs over scanned layers, and
        that axis: ``{"layers": 1}``. A list means axis 0. Each layer is then a module of its own, and a stacked norm
        scale is not taken for a matrix.
      axes: what to take leaves for, by pattern. Dimension numbers say which axes are inputs and outputs, counted in the
        leaf as it is stored; those of ``stacked`` must not be among them, and all that are not named are stacked
        modules. False leaves the leaf out, True takes a matrix whatever its name and size. Numbers too go before the
        name, but not before ``min_eigenvalues``.
      split: lengths of the parts of the output axis that are modules of their own, by pattern, for kernels that hold
        several matrices side by side; an integer is a number of equal parts. Only modules are split.

    Returns:
      A function of a params tree that gives a tree of bool, :class:`optax.contrib.MuonDimensionNumbers` and
      :class:`MatrixAxes`, to be passed as ``modules``. It raises a ValueError that names the leaf, and shows what to
      write, where a leaf has more than two axes besides those of ``stacked``, since which of them are inputs and
      outputs cannot be guessed, unless no choice of axes gives enough eigenvalues.

    Raises:
      ValueError: if an argument is out of range, or a pattern is no regular expression.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> params = {"embed": jnp.ones((512, 64)), "layers": {"w": jnp.ones((3, 64, 64)), "scale": jnp.ones((3, 64))}}
      >>> oad.block_matrices(stacked=["layers"])(params)["layers"]
      {'scale': False, 'w': MuonDimensionNumbers(reduction_axis=1, output_axis=2)}
      >>> fused = {"qkv": jnp.ones((64, 192))}
      >>> print(oad.explain(fused, oad.block_matrices(split={"qkv$": (64, 64, 64)})))
      leaf  shape     dtype    taken for          why
      qkv   64 x 192  float32  3 modules 64 x 64  a matrix of ... split into outputs (64, 64, 64)
      3 modules in 1 of 1 leaves.
    """
    return BlockMatrices(*_checked("block_matrices", min_eigenvalues, stacked, axes, split))


def modules_for(
    *models: str,
    min_eigenvalues: int = 50,
    stacked: Collection[str] | Mapping[str, int] | None = None,
    axes: Mapping[str, bool | MuonDimensionNumbers] | None = None,
    split: Mapping[str, Sequence[int] | int] | None = None,
) -> BlockMatrices:
    """:func:`block_matrices` that knows the kernels of some models.

    ``"flax"``: attention of linen and NNX, ``[inputs, heads, head size]`` and back. ``"maxtext"``: that, experts, and
    fused and latent attention, with layers scanned on axis 1. ``"tunix"``: attention of its LLaMA, Qwen and Gemma, and
    experts. ``"gpt2"``: the fused query, key and value, three modules. ``"convolutions"``: every tap and input against
    the outputs. ``"experts"``: one module an expert, ``[experts, inputs, outputs]``.

    Args:
      models: one or more of these; the first that knows a kernel is taken.
      min_eigenvalues: see :func:`block_matrices`.
      stacked: see :func:`block_matrices`; None: as the models have it. An empty list: no layers are scanned.
      axes: see :func:`block_matrices`; goes before what the models say.
      split: see :func:`block_matrices`.

    Returns:
      What :func:`block_matrices` returns.

    Raises:
      ValueError: for an unknown model, and as :func:`block_matrices`.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> oad.modules_for("flax")({"query": {"kernel": jnp.ones((64, 4, 16)), "bias": jnp.ones((4, 16))}})
      {'query': {'bias': False, 'kernel': MuonDimensionNumbers(reduction_axis=0, output_axis=(1, 2))}}
    """
    if not models or (unknown := [model for model in models if model not in RULES]):
        raise ValueError(f"modules_for: no ready rule for {unknown if models else 'no model'}; there are {[*RULES]}.")
    is_default = stacked is None
    if stacked is None:
        stacked = {name: axis for model in models for name, axis in STACKED.get(model, {}).items()}
    ready = tuple(rule for model in models for rule in RULES[model])
    return BlockMatrices(*_checked("modules_for", min_eigenvalues, stacked, axes, split), ready, is_default)


def _checked(
    function: str, min_eigenvalues: Any, stacked: Any, axes: Any, split: Any
) -> tuple[int, tuple[tuple[str, int], ...], tuple[tuple[str, Any], ...], tuple[tuple[str, Any], ...]]:
    """Arguments as tuples, which are hashable, or a ValueError."""
    if isinstance(min_eigenvalues, bool) or not isinstance(min_eigenvalues, int) or min_eigenvalues < 1:
        raise ValueError(f"{function}: min_eigenvalues must be an integer of at least 1, got {min_eigenvalues!r}.")
    if isinstance(stacked, str) or not isinstance(stacked, Iterable):
        example = stacked if isinstance(stacked, str) else "layers"
        raise ValueError(
            f"{function}: stacked takes a collection of path components, [{example!r}] or {{{example!r}: 0}}, got"
            f" {stacked!r}."
        )
    by_axis = dict(stacked) if isinstance(stacked, Mapping) else dict.fromkeys(stacked, 0)
    for container, axis in by_axis.items():
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise ValueError(f"{function}: stacked says {axis!r} for {container!r}; it takes the number of an axis.")
    for argument, given in (("axes", axes or {}), ("split", split or {})):
        if not isinstance(given, Mapping):
            raise ValueError(f"{function}: {argument} takes a dictionary from patterns, got {given!r}.")
        for pattern in given:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ValueError(f"{function}: {argument} has the pattern {pattern!r}: {error}.") from error
    for pattern, choice in (axes or {}).items():
        if not isinstance(choice, bool | MuonDimensionNumbers):
            raise ValueError(
                f"{function}: axes says {choice!r} for {pattern!r}; it takes optax.contrib.MuonDimensionNumbers, True"
                " or False."
            )
    sizes = {pattern: _sizes(function, pattern, given) for pattern, given in (split or {}).items()}
    return min_eigenvalues, tuple(by_axis.items()), tuple((axes or {}).items()), tuple(sizes.items())


def _sizes(function: str, pattern: str, given: Any) -> tuple[int, ...] | int:
    sizes = tuple(given) if isinstance(given, Iterable) else given
    if any(
        isinstance(size, bool) or not isinstance(size, int) or size < 1
        for size in (sizes if isinstance(sizes, tuple) else (sizes,))
    ):
        raise ValueError(
            f"{function}: split says {given!r} for {pattern!r}; it takes lengths of at least 1, or a number of parts."
        )
    return sizes
