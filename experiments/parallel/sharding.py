"""The mesh of a run, and where weights and batches lie on it."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.config import RunConfig

SpecOf = Callable[[tuple[Any, ...], Any], jax.P]
"""From the path and the leaf of a parameter to where it lies; each network has its own."""
BATCH = ("data", "fsdp")
"""The mesh axes. A batch is cut over both, weights over `fsdp`: all devices compute on rows of their own."""


def make_mesh(config: RunConfig) -> jax.sharding.Mesh:
    """Arranges all devices of the run as `data` x `fsdp`, and checks that weights and batches can be cut so.

    Args:
        config: The run.

    Returns:
        The mesh. Its axes are Auto: the compiler decides what the constraints below leave open.

    Raises:
        ValueError: If the axes do not give the number of devices, or do not divide the weights or the batch.
    """
    data, fsdp, devices = config.mesh.data, config.mesh.fsdp, jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise ValueError(f"mesh.fsdp={fsdp} does not divide the {devices} devices of the run: choose a divisor.")
    if config.model.hidden_size % fsdp:
        raise ValueError(
            f"mesh.fsdp={fsdp} does not divide model.hidden_size={config.model.hidden_size}, the axis on which weights "
            "are cut: choose a divisor of both it and the number of devices."
        )
    if data not in (-1, devices // fsdp):
        raise ValueError(
            f"mesh.data={data} times mesh.fsdp={fsdp} are not the {devices} devices of the run: pass "
            f"--mesh.data {devices // fsdp}, or -1 for all that fsdp leaves."
        )
    piece = config.batch_size // config.accumulate
    if piece % devices:
        raise ValueError(
            f"batch_size={config.batch_size} in accumulate={config.accumulate} pieces makes {piece} sequences a piece, "
            f"which {devices} devices cannot share evenly: choose them so that a piece is a multiple of {devices}."
        )
    auto = (jax.sharding.AxisType.Auto,) * len(BATCH)
    return jax.make_mesh((devices // fsdp, fsdp), BATCH, axis_types=auto)


def one_device_mesh() -> jax.sharding.Mesh:
    """A mesh of this process's first device alone, with the axes of `make_mesh`."""
    auto = (jax.sharding.AxisType.Auto,) * len(BATCH)
    return jax.make_mesh((1, 1), BATCH, axis_types=auto, devices=jax.local_devices()[:1])


def shardings(tree: Any, mesh: jax.sharding.Mesh, spec_of: SpecOf) -> Any:
    """Where every leaf of parameters and optimizer states lies.

    Args:
        tree: Arrays or `jax.ShapeDtypeStruct`.
        mesh: What `make_mesh` gives.
        spec_of: The network's, see `models.common.Network`.

    Returns:
        The tree of `NamedSharding`.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.sharding.NamedSharding(mesh, spec_of(path, leaf)), tree
    )


def abstract(tree: Any, mesh: jax.sharding.Mesh, spec_of: SpecOf) -> Any:
    """Shapes, dtypes and shardings of parameters and optimizer states, as `jax.ShapeDtypeStruct`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh, spec_of),
    )


def constrain(tree: Any, spec_of: SpecOf) -> Any:
    """Holds parameters, gradients or optimizer states of a compiled program to their place on the ambient mesh."""
    if _one_device():
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.lax.with_sharding_constraint(leaf, spec_of(path, leaf)), tree
    )


def constrain_rows(x: jax.Array) -> jax.Array:
    """Holds activations `[B, ...]` of a compiled program to one share of the rows a device of the ambient mesh."""
    return x if _one_device() else jax.lax.with_sharding_constraint(x, jax.P(BATCH))


def constrain_whole(x: jax.Array) -> jax.Array:
    """Has every device of the ambient mesh hold all of an array of a compiled program."""
    return x if _one_device() else jax.lax.with_sharding_constraint(x, jax.P())


def rows_of_process(mesh: jax.sharding.Mesh, batch_size: int) -> np.ndarray:
    """Which rows of each batch lie on devices of this process, ascending, `[n]`."""
    sharding = jax.sharding.NamedSharding(mesh, jax.P(BATCH))
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def pieces_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Where arrays `[A, B, ...]` lie: the rows of each piece are cut over all devices."""
    return jax.sharding.NamedSharding(mesh, jax.P(None, BATCH))


def to_devices(rows: Any, mesh: jax.sharding.Mesh, *, accumulate: int) -> Any:
    """Makes the batch of all processes from this one's rows, cut into pieces.

    Args:
        rows: A tree of this process's rows, in the order of `rows_of_process`, `[n, ...]`.
        mesh: What `make_mesh` gives.
        accumulate: Number of pieces A.

    Returns:
        The whole batch, `[A, B, ...]`: row `a + A * b` of it is row b of piece a, so that a device's share of the
        batch is its share of each piece.
    """

    def cut(x: np.ndarray) -> jax.Array:
        pieces = np.ascontiguousarray(x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1))
        return jax.make_array_from_process_local_data(pieces_sharding(mesh), pieces)

    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(cut, rows)


def share_rows(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Cuts arrays `[B, ...]` that every process has whole over all devices, by rows."""
    sharding = jax.sharding.NamedSharding(mesh, jax.P(BATCH))
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), tree)


def _one_device() -> bool:
    """Whether there is no mesh around, or one of a single device."""
    return jax.sharding.get_abstract_mesh().size <= 1
