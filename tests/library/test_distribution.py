"""How modules are shared between devices, traced for meshes that are not there and mapped over devices by vmap."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import optax_alphadecay as oad
from optax_alphadecay import distribution
from optax_alphadecay.distribution import mesh_of
from optax_alphadecay.measurement import measure
from optax_alphadecay.norms import spread_stacks
from optax_alphadecay.norms.matrix_view import view
from optax_alphadecay.norms.spread_stacks import orthogonalize_leaves

EIGHT = AbstractMesh((2, 4), ("x", "y"))
FOUR = AbstractMesh((4,), ("x",))
TWO = AbstractMesh((2,), ("x",))


def one_device(*axes: str) -> jax.sharding.Mesh:
    return jax.make_mesh((1,) * len(axes), axes, axis_types=(AxisType.Auto,) * len(axes))


def constraints(jaxpr: Any) -> list[PartitionSpec]:
    """Of a program and the programs in it, in their order."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "sharding_constraint":
            found.append(equation.params["sharding"].spec)
    return found


def test_stacks_are_padded_to_the_widest_and_to_the_devices() -> None:
    stacks = [jnp.ones((2, 2, 3)), jnp.full((3, 2, 5), 2.0)]
    whole = distribution._one_stack(stacks, 4)
    assert whole.shape == (8, 2, 5)
    np.testing.assert_array_equal(whole[:2, :, :3], 1)
    np.testing.assert_array_equal(whole[:2, :, 3:], 0)
    np.testing.assert_array_equal(whole[2:5], 2)
    np.testing.assert_array_equal(whole[5:], 0)
    assert distribution._one_stack(stacks, 5).shape == (5, 2, 5)
    assert distribution._num_modules((stacks, stacks)) == 5


def test_shares_follow_one_another() -> None:
    stack = jnp.arange(6).reshape(6, 1, 1)
    shares = [distribution._share(stack, jnp.array(index), 3).ravel().tolist() for index in range(3)]
    assert shares == [[0, 1], [2, 3], [4, 5]]


def test_devices_by_vmap_measure_their_shares() -> None:
    """Inside shard_map: five modules of one class and three of another, over four devices."""
    classes = [
        ([jnp.arange(2.0).reshape(2, 1, 1), jnp.arange(2.0, 5.0).reshape(3, 1, 1)],),
        ([jnp.full((3, 1, 1), 7.0)],),
    ]
    shapes = []

    def measure_share(stacks: list[tuple[jax.Array, ...]]) -> list[jax.Array]:
        shapes.append([operands[0].shape[0] for operands in stacks])
        return [10 * operands[0][:, 0, 0] for operands in stacks]

    def on_device(_: jax.Array) -> list[jax.Array]:
        return distribution._manual(measure_share, classes, FOUR, ("x",), 4)

    scores = jax.vmap(on_device, axis_name="x")(jnp.arange(4))
    np.testing.assert_array_equal(scores[0], np.tile([0, 10, 20, 30, 40], (4, 1)))
    np.testing.assert_array_equal(scores[1], np.tile([70, 70, 70], (4, 1)))
    assert shapes == [[2, 1]]


def test_axes_are_resharded_the_last_first() -> None:
    seen = []

    def measure_share(stacks: list[tuple[jax.Array, ...]]) -> list[jax.Array]:
        seen.append([operands[0].shape for operands in stacks])
        return [operands[0][:, 0, 0] for operands in stacks]

    def scores(first: jax.Array, second: jax.Array) -> list[jax.Array]:
        return distribution.measure_sharded(measure_share, [([first],), ([second],)], EIGHT)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((11, 2, 3), (8, 4, 4))]
    program = jax.make_jaxpr(scores)(*shapes)
    assert [each.shape for each in program.out_avals] == [(11,), (8,)]
    assert seen == [[(2, 2, 3), (1, 4, 4)]]
    free = PartitionSpec.UNCONSTRAINED
    steps = [PartitionSpec(None, free, free), PartitionSpec(("y",), free, free), PartitionSpec(("y", "x"))]
    assert constraints(program.jaxpr) == steps * 2


def test_scores_on_a_mesh_of_one_device_are_those_without_it() -> None:
    """Modules of several shapes, by their spectra, by gradients and by a function of both."""
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 4), (1, 2, 2), (1, 4, 3)]
    weights, gradients = ([jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes] for _ in range(2))

    def product(weights: jax.Array, gradients: jax.Array) -> jax.Array:
        return (weights * gradients).sum(axis=(1, 2))

    metrics: list[oad.Metric] = [oad.spectral_norm(solver="eigvalsh"), oad.grad_norm(), product]
    for metric in metrics:
        found = measure(metric, weights, gradients, one_device("x", "y"))
        np.testing.assert_allclose(found, measure(metric, weights, gradients), rtol=1e-5)


