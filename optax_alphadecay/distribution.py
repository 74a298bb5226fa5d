"""Meshes: every device measures its share of the modules, and only the scores travel back."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
AnyMesh = Mesh | AbstractMesh
SizeClass = tuple[Sequence[jax.Array], ...]
"""Modules measured at once: for each operand (weights, gradients), stacks ``[k, m, n]`` of one ``m`` and any ``n``."""
Measure = Callable[[list[tuple[jax.Array, ...]]], list[jax.Array]]
"""Scores ``[k]`` of each size class, from one stack ``[k, m, n]`` of each operand."""


def check_mesh(name: str, mesh: object) -> None:
    """Raise a ValueError if ``mesh`` is not a mesh of devices."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"{name}: mesh must be a jax.sharding.Mesh, as jax.make_mesh gives, or None; got {mesh!r}.")


def mesh_of(mesh: Mesh | None, arrays: Sequence[jax.Array]) -> AnyMesh | None:
    """Find the mesh to measure on: that of the arrays, else the ambient one, else the one asked for.

    Args:
      mesh: the mesh asked for, or None.
      arrays: concrete or traced; also under ``jax.jit``, their types name their mesh.

    Returns:
      None if there is only one device to use.
    """
    meshes = [jax.typeof(array).sharding.mesh for array in arrays] + [jax.sharding.get_abstract_mesh()]
    in_force = next((mesh for mesh in meshes if not mesh.empty), None)
    if in_force is not None:
        return in_force if math.prod(_free_axes(in_force, arrays).values()) > 1 else None
    if mesh is None or mesh.size == 1:
        return None
    # Arrays that are on no mesh have no Explicit sharding that it could keep.
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def cond(
    predicate: jax.Array,
    function: Callable[..., T],
    arguments: Sequence[Any],
    otherwise: T,
    mesh: AnyMesh | None,
) -> T:
    """Compute ``function(*arguments)`` where the predicate holds, and return ``otherwise`` elsewhere.

    Args:
      predicate: bool, the same on all devices.
      function: gives a tree like ``otherwise``.
      arguments: trees of arrays, which may be sharded over axes of any type.
      otherwise: a tree of arrays.
      mesh: what :func:`mesh_of` gives for the arguments.

    Returns:
      A tree like ``otherwise``.
    """
    automatic = with_auto_axes(function, mesh)
    axes = varying_axes(jax.tree.leaves((arguments, otherwise)))

    def vary(tree: T) -> T:
        return jax.tree.map(lambda array: pcast_varying(array, axes), tree)

    result: T = jax.lax.cond(predicate, lambda: vary(automatic(*arguments)), lambda: vary(otherwise))
    return result


def with_auto_axes(function: Callable[..., T], mesh: AnyMesh | None) -> Callable[..., T]:
    """Make the Explicit axes of the mesh Auto inside a function, and its result replicated.

    A product of weights that are sharded on Explicit axes is refused where its sharding is ambiguous.
    """
    if mesh is None or not mesh.abstract_mesh.explicit_axes:
        return function

    def automatic(*args: object) -> T:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            result: T = jax.sharding.auto_axes(function, out_sharding=PartitionSpec())(*args)
        return result

    return automatic


def varying_axes(arrays: Iterable[jax.Array]) -> frozenset[str]:
    """List the manual axes over which the arrays vary, as far as ``jax.shard_map`` keeps track of it."""
    types = [jax.typeof(array) for array in arrays]
    axes = [type_.manual_axis_type.varying if hasattr(type_, "manual_axis_type") else type_.vma for type_ in types]
    return frozenset().union(*axes)


