"""What a rule may say of a leaf, and the stacks of modules that it makes of it."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import math
import operator
import re
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.modules.paths import plain_components
from optax_alphadecay.modules.stacks import ModuleStack


@dataclasses.dataclass(frozen=True)
class MatrixAxes:
    """How a leaf is seen as matrices, where :class:`optax.contrib.MuonDimensionNumbers` do not say it all.

    A leaf of the tree that is passed as ``modules``, as the numbers are. :func:`block_matrices` makes it for kernels
    that are split, and for layers scanned along an axis behind another one that is stacked.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax_alphadecay as oad
      >>> fused = oad.MatrixAxes(sizes=(64, 64, 64))
      >>> state = oad.alphadecay(0.1, modules={"qkv": fused}).init({"qkv": jnp.ones((64, 192))})
      >>> state.ratios.shape
      (3,)
    """

    numbers: MuonDimensionNumbers = dataclasses.field(default_factory=MuonDimensionNumbers)
    """Input and output axes of the leaf as it is stored; the other axes are stacked modules."""
    stack: tuple[int, ...] | None = None
    """The stacked axes in the order in which modules are named and counted; None: as they are stored."""
    sizes: tuple[int, ...] | None = None
    """Lengths of the parts of the output axis that are modules of their own; None: the whole leaf is one."""
    taken: tuple[bool, ...] | None = None
    """Which of these parts are modules; None: all. The others keep the base decay."""


Choice = Any
"""True, False, MuonDimensionNumbers or MatrixAxes."""


def as_stacks(name: str, position: int, leaf: Any, choice: Choice, advise_stacked: bool = True) -> list[ModuleStack]:
    """Make the stacks of modules of one leaf: one, or one for each part of a split kernel.

    Raises:
      ValueError: if the leaf cannot be seen so; names the leaf, its shape and the fix.
    """
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
    if not isinstance(choice, bool | MuonDimensionNumbers | MatrixAxes):
        raise ValueError(
            f"alphadecay: modules says {choice!r} of the leaf {name!r}; a choice is True, False or"
            " optax.contrib.MuonDimensionNumbers. To choose by name pass block_matrices(axes={'a pattern': ...})."
        )
    if not jnp.issubdtype(dtype, jnp.floating) or len(shape) < 2 or math.prod(shape) == 0:
        raise ValueError(
            f"alphadecay: {name!r} of shape {shape} and dtype {dtype} cannot be a module, since it holds no real"
            f" matrix; set it to False in modules."
        )
    if choice is True and len(shape) > 2:
        raise ValueError(cannot_guess(name, shape, advise_stacked))
    numbers = choice if isinstance(choice, MuonDimensionNumbers) else MuonDimensionNumbers()
    whole = choice if isinstance(choice, MatrixAxes) else MatrixAxes(numbers)
    axes = group_axes(name, shape, whole)
    if whole.sizes is None:
        return [ModuleStack(name, position, shape, axes)]
    check_sizes(name, shape, axes[2], whole.sizes)
    ends = [*itertools.accumulate(whole.sizes)]
    parts = [(end - size, end) for size, end in zip(whole.sizes, ends, strict=True)]
    taken = (True,) * len(parts) if whole.taken is None else whole.taken
    if len(taken) != len(parts):
        raise ValueError(
            f"alphadecay: taken={taken} for {name!r} must say of each of the {len(parts)} parts True or False."
        )
    return [
        ModuleStack(f"{name}[{start}:{end}]", position, shape, axes, (start, end))
        for (start, end), keep in zip(parts, taken, strict=True)
        if keep
    ]


def group_axes(
    name: str, shape: tuple[int, ...], whole: MatrixAxes
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Axes of a leaf that are stacked over, inputs and outputs, counted from 0."""
    reduction, output = (normalize_axes(name, shape, axes) for axes in whole.numbers)
    if not reduction or not output or len({*reduction, *output}) < len(reduction + output):
        raise ValueError(
            f"alphadecay: {whole.numbers} for {name!r} of shape {shape} must name distinct, non-empty reduction and"
            f" output axes, got {reduction} and {output}."
        )
    rest = tuple(axis for axis in range(len(shape)) if axis not in reduction + output)
    stack = rest if whole.stack is None else normalize_axes(name, shape, whole.stack)
    if sorted(stack) != list(rest):
        raise ValueError(
            f"alphadecay: for {name!r} of shape {shape}, stack={whole.stack} must name the axes {rest}, which are"
            f" neither inputs nor outputs in {whole.numbers}."
        )
    return stack, reduction, output


def normalize_axes(name: str, shape: tuple[int, ...], axes: Any) -> tuple[int, ...]:
    """Axes of a leaf, given as an integer or several, counted from 0."""
    given = axes
    try:
        axes = tuple(operator.index(axis) for axis in (axes if isinstance(axes, Iterable) else (axes,)))
    except TypeError as error:
        raise ValueError(f"alphadecay: axes of {name!r} must be integers or tuples of them, got {given!r}.") from error
    if any(not -len(shape) <= axis < len(shape) for axis in axes):
        raise ValueError(f"alphadecay: axes {axes} are out of range for {name!r} of shape {shape}.")
    return tuple(axis % len(shape) for axis in axes)


