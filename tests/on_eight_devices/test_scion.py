"""Scion on a mesh agrees with one on a single device, and shares out the orthogonalisation without gathering it."""
# SPDX-License-Identifier: Apache-2.0

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import optax_alphadecay as oad
from benchmarks.hlo import Instruction, anywhere
from tests.on_eight_devices.test_refresh import (
    AXIS_TYPES,
    MODELS,
    P,
    along_model,
    along_rows,
    mesh_of,
    moves,
    placed,
    replicated,
    scanned,
    text,
)

NORMS = oad.scion_norms(oad.block_matrices(1, stacked=["layers"]))
SHAPES = 4  # of matrices in either model; each is moved there and back


def optimizer(**kwargs: Any) -> optax.GradientTransformationExtraArgs:
    # In bfloat16, sums in another order agree to three digits only.
    return oad.scionc(optax.cosine_decay_schedule(0.02, 10), 0.1, norms=NORMS, dtype="float32", **kwargs)


def step(params: Any, state: Any, **kwargs: Any) -> Any:
    """One step on the loss whose gradients are the weights."""
    updates, state = optimizer(**kwargs).update(params, state, params)
    return optax.apply_updates(params, updates), state


def compiled(params: Any, **kwargs: Any) -> jax.stages.Compiled:
    state = optimizer(**kwargs).init(params)
    return jax.jit(functools.partial(step, **kwargs)).lower(params, state).compile()


def assert_agree(ours: Any, theirs: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


@pytest.fixture(scope="module")
def on_one_device() -> dict[str, Any]:
    models = {name: jax.tree.map(jnp.asarray, make()) for name, (make, _) in MODELS.items()}
    return {name: compiled(params)(params, optimizer().init(params)) for name, params in models.items()}


def gathered_bytes(instructions: list[Instruction]) -> list[int]:
    return [instruction.num_bytes for instruction in instructions if instruction.opcode == "all-gather"]


@pytest.mark.parametrize(
    ("model", "layout", "mesh_name", "axis_type"),
    [
        *(("scanned", along_model, "1-D", axis_type) for axis_type in AXIS_TYPES),
        *(("scanned", along_model, "2-D tensor", axis_type) for axis_type in AXIS_TYPES),
        ("scanned", along_rows, "2-D", AxisType.Auto),
        ("separate", along_model, "1-D", AxisType.Auto),
    ],
)
def test_sharded_weights_move_there_and_back_without_being_gathered(
    on_one_device: Any, model: str, layout: Any, mesh_name: str, axis_type: AxisType
) -> None:
    params = placed(MODELS[model][0](), mesh_of(mesh_name, axis_type), layout)
    program = compiled(params)
    found = program(params, optimizer().init(params))
    assert_agree(found, on_one_device[model])
    axes = 1 if mesh_name == "1-D" else 2
    assert moves(anywhere(text(program))) == ["all-to-all"] * 2 * SHAPES * axes
    if axis_type == AxisType.Explicit:
        for new, old in zip(jax.tree.leaves(found[0]), jax.tree.leaves(params), strict=True):
            assert new.sharding.is_equivalent_to(old.sharding, old.ndim)


def test_only_copies_are_gathered(on_one_device: Any) -> None:
    """Weights with a copy along `data` come back along it; the stacks they were in are four times as large."""
    params = placed(scanned(), mesh_of("2-D"), along_model)
    program = compiled(params)
    assert_agree(program(params, optimizer().init(params)), on_one_device["scanned"])
    stack = 8 * 64 * 96 * 4
    assert max(gathered_bytes(anywhere(text(program)))) <= stack / 4
    whole = placed(scanned(), mesh_of("1-D"), replicated)
    program = compiled(whole)
    assert_agree(program(whole, optimizer().init(whole)), on_one_device["scanned"])
    assert moves(anywhere(text(program))) == ["all-gather"] * SHAPES


def test_named_mesh_and_shard_map(on_one_device: Any) -> None:
    params = jax.tree.map(jnp.asarray, scanned())
    program = compiled(params, mesh=mesh_of("2-D"))
    assert_agree(program(params, optimizer().init(params)), on_one_device["scanned"])
    manual = jax.jit(jax.shard_map(step, mesh=mesh_of("2-D"), in_specs=P(), out_specs=P()))
    assert_agree(manual(params, optimizer().init(params)), on_one_device["scanned"])
