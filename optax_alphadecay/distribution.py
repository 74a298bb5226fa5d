"""Spreads modules over the devices of a mesh: each measures its share, and only the scores travel back."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

AnyMesh = Mesh | AbstractMesh
SizeClass = tuple[Sequence[jax.Array], ...]
"""Modules measured together: of each thing that is looked at, stacks ``[k, m, n]`` of one ``m``, and any ``n``."""
Measure = Callable[[list[tuple[jax.Array, ...]]], list[jax.Array]]
"""Scores ``[k]`` of each size class, from one stack ``[k, m, n]`` of each thing that is looked at."""


def check_mesh(name: str, mesh: object) -> None:
    """Raises a ValueError if ``mesh`` is not a mesh of devices."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"{name}: mesh must be a jax.sharding.Mesh, as jax.make_mesh gives, or None; got {mesh!r}.")


def mesh_of(mesh: Mesh | None, arrays: Sequence[jax.Array]) -> AnyMesh | None:
    """The mesh to spread over: the one the arrays live on, else the ambient one, else the one asked for.

    Args:
      mesh: the mesh asked for, or None.
      arrays: concrete or traced; also under ``jax.jit``, their types name their mesh.

    Returns:
      None if there is but one device to spread over.
    """
    meshes = [jax.typeof(array).sharding.mesh for array in arrays] + [jax.sharding.get_abstract_mesh()]
    in_force = next((mesh for mesh in meshes if not mesh.empty), None)
    if in_force is not None:
        return in_force if math.prod(_sizes(in_force, arrays).values()) > 1 else None
    if mesh is None or mesh.size == 1:
        return None
    # Arrays that are on no mesh have no Explicit sharding for it to hold on to.
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def left_to_compiler(function: Callable[..., jax.Array], mesh: AnyMesh | None) -> Callable[..., jax.Array]:
    """``function`` with the mesh axes that are Explicit made Auto inside it, and a replicated result.

    A product of weights that are sharded on Explicit axes is refused where its sharding is ambiguous.
    """
    if mesh is None or not mesh.abstract_mesh.explicit_axes:
        return function

    def automatic(*args: object) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            result: jax.Array = jax.sharding.auto_axes(function, out_sharding=PartitionSpec())(*args)
        return result

    return automatic


def varying(arrays: Iterable[jax.Array]) -> frozenset[str]:
    """The manual axes over which devices hold different values, as far as ``jax.shard_map`` keeps track of it."""
    types = [jax.typeof(array) for array in arrays]
    axes = [each.manual_axis_type.varying if hasattr(each, "manual_axis_type") else each.vma for each in types]
    return frozenset().union(*axes)