def pcast_varying(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    """Cast an array to one that varies over these axes."""
    missing = tuple(axes - varying_axes([array]))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def measure_sharded(measure: Measure, classes: Sequence[SizeClass], mesh: AnyMesh) -> list[jax.Array]:
    """Measure all modules, on every device ``ceil(n / devices)`` of the ``n`` modules of a size class.

    A class is concatenated to one stack and resharded along it, with a collective for each mesh axis and side that
    its weights are sharded over. Narrower matrices are padded with columns of zeros, and the last shares with matrices
    of zeros.

    Args:
      measure: measures each module by itself. It must accept modules of zeros and, in a class with stacks of different
        widths, columns of zeros.
      classes: what to measure. Each operand of a class has equally many modules in all.
      mesh: its axes are Auto or, inside ``jax.shard_map``, Manual.

    Returns:
      Scores ``[n]`` of every class, in the order of its stacks, replicated. Inside ``jax.shard_map``, weights that
      vary over an axis are each device's own, and so are their scores.
    """
    # Explicit axes are Auto here, and only the mesh in force says so.
    mesh = jax.sharding.get_abstract_mesh() if mesh.abstract_mesh.explicit_axes else mesh
    axes = _free_axes(mesh, [stack for size_class in classes for stacks in size_class for stack in stacks])
    is_manual = set(axes) <= set(mesh.abstract_mesh.manual_axes)
    measure_on = _manual if is_manual else _auto
    return measure_on(measure, classes, mesh, tuple(axes), math.prod(axes.values()))


def _free_axes(mesh: AnyMesh, arrays: Sequence[jax.Array]) -> dict[str, int]:
    """List the axes to measure over, with sizes: those not manual, or else those the arrays do not vary over."""
    manual = mesh.abstract_mesh.manual_axes
    axes = [axis for axis in mesh.axis_names if axis not in manual]
    if not axes:
        taken = varying_axes(arrays)
        # With check_vma=False nothing is known to be replicated, and an axis index is not known to vary.
        axes = [axis for axis in mesh.axis_names if axis in varying_axes([jax.lax.axis_index(axis)]) - taken]
    return {axis: mesh.shape[axis] for axis in axes}


def _auto(
    measure: Measure, classes: Sequence[SizeClass], mesh: AnyMesh, axes: tuple[str, ...], devices: int
) -> list[jax.Array]:
    """Measure over Auto axes, where the compiler moves the weights from wherever they are."""
    sizes = [_num_modules(size_class) for size_class in classes]
    # The last axis first, and then the others on top of it: the compiler then always finds a way by all-to-alls.
    along = PartitionSpec(axes[::-1])

    def reshard(stack: jax.Array) -> jax.Array:
        free = PartitionSpec.UNCONSTRAINED
        for moved in range(len(axes)):
            spec = PartitionSpec(axes[: -moved - 1 : -1] or None, free, free)
            stack = jax.lax.with_sharding_constraint(stack, NamedSharding(mesh, spec))
        return jax.lax.with_sharding_constraint(stack, NamedSharding(mesh, along))

    stacks = [tuple(reshard(_one_stack(operand, devices)) for operand in size_class) for size_class in classes]

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=along,
        out_specs=PartitionSpec(),
        axis_names=set(axes),
        check_vma=False,  # eigensolvers have no rule for it
    )
    def measure_shares(stacks: list[tuple[jax.Array, ...]]) -> jax.Array:
        # One all-gather for all classes.
        return jax.lax.all_gather(jnp.concatenate(measure(stacks)), along[0])

    scores_DxS = measure_shares(stacks)
    ends = np.cumsum([operands[0].shape[0] // devices for operands in stacks])[:-1]
    parts = jnp.split(scores_DxS, ends, axis=1)
    return [part.reshape(-1)[:size] for part, size in zip(parts, sizes, strict=True)]


def _manual(
    measure: Measure, classes: Sequence[SizeClass], mesh: AnyMesh, axes: tuple[str, ...], devices: int
) -> list[jax.Array]:
    """Measure inside ``jax.shard_map``, where every device has all weights: each takes its share of them."""
    stacks = [tuple(_one_stack(operand, devices) for operand in size_class) for size_class in classes]
    index = jax.lax.axis_index(axes)
    shares = jax.tree.map(lambda stack: _share(stack, index, devices), stacks)
    replicated = []
    for size_class, scores in zip(classes, measure(shares), strict=True):
        scores_DxS = jnp.zeros((devices, *scores.shape), scores.dtype).at[index].set(scores)
        replicated.append(jax.lax.psum(scores_DxS, axes).reshape(-1)[: _num_modules(size_class)])
    return replicated


def _one_stack(stacks: Sequence[jax.Array], devices: int) -> jax.Array:
    """Concatenate stacks, padded with zeros to the widest and to a multiple of the number of devices."""
    widest = max(stack.shape[2] for stack in stacks)
    padded = [jnp.pad(stack, ((0, 0), (0, 0), (0, widest - stack.shape[2]))) for stack in stacks]
    stacked = jnp.concatenate(padded)
    return jnp.pad(stacked, ((0, -len(stacked) % devices), (0, 0), (0, 0)))


def _share(stack: jax.Array, index: jax.Array, devices: int) -> jax.Array:
    length = len(stack) // devices
    return jax.lax.dynamic_slice_in_dim(stack, index * length, length)


def _num_modules(size_class: SizeClass) -> int:
    return sum(len(stack) for stack in size_class[0])
