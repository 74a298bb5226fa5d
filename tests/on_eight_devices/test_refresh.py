"""A refresh on a mesh agrees with one on a single device, and shares out the work."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_alphadecay as oad
from benchmarks.hlo import COLLECTIVES, Instruction, anywhere, in_branches, in_loops_of_branches, trips

P = PartitionSpec
AXIS_TYPES = (AxisType.Auto, AxisType.Explicit)
MESHES: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "1-D": ((8,), ("fsdp",)),
    "2-D": ((2, 4), ("data", "fsdp")),
    "2-D tensor": ((4, 2), ("fsdp", "tensor")),
    "3-D": ((2, 2, 2), ("data", "fsdp", "tensor")),
}
STACKED = oad.block_matrices(stacked=["layers"])


def mesh_of(name: str, axis_type: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    shape, axes = MESHES[name]
    return jax.make_mesh(shape, axes, axis_types=(axis_type,) * len(shape))


def scanned() -> Any:
    """Three scanned layers, a matrix of another size, and leaves that are no modules."""
    rng = np.random.default_rng(0)
    layers = {
        "query": rng.normal(size=(3, 64, 64)),
        "up": rng.standard_t(3, size=(3, 64, 96)),
        "down": rng.standard_t(5, size=(3, 96, 64)),
        "scale": np.ones((3, 64)),
    }
    return as_float32({"layers": layers, "other": rng.standard_t(4, size=(72, 80)), "embed": np.ones((128, 64))})


def separate() -> Any:
    """Two layers as leaves of their own."""
    params = scanned()
    blocks = [jax.tree.map(lambda leaf, at=at: leaf[at], params["layers"]) for at in range(2)]
    return {"blocks": blocks, "other": params["other"], "embed": params["embed"]}


MODELS: dict[str, tuple[Callable[[], Any], dict[int, int]]] = {
    "scanned": (scanned, {64: 9, 72: 1}),
    "separate": (separate, {64: 6, 72: 1}),
}
"""Weights, and how many of the matrices have how many eigenvalues: nowhere a multiple of 8."""


def as_float32(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)


def along_model(path: Any, leaf: Any, mesh: jax.sharding.Mesh) -> PartitionSpec:
    """Weights over `fsdp` along the model's width, and over `tensor` along the other side, if there are such axes."""
    fsdp, tensor = (axis if axis in mesh.axis_names else None for axis in ("fsdp", "tensor"))
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if "scale" in name:
        return P()
    sides = (tensor, fsdp) if "down" in name or "embed" in name else (fsdp, tensor)
    return P(*(None,) * (leaf.ndim - 2), *sides)


def along_rows(path: Any, leaf: Any, mesh: jax.sharding.Mesh) -> PartitionSpec:
    """All over all axes, along whichever side comes first."""
    return P(*(None,) * (leaf.ndim - 2), mesh.axis_names, None) if leaf.shape[-2] % 8 == 0 else P()


def replicated(path: Any, leaf: Any, mesh: jax.sharding.Mesh) -> PartitionSpec:
    return P()


def placed(params: Any, mesh: jax.sharding.Mesh, layout: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.device_put(leaf, NamedSharding(mesh, layout(path, leaf, mesh))), params
    )


def compiled(decay: optax.GradientTransformation, params: Any) -> jax.stages.Compiled:
    return jax.jit(decay.update).lower(params, jax.jit(decay.init)(params), params).compile()


def updated(decay: optax.GradientTransformation, params: Any) -> tuple[Any, oad.AlphaDecayState]:
    """Updates and state after the first step, whose gradients are the weights."""
    updates, state = compiled(decay, params)(params, jax.jit(decay.init)(params), params)
    return jax.device_get((updates, state))