def vary(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    """The same values, as ones that may vary over the axes."""
    missing = tuple(axes - varying([array]))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def spread(measure: Measure, classes: Sequence[SizeClass], mesh: AnyMesh) -> list[jax.Array]:
    """Measures all modules, every device its share of each size class: ``ceil(n / devices)`` of ``n``.

    A class is laid out as one stack and cut up by one resharding, with a collective for each mesh axis and side that
    its weights are sharded over. Narrow matrices get columns of zeros, and empty ones fill the last shares.

    Args:
      measure: looks at each module by itself, and minds neither empty ones nor, in a class that needs them, columns
        of zeros.
      classes: what to look at. Each thing has equally many modules in all.
      mesh: its axes are Auto or, inside ``jax.shard_map``, Manual.

    Returns:
      Scores ``[n]`` of every class, in the order of its stacks, replicated. Inside ``jax.shard_map``, weights that
      vary over an axis are each device's own, and so are their scores.
    """
    # Explicit axes are Auto here, and only the mesh in force says so.
    mesh = jax.sharding.get_abstract_mesh() if mesh.abstract_mesh.explicit_axes else mesh
    axes = _sizes(mesh, [array for each in classes for stacks in each for array in stacks])
    together = _by_hand if set(axes) <= set(mesh.abstract_mesh.manual_axes) else _by_compiler
    return together(measure, classes, mesh, tuple(axes), math.prod(axes.values()))


def _sizes(mesh: AnyMesh, arrays: Sequence[jax.Array]) -> dict[str, int]:
    """The axes to spread over and their sizes: those not manual, or else those the arrays do not vary over."""
    manual = mesh.abstract_mesh.manual_axes
    axes = [axis for axis in mesh.axis_names if axis not in manual]
    if not axes:
        own = varying(arrays)
        # With check_vma=False nothing is known to be the same everywhere, not even that an index is not.
        axes = [axis for axis in mesh.axis_names if axis in varying([jax.lax.axis_index(axis)]) - own]
    return {axis: mesh.shape[axis] for axis in axes}


def _by_compiler(
    measure: Measure, classes: Sequence[SizeClass], mesh: AnyMesh, axes: tuple[str, ...], devices: int
) -> list[jax.Array]:
    """Over axes that the compiler partitions: it moves the weights, wherever they are."""
    sizes = [_modules_of(each) for each in classes]
    # The last axis first, on top of which the others go: the compiler then always finds a way by all-to-alls.
    along = PartitionSpec(axes[::-1])

    def reshard(stack: jax.Array) -> jax.Array:
        free = PartitionSpec.UNCONSTRAINED
        for moved in range(len(axes)):
            spec = PartitionSpec(axes[: -moved - 1 : -1] or None, free, free)
            stack = jax.lax.with_sharding_constraint(stack, NamedSharding(mesh, spec))
        return jax.lax.with_sharding_constraint(stack, NamedSharding(mesh, along))

    stacks = [tuple(reshard(_one_stack(thing, devices)) for thing in each) for each in classes]

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=along,
        out_specs=PartitionSpec(),
        axis_names=set(axes),
        check_vma=False,  # eigensolvers have no rule for it
    )
    def measure_shares(stacks: list[tuple[jax.Array, ...]]) -> jax.Array:
        # One gathering for all classes.
        return jax.lax.all_gather(jnp.concatenate(measure(stacks)), along[0])

    scores_DxS = measure_shares(stacks)
    ends = np.cumsum([each[0].shape[0] // devices for each in stacks])[:-1]
    parts = jnp.split(scores_DxS, ends, axis=1)
    return [part.reshape(-1)[:size] for part, size in zip(parts, sizes, strict=True)]


def _by_hand(
    measure: Measure, classes: Sequence[SizeClass], mesh: AnyMesh, axes: tuple[str, ...], devices: int
) -> list[jax.Array]:
    """Inside ``jax.shard_map``, where all weights are at hand: each device takes its share of them."""
    stacks = [tuple(_one_stack(thing, devices) for thing in each) for each in classes]
    index = jax.lax.axis_index(axes)
    shares = jax.tree.map(lambda stack: _share(stack, index, devices), stacks)
    everywhere = []
    for each, scores in zip(classes, measure(shares), strict=True):
        placed = jnp.zeros((devices, *scores.shape), scores.dtype).at[index].set(scores)
        everywhere.append(jax.lax.psum(placed, axes).reshape(-1)[: _modules_of(each)])
    return everywhere


def _one_stack(stacks: Sequence[jax.Array], devices: int) -> jax.Array:
    """All modules as one stack, as wide as the widest, with empty ones at its end until the devices divide it."""
    widest = max(stack.shape[2] for stack in stacks)
    together = jnp.concatenate([jnp.pad(stack, ((0, 0), (0, 0), (0, widest - stack.shape[2]))) for stack in stacks])
    return jnp.pad(together, ((0, -len(together) % devices), (0, 0), (0, 0)))


def _share(stack: jax.Array, index: jax.Array, devices: int) -> jax.Array:
    length = len(stack) // devices
    return jax.lax.dynamic_slice_in_dim(stack, index * length, length)


def _modules_of(each: SizeClass) -> int:
    return sum(len(stack) for stack in each[0])
