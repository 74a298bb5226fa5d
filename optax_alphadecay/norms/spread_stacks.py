"""Orthogonalises the matrices of many leaves, each device of a mesh its share, without gathering a stack."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from optax_alphadecay.distribution import AnyMesh, mesh_of, varying_axes
from optax_alphadecay.norms.matrix_view import MatrixView
from optax_alphadecay.norms.orthogonalize import Orthogonalizer


def orthogonalize_leaves(
    orthogonalize: Orthogonalizer, leaves: Sequence[jax.Array], views: Sequence[MatrixView], mesh: Mesh | None
) -> list[jax.Array]:
    """Orthogonalises every matrix of every leaf.

    On a mesh, matrices of one shape are laid out as one stack, cut up by one resharding along it, and go back the same
    way: each device orthogonalises ``ceil(n / devices)`` of ``n``, and moves two shares of a stack.

    Args:
      orthogonalize: from matrices ``[k, m, n]`` to matrices ``[k, m, n]``; must accept zeros.
      leaves: of any ranks.
      views: how each of them is seen as matrices.
      mesh: the mesh to use for leaves that are on none; see ``mesh_of``.

    Returns:
      A list like ``leaves``. On Explicit axes, sharded as they are.
    """
    devices = mesh_of(mesh, leaves) if leaves else None
    if devices is None:
        return [seen.as_leaf(orthogonalize(seen.as_matrices(leaf))) for leaf, seen in zip(leaves, views, strict=True)]
    spread = functools.partial(_spread, orthogonalize, views, devices)
    if not devices.abstract_mesh.explicit_axes:
        return spread(list(leaves))
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
        shardings = [jax.typeof(leaf).sharding.spec for leaf in leaves]
        result: list[jax.Array] = jax.sharding.auto_axes(spread, out_sharding=shardings)(list(leaves))
    return result


def _spread(
    orthogonalize: Orthogonalizer, views: Sequence[MatrixView], mesh: AnyMesh, leaves: list[jax.Array]
) -> list[jax.Array]:
    # Explicit axes are Auto here, and only the mesh in force says so.
    mesh = jax.sharding.get_abstract_mesh() if mesh.abstract_mesh.explicit_axes else mesh
    manual = mesh.abstract_mesh.manual_axes
    axes = tuple(axis for axis in mesh.axis_names if axis not in manual)
    on_mesh = functools.partial(_auto, orthogonalize, mesh, axes)
    if not axes:
        own = varying_axes(leaves)
        axes = tuple(axis for axis in mesh.axis_names if axis in varying_axes([jax.lax.axis_index(axis)]) - own)
        on_mesh = functools.partial(_manual, orthogonalize, mesh, axes)

    stacks = [seen.as_matrices(leaf) for leaf, seen in zip(leaves, views, strict=True)]
    result = list(leaves)
    for size in dict.fromkeys(stack.shape[1:] for stack in stacks):
        members = [at for at, stack in enumerate(stacks) if stack.shape[1:] == size]
        ends = [sum(stacks[at].shape[0] for at in members[: i + 1]) for i in range(len(members))]
        devices = math.prod(mesh.shape[axis] for axis in axes)
        whole = jnp.concatenate([stacks[at] for at in members])
        whole = on_mesh(jnp.pad(whole, ((0, -len(whole) % devices), (0, 0), (0, 0))))
        for at, part in zip(members, jnp.split(whole, ends), strict=False):
            result[at] = views[at].as_leaf(part)
    return result


def _auto(orthogonalize: Orthogonalizer, mesh: AnyMesh, axes: tuple[str, ...], stack: jax.Array) -> jax.Array:
    """Over axes that the compiler partitions, a stack whose length the devices divide."""
    along = PartitionSpec(axes[::-1])
    free = PartitionSpec.UNCONSTRAINED
    # The last axis first, on top of which the others go: the compiler then always finds a way by all-to-alls.
    specs = [PartitionSpec(axes[: -moved - 1 : -1] or None, free, free) for moved in range(len(axes))] + [along]

    def constrain(stack: jax.Array, spec: PartitionSpec) -> jax.Array:
        return jax.lax.with_sharding_constraint(stack, NamedSharding(mesh, spec))

    share = jax.shard_map(
        orthogonalize, mesh=mesh, in_specs=along, out_specs=along, axis_names=set(axes), check_vma=False
    )
    stack = share(functools.reduce(constrain, specs, stack))
    return functools.reduce(constrain, specs[::-1], stack)


def _manual(orthogonalize: Orthogonalizer, mesh: AnyMesh, axes: tuple[str, ...], stack: jax.Array) -> jax.Array:
    """Inside ``jax.shard_map``, where every device has the whole stack."""
    devices = math.prod(mesh.shape[axis] for axis in axes)
    length, index = len(stack) // devices, jax.lax.axis_index(axes)
    share = orthogonalize(jax.lax.dynamic_slice_in_dim(stack, index * length, length))
    placed = jnp.zeros((devices, *share.shape), share.dtype).at[index].set(share)
    return jax.lax.psum(placed, axes).reshape(stack.shape)