def assert_agree(ours: Any, theirs: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


def text(program: jax.stages.Compiled) -> str:
    return program.as_text() or ""


def moves(instructions: list[Instruction]) -> list[str]:
    return [instruction.opcode for instruction in instructions if instruction.opcode in COLLECTIVES]


def decomposes(instruction: Instruction) -> bool:
    return "sytrd" in instruction.target


@pytest.fixture(scope="module")
def on_one_device() -> dict[str, Any]:
    decay = oad.alphadecay(0.5, modules=STACKED)
    return {"scanned": updated(decay, scanned()), "separate": updated(oad.alphadecay(0.5), separate())}


def test_one_device_agrees_with_float64(on_one_device: Any) -> None:
    _, state = on_one_device["separate"]
    rows = oad.module_table(state, separate())
    blocks = {f"blocks/{at}/{name}": leaf for at in range(2) for name, leaf in separate()["blocks"][at].items()}
    for row in rows:
        values = np.linalg.svd((blocks | separate())[row.name].astype(np.float64), compute_uv=False)[::-1] ** 2
        tail = values[len(values) // 2 :]
        expected = 1 + len(tail) / np.log(tail / tail[0]).sum()
        np.testing.assert_allclose(row.score, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "mesh_name", "axis_type"),
    [
        *(("scanned", mesh_name, axis_type) for mesh_name in ("1-D", "2-D") for axis_type in AXIS_TYPES),
        ("separate", "1-D", AxisType.Auto),
        ("separate", "2-D", AxisType.Explicit),
    ],
)
def test_agrees_with_one_device_in_even_shares_and_weights_move_once(
    on_one_device: Any, model: str, mesh_name: str, axis_type: AxisType
) -> None:
    whole, modules_of_size = MODELS[model]
    params = placed(whole(), mesh_of(mesh_name, axis_type), along_model)
    decay = oad.alphadecay(0.5, modules=STACKED if model == "scanned" else None)
    program = compiled(decay, params)
    assert_agree(program(params, jax.jit(decay.init)(params), params), on_one_device[model])

    hlo = text(program)
    assert sorted(trips(hlo, decomposes)) == sorted(math.ceil(n / 8) for n in modules_of_size.values())
    # Each class of sizes is resharded once, and one all-gather brings the scores back.
    assert sorted(moves(in_branches(hlo))) == ["all-gather"] + ["all-to-all"] * len(modules_of_size)
    assert not moves(in_loops_of_branches(hlo))


@pytest.mark.parametrize(
    ("layout", "mesh_name", "axis_type"),
    [
        (along_rows, "2-D", AxisType.Explicit),
        (along_rows, "2-D tensor", AxisType.Auto),
        (along_model, "2-D tensor", AxisType.Explicit),
        (along_model, "3-D", AxisType.Auto),
    ],
)
def test_weights_sharded_over_two_axes_move_without_being_gathered(
    on_one_device: Any, layout: Any, mesh_name: str, axis_type: AxisType
) -> None:
    params = placed(scanned(), mesh_of(mesh_name, axis_type), layout)
    decay = oad.alphadecay(0.5, modules=STACKED)
    program = compiled(decay, params)
    assert_agree(program(params, jax.jit(decay.init)(params), params), on_one_device["scanned"])
    assert moves(in_branches(text(program))).count("all-gather") == 1, "of the scores, and never of a stack"
    assert not moves(in_loops_of_branches(text(program)))


@pytest.mark.parametrize(
    ("spec", "axis_type"), [(P(None, "fsdp", None), AxisType.Auto), (P(None, None, "fsdp"), AxisType.Explicit)]
)
def test_a_split_kernel_is_measured_without_being_gathered(spec: PartitionSpec, axis_type: AxisType) -> None:
    """Cut along its inputs it moves as whole kernels do; cut along its outputs, pieces of parts change places."""
    fused = {"layers": {"qkv": np.concatenate([scanned()["layers"]["query"] * scale for scale in (1, 2, 3)], axis=-1)}}
    decay = oad.alphadecay(0.5, modules=oad.block_matrices(stacked=["layers"], split={"qkv": 3}))
    params = placed(fused, mesh_of("2-D", axis_type), lambda *_: spec)
    program = compiled(decay, params)
    assert_agree(program(params, jax.jit(decay.init)(params), params), updated(decay, fused))
    moved = moves(in_branches(text(program)))
    assert moved.count("all-gather") == 1, "of the scores, and never of a stack"
    assert sorted(set(moved) - {"collective-permute"}) == ["all-gather", "all-to-all"]
    assert ("collective-permute" in moved) == (spec[2] is not None)
    assert sorted(trips(text(program), decomposes)) == [math.ceil(9 / 8)]
    assert not moves(in_loops_of_branches(text(program)))


def test_replicated_weights_do_not_move(on_one_device: Any) -> None:
    params = placed(scanned(), mesh_of("2-D"), replicated)
    decay = oad.alphadecay(0.5, modules=STACKED)
    program = compiled(decay, params)
    assert_agree(program(params, jax.jit(decay.init)(params), params), on_one_device["scanned"])
    assert moves(anywhere(text(program))) == ["all-gather"]
    assert sorted(trips(text(program), decomposes)) == [1, 2]


def test_ambient_mesh_and_named_mesh_spread_weights_that_are_on_none(on_one_device: Any) -> None:
    explicit = mesh_of("2-D", AxisType.Explicit)
    ambient, named = oad.alphadecay(0.5, modules=STACKED), oad.alphadecay(0.5, modules=STACKED, mesh=explicit)
    with jax.set_mesh(mesh_of("2-D")):
        by_context = compiled(ambient, scanned())
    by_name = compiled(named, scanned())
    for program in (by_context, by_name):
        assert sorted(trips(text(program), decomposes)) == [1, 2]
        assert_agree(program(scanned(), named.init(scanned()), scanned()), on_one_device["scanned"])


def test_much_wider_matrices_are_not_padded_to() -> None:
    params = {f"square_{at}": np.ones((64, 64), np.float32) for at in range(9)} | {
        "wide": np.ones((64, 4096), np.float32)
    }
    params = placed(params, mesh_of("1-D"), along_model)
    program = jax.jit(oad.alphadecay(0.5).update).lower(params, oad.alphadecay(0.5).init(params), params).compile()
    memory: Any = program.memory_analysis()
    # Two stacks of a share each: 2 x 64 x 64 and 1 x 64 x 4096. Padded, the first would have 2 x 64 x 4096.
    assert memory.temp_size_in_bytes < 3.5 * 64 * 4096 * 4


def test_update_outside_of_jit_is_spread_too(on_one_device: Any) -> None:
    decay = oad.alphadecay(0.5, modules=STACKED)
    params = placed(scanned(), mesh_of("1-D"), along_model)
    assert_agree(decay.update(params, decay.init(params), params), on_one_device["scanned"])


def test_other_steps_keep_scores() -> None:
    decay = oad.alphadecay(0.5, refresh_every=3, modules=STACKED)
    params = placed(scanned(), mesh_of("2-D", AxisType.Explicit), along_model)
    state, step = jax.jit(decay.init)(params), jax.jit(decay.update)
    scores = []
    for _ in range(3):
        _, state = step(params, state, params)
        scores.append(np.asarray(state.scores))
        params = jax.tree.map(lambda leaf: leaf + jnp.sign(leaf), params)
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[1] != scores[2]).all()