def test_which_modules_are_measured_at_once_on_a_mesh() -> None:
    """Spectral metrics: those of one smaller side and, by powers of eight, one aspect ratio; and of one dtype."""
    shapes = [(2, 6, 9), (1, 9, 6), (3, 6, 60), (1, 4, 4)]
    stacks = [jnp.ones(shape) for shape in shapes] + [jnp.ones((2, 6, 9), jnp.bfloat16)]
    spectra: list[tuple[int, ...]] = []
    others: list[tuple[int, ...]] = []

    def of_spectra(values: jax.Array) -> jax.Array:
        spectra.append(values.shape)
        return values[:, -1]

    def of_weights(weights: jax.Array, gradients: jax.Array) -> jax.Array:
        others.append(weights.shape)
        return weights[:, 0, 0]

    for metric in (oad.spectral(of_spectra), of_weights):
        jax.eval_shape(lambda stacks, metric=metric: measure(metric, stacks, stacks, TWO), stacks)
    # The share of one device in two.
    assert spectra == [(2, 6), (2, 6), (1, 4), (1, 6)]
    assert others == [(1, 6, 9), (1, 9, 6), (2, 6, 60), (1, 4, 4), (1, 6, 9)]


def test_the_mesh_is_that_in_force_or_the_one_asked_for() -> None:
    arrays, seen = [jnp.ones(3)], []
    assert mesh_of(None, arrays) is None
    assert mesh_of(one_device("x"), arrays) is None
    for mesh, expected in ((TWO, True), (FOUR, True), (EIGHT, True), (AbstractMesh((1,), ("x",)), False)):
        with jax.sharding.use_abstract_mesh(mesh):
            assert (mesh_of(None, arrays) is not None) == expected
    explicit = AbstractMesh((4,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.sharding.use_abstract_mesh(explicit):
        jax.eval_shape(lambda array: seen.append(mesh_of(None, [array])), jax.ShapeDtypeStruct((4,), jnp.float32))
    assert seen == [explicit]


def test_axes_that_are_free() -> None:
    assert distribution._free_axes(EIGHT, []) == {"x": 2, "y": 4}
    found = []

    def inside(replicated: jax.Array, varying: jax.Array) -> jax.Array:
        mesh = jax.sharding.get_abstract_mesh()
        found.append(distribution._free_axes(mesh, [replicated]))
        found.append(distribution._free_axes(mesh, [replicated, varying]))
        return varying

    specs = (PartitionSpec(), PartitionSpec("x"))
    mapped = jax.shard_map(inside, mesh=EIGHT, in_specs=specs, out_specs=specs[1])
    jax.eval_shape(mapped, *[jax.ShapeDtypeStruct((8,), jnp.float32)] * 2)
    assert found == [{"x": 2, "y": 4}, {"y": 4}]


def test_an_orthogonaliser_sees_a_share_of_the_matrices_of_each_shape() -> None:
    seen = []

    def orthogonalize(matrices: jax.Array) -> jax.Array:
        seen.append(matrices.shape)
        return matrices

    shapes = [(11, 2, 3), (4, 5), (6, 2, 3), (3, 2)]
    views = [view((11, 2, 3), 1, 2), view((4, 5), 0, 1), view((6, 2, 3), 1, 2), view((3, 2), 1, 0)]
    leaves = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with jax.sharding.use_abstract_mesh(EIGHT):
        program = jax.make_jaxpr(lambda leaves: orthogonalize_leaves(orthogonalize, leaves, views, None))(leaves)
    assert seen == [(3, 2, 3), (1, 4, 5)]  # 18 of 2 x 3 and one of 4 x 5, on eight devices
    assert [each.shape for each in program.out_avals] == shapes
    free = PartitionSpec.UNCONSTRAINED
    there = [PartitionSpec(None, free, free), PartitionSpec(("y",), free, free), PartitionSpec(("y", "x"))]
    assert constraints(program.jaxpr) == (there + there[::-1]) * 2


def test_leaves_come_back_from_the_stacks_of_their_shapes() -> None:
    rng = np.random.default_rng(1)
    shapes = [(2, 2, 3), (4, 5), (3, 3, 2), (2, 3), (2, 2, 3)]
    views = [
        view((2, 2, 3), 1, 2),
        view((4, 5), 0, 1),
        view((3, 3, 2), 2, 1),
        view((2, 3), 0, 1),
        view((2, 2, 3), 1, 2),
    ]
    leaves = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    found = spread_stacks._spread(lambda matrices: 2 * matrices, views, one_device("x", "y"), leaves)
    for leaf, twice in zip(leaves, found, strict=True):
        np.testing.assert_allclose(twice, 2 * leaf, rtol=1e-6)
    assert orthogonalize_leaves(lambda matrices: matrices, [], [], one_device("x")) == []


def test_devices_by_vmap_orthogonalise_their_shares() -> None:
    stack = jnp.arange(24.0).reshape(8, 1, 3)
    lengths = []

    def orthogonalize(matrices: jax.Array) -> jax.Array:
        lengths.append(len(matrices))
        return matrices + 100

    def on_device(_: jax.Array) -> jax.Array:
        return spread_stacks._manual(orthogonalize, FOUR, ("x",), stack)

    found = jax.vmap(on_device, axis_name="x")(jnp.arange(4))
    np.testing.assert_array_equal(found, np.tile(np.asarray(stack) + 100, (4, 1, 1, 1)))
    assert lengths == [2]


def test_inside_shard_map_the_axes_that_weights_do_not_vary_over_share_them() -> None:
    """22 modules on eight devices; of weights that differ along x, 11 on each four."""
    lengths: list[tuple[int, int]] = []

    def measure_share(stacks: list[tuple[jax.Array, ...]]) -> list[jax.Array]:
        lengths.append((0, len(stacks[0][0])))
        return [stacks[0][0][:, 0, 0]]

    def orthogonalize(matrices: jax.Array) -> jax.Array:
        lengths.append((1, len(matrices)))
        return matrices

    def inside(stack: jax.Array) -> tuple[jax.Array, jax.Array]:
        mesh = jax.sharding.get_abstract_mesh()
        scores = distribution.measure_sharded(measure_share, [([stack],)], mesh)
        return scores[0], orthogonalize_leaves(orthogonalize, [stack], [view(stack.shape, 1, 2)], None)[0]

    stack = jax.ShapeDtypeStruct((22, 2, 3), jnp.float32)
    for spec in (PartitionSpec(), PartitionSpec("x")):
        lengths.clear()
        mapped = jax.shard_map(inside, mesh=EIGHT, in_specs=spec, out_specs=spec)
        scores, leaf = jax.eval_shape(mapped, stack)
        assert (scores.shape, leaf.shape) == ((22,), (22, 2, 3))
        assert lengths == [(0, 3), (1, 3)]


def test_explicit_axes_are_automatic_inside_and_results_replicated() -> None:
    mesh = AbstractMesh((2, 4), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)

    def gram(rows: jax.Array) -> jax.Array:
        return rows @ rows.T

    with jax.sharding.use_abstract_mesh(mesh):
        rows = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("x", "y")))
        with pytest.raises(Exception, match="ambiguous"):
            jax.eval_shape(gram, rows)
        found = jax.make_jaxpr(distribution.with_auto_axes(gram, mesh))(rows)
    assert found.out_avals[0].sharding.spec == PartitionSpec(None, None)
    assert distribution.with_auto_axes(gram, None) is gram and distribution.with_auto_axes(gram, EIGHT) is gram