def check_sizes(name: str, shape: tuple[int, ...], output: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    """Raise a ValueError unless a leaf has one output axis, whose length is the sum of the sizes."""
    if len(output) != 1:
        raise ValueError(
            f"alphadecay: {name!r} of shape {shape} has the output axes {output}, but split cuts along a single one; "
            "where one of them runs over the parts, leave it out of the output axes, and each is a module."
        )
    if not isinstance(sizes, tuple | list) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"alphadecay: the sizes of the parts of {name!r} must be a tuple of lengths of at least 1, got {sizes!r}."
        )
    if sum(sizes) != shape[output[0]]:
        inputs = [axis for axis, size in enumerate(shape) if size == sum(sizes)]
        hint = f" Axis {inputs[0]} is so long: name it as the output axis in axes." if inputs else ""
        raise ValueError(
            f"alphadecay: the sizes {sizes} of split for {name!r} add up to {sum(sizes)}, but its output axis"
            f" {output[0]} of shape {shape} has length {shape[output[0]]}.{hint}"
        )


def most_eigenvalues(shape: tuple[int, ...]) -> int:
    """The most eigenvalues any reading of these axes as stacked, reduced and produced ones gives."""
    readings = itertools.product((0, 1, 2), repeat=len(shape))
    return max(
        min(math.prod(size for size, role in zip(shape, roles, strict=True) if role == side) for side in (1, 2))
        if {1, 2} <= set(roles)
        else 0
        for roles in readings
    )


def cannot_guess(name: str, shape: tuple[int, ...], advise_stacked: bool = True, stack: tuple[int, ...] = ()) -> str:
    """Say what to write for a leaf whose axes cannot be guessed.

    Args:
      name: of the leaf.
      shape: of the leaf.
      advise_stacked: whether to speak of scanned layers; False where ``stacked`` was passed.
      stack: axes known to run over scanned layers.
    """
    scanned = "For scanned layers pass modules=block_matrices(stacked=['name of the scanned part']); otherwise pass"
    lines = "\n".join(
        f'  axes={{r"{_pattern_of(name)}": {numbers!r}}}  # {axes}' for numbers, axes in readings(name, shape, stack)
    )
    return (
        f"alphadecay: {name!r} has shape {shape}, and which of its {len(shape)} axes are inputs, outputs and"
        f" stacked modules cannot be guessed. {scanned if advise_stacked else 'Pass'} to block_matrices the line that"
        f" is true of it, with MuonDimensionNumbers from optax.contrib, or False to leave it out:\n{lines}"
    )


def readings(name: str, shape: tuple[int, ...], stack: tuple[int, ...] = ()) -> list[tuple[MuonDimensionNumbers, str]]:
    """Ways to see a leaf of more than two axes as matrices, the likeliest first, each with names for its axes."""
    own = [axis for axis in range(len(shape)) if axis not in stack]
    first, *_, last = own
    inward = MuonDimensionNumbers(first, tuple(own[1:])), ["inputs", *["heads", "head size"][: len(own) - 1]]
    outward = MuonDimensionNumbers(tuple(own[:-1]), last), ["heads", "head size", "outputs"]
    window = MuonDimensionNumbers(tuple(own[:-1]), last), [*["taps"] * (len(own) - 2), "inputs", "outputs"]
    stacked = MuonDimensionNumbers(own[-2], last), [*["stack"] * (len(own) - 2), "inputs", "outputs"]
    fused = MuonDimensionNumbers(first, tuple(own[2:])), ["inputs", "parts", "heads", "head size"]
    torch = MuonDimensionNumbers(tuple(own[1:]), first), ["outputs", "inputs", *["taps"] * (len(own) - 2)]
    lower = name.lower()
    if "conv" in lower:
        found = [window, torch]
    elif any(word in lower for word in ("expert", "moe")):
        found = [stacked]
    elif len(own) == 3:
        is_output = any(word in lower for word in ("out", "o_proj", "c_proj", "wo"))
        found = [outward, inward, stacked] if is_output else [inward, outward, stacked]
        if "att" not in lower and shape[first] < min(shape[axis] for axis in own[1:]):
            found = [stacked, *found[:-1]]
    else:
        found = [window, fused, stacked] if len(own) == 4 else [window, stacked]
    described = []
    for numbers, words in found:
        words_of = dict(zip(own, words, strict=True)) | dict.fromkeys(stack, "layers")
        described.append((numbers, f"[{', '.join(words_of[axis] for axis in range(len(shape)))}]"))
    return described


def _pattern_of(name: str) -> str:
    """A pattern for a leaf and those of the same name in other layers: the end of its path, any number for a number."""
    components = plain_components(name)
    named = [at for at, component in enumerate(components) if not component.isdigit()]
    end = components[named[-2] if len(named) > 1 else 0 :]
    return "/".join(r"\d+" if component.isdigit() else re.escape(component) for component in end) + "$"