@pytest.mark.parametrize("axis_type", AXIS_TYPES)
def test_metrics_of_users_and_of_gradients_agree_with_one_device(axis_type: AxisType) -> None:
    def largest(weights: jax.Array, gradients: jax.Array) -> jax.Array:
        return jnp.abs(weights @ weights.swapaxes(1, 2)).max(axis=(1, 2)) + jnp.abs(gradients).max(axis=(1, 2))

    params = placed(scanned(), mesh_of("2-D tensor", axis_type), along_model)
    for metric in (largest, oad.grad_norm(), oad.pl_alpha_hill(solver=oad.stochastic(probes=4, steps=8))):
        decay = oad.alphadecay(0.5, metric=metric, modules=STACKED)
        assert_agree(updated(decay, params)[1], updated(decay, scanned())[1])


def test_broken_module_breaks_alone() -> None:
    params = scanned()
    params["layers"]["up"][1, 3, 4] = np.nan
    decay = oad.alphadecay(0.5, modules=STACKED)
    _, state = updated(decay, placed(params, mesh_of("1-D"), along_model))
    assert state.rejected == 1
    assert_agree(state, updated(decay, params)[1])


@pytest.mark.parametrize("check_vma", [True, False])
def test_inside_shard_map_of_replicated_weights(on_one_device: Any, check_vma: bool) -> None:
    decay = oad.alphadecay(0.5, modules=STACKED)
    step = jax.jit(jax.shard_map(decay.update, mesh=mesh_of("2-D"), in_specs=P(), out_specs=P(), check_vma=check_vma))
    program = step.lower(scanned(), decay.init(scanned()), scanned()).compile()
    assert_agree(program(scanned(), decay.init(scanned()), scanned()), on_one_device["scanned"])
    # Without the check nothing is known to be replicated, and every device measures everything.
    assert sorted(trips(text(program), decomposes)) == ([1, 2] if check_vma else [1, 3, 3, 3])


def test_inside_shard_map_over_one_axis_the_other_is_used(on_one_device: Any) -> None:
    decay = oad.alphadecay(0.5, modules=STACKED)
    step = jax.shard_map(decay.update, mesh=mesh_of("2-D"), in_specs=P(), out_specs=P(), axis_names={"data"})
    program = jax.jit(step).lower(scanned(), decay.init(scanned()), scanned()).compile()
    assert_agree(program(scanned(), decay.init(scanned()), scanned()), on_one_device["scanned"])
    assert sorted(trips(text(program), decomposes)) == [1, 3], "9 and 1 over the 4 devices of fsdp"


def test_inside_shard_map_weights_of_ones_own_are_measured_there() -> None:
    """As in pipeline stages: two models, one on each half of the mesh."""
    metric = oad.pl_alpha_hill(solver=oad.stochastic(probes=8, steps=12))
    decay = oad.alphadecay(0.5, metric=metric, modules=STACKED)
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf[..., ::2].repeat(2, axis=-1)]), scanned())

    def step(params: Any) -> jax.Array:
        params = jax.tree.map(lambda leaf: leaf[0], params)
        return decay.update(params, decay.init(params), params)[1].scores[None]

    ours = jax.jit(jax.shard_map(step, mesh=mesh_of("2-D"), in_specs=P("data"), out_specs=P("data")))(both)
    for scores, model in zip(ours, (scanned(), jax.tree.map(lambda leaf: leaf[1], both)), strict=True):
        assert_agree(scores, updated(decay, model)[1].scores)