def test_leaves_on_explicit_axes_keep_their_sharding() -> None:
    mesh = AbstractMesh((2, 4), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    lengths = []

    def orthogonalize(matrices: jax.Array) -> jax.Array:
        lengths.append(len(matrices))
        return matrices

    with jax.sharding.use_abstract_mesh(mesh):
        spec = PartitionSpec("x", None, "y")
        leaf = jax.ShapeDtypeStruct((18, 2, 4), jnp.float32, sharding=NamedSharding(mesh, spec))
        seen = view(leaf.shape, 1, 2)
        found = jax.make_jaxpr(lambda leaf: orthogonalize_leaves(orthogonalize, [leaf], [seen], None))(leaf)
    assert found.out_avals[0].sharding.spec == spec
    assert lengths == [3]


def test_a_mesh_asked_for_has_automatic_axes() -> None:
    """Of one device in two places, which is enough to be asked for."""
    devices = np.array(jax.devices()[:1] * 2).reshape(1, 2)
    explicit = jax.sharding.Mesh(devices, ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    found = mesh_of(explicit, [jnp.ones(3)])
    assert found is not None and found.axis_names == ("x", "y") and found.size == 2
    assert found.axis_types == (AxisType.Auto,) * 2
    with jax.sharding.use_abstract_mesh(FOUR):
        assert mesh_of(explicit, [jnp.ones(3)]) == FOUR


def test_a_mesh_is_named_if_it_is_none() -> None:
    distribution.check_mesh("adamw", None)
    distribution.check_mesh("adamw", one_device("x"))
    with pytest.raises(ValueError, match=r"adamw: mesh must be a jax.sharding.Mesh.*got 8"):
        distribution.check_mesh("adamw", 8)
