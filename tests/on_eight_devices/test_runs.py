"""Runs on eight devices: the weights, losses, checkpoints and validation of one, and a share on each."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib
import re
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.config import Config, MeshConfig, ModelConfig
from experiments.methods import with_settings
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel import sharding
from experiments.presets import PRESETS
from experiments.training.checkpoints import Checkpoints
from experiments.training.language_modeling import evaluate
from experiments.training.optimizers import make_optimizer
from experiments.training.step import TrainState, compile_train_step, first_state, make_train_step

LENGTH = 16
# The width of the MLP does not divide, as the paper's 5461 does not.
MODEL = ModelConfig(64, 99, 2, 2, vocab_size=80, compute_dtype="float32")


def config_of(data: int, fsdp: int, *, method: Any = "uniform") -> Config:
    nano = PRESETS["nano"].config
    return dataclasses.replace(
        nano,
        model=MODEL,
        data=dataclasses.replace(nano.data, sequence_length=LENGTH),
        optimizer=with_settings(nano.optimizer, method, refresh_every=2),
        mesh=MeshConfig(data, fsdp),
        batch_size=16,
        accumulate=2,
        steps=4,
    )


def batches(config: Config) -> np.ndarray:
    shape = (config.steps, config.batch_size, LENGTH)
    return np.random.default_rng(0).integers(MODEL.vocab_size, size=shape, dtype=np.int32)


def train(config: Config) -> tuple[TrainState, list[float], str]:
    """A few steps on the mesh by the functions that a run uses: the state, the losses and the compiled program."""
    mesh = sharding.make_mesh(config)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = first_state(config, optimizer, mesh, Llama)
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = compile_train_step(config, abstract_model(config.model, Llama)[0], optimizer, state, mesh, Llama.spec_of)
    losses = []
    for tokens_BxL in batches(config):
        state, metrics = step(state, sharding.to_devices(tokens_BxL, mesh, accumulate=config.accumulate))
        losses.append(float(metrics["train/loss"]))
    stays = jax.tree.map(lambda leaf, before: leaf.sharding.is_equivalent_to(before, leaf.ndim), state, where)
    assert all(jax.tree.leaves(stays)), "the state stays where it was"
    return state, losses, step.as_text() or ""


def train_on_one_device(config: Config) -> tuple[TrainState, list[float]]:
    """The same steps without a mesh, the whole batch in one piece."""
    graphdef, weights = nnx.split(Llama(config.model, rngs=nnx.Rngs(config.seed)))
    optimizer = make_optimizer(config.optimizer, config.steps)
    params = nnx.to_pure_dict(weights)
    state = TrainState(params, optimizer.init(params))
    step = make_train_step(graphdef, optimizer, Llama.spec_of)
    losses = []
    for tokens_BxL in batches(config):
        state, metrics = step(state, jnp.asarray(tokens_BxL[None]))
        losses.append(float(metrics["train/loss"]))
    return state, losses


def test_first_weights_are_those_of_one_device() -> None:
    expected = nnx.to_pure_dict(nnx.state(Llama(MODEL, rngs=nnx.Rngs(0))))
    config = config_of(2, 4)
    state = first_state(config, make_optimizer(config.optimizer, config.steps), sharding.make_mesh(config), Llama)
    jax.tree.map(np.testing.assert_array_equal, state.params, expected)


def test_each_device_holds_its_share() -> None:
    config = config_of(2, 4, method="alphadecay")
    state = first_state(config, make_optimizer(config.optimizer, config.steps), sharding.make_mesh(config), Llama)
    shares = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.addressable_shards[0].data.size / leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if leaf.size
    }
    for name, share in shares.items():
        assert share == (0.25 if name.endswith(("kernel", "embedding")) else 1), name
    # Nine kernels and embeddings: as parameters, and as both moments of Adam.
    assert list(shares.values()).count(0.25) == 27


def test_training_is_that_of_one_device() -> None:
    expected, expected_losses = train_on_one_device(config_of(8, 1))
    state, losses, hlo = train(config_of(2, 4))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), state.params, expected.params)
    # Weights travel, one layer's at a time, the embedding and the head; activations stay where they are.
    gathered = {
        tuple(sorted(map(int, shape.split(",")))) for shape in re.findall(r"\w+\[([\d,]+)\]\S* all-gather\(", hlo)
    }
    assert gathered == {(64, 64), (64, 99), (64, 80)}
    assert not re.search(r" (all-to-all|collective-permute)\(", hlo)


def test_checkpoint_moves_to_other_meshes(tmp_path: pathlib.Path) -> None:
    def numbers() -> grain.DatasetIterator:
        return iter(grain.MapDataset.range(9).to_iter_dataset())

    config = config_of(2, 4)
    optimizer = make_optimizer(config.optimizer, config.steps)
    mesh = sharding.make_mesh(config)
    weights = first_state(config, optimizer, mesh, Llama).params
    # Moments of a made-up gradient: no two leaves are equal, and none is zero.
    saved = TrainState(weights, jax.jit(optimizer.update)(weights, optimizer.init(weights), weights)[1])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, *saved, numbers())
    fresh = first_state(config_of(1, 8), optimizer, sharding.make_mesh(config_of(1, 8)), Llama)
    with Checkpoints(tmp_path) as checkpoints:
        step, *restored = checkpoints.restore(*fresh, numbers()) or pytest.fail("nothing restored")
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, tuple(restored), tuple(saved))
    for found, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(fresh), strict=True):
        assert found.sharding == expected.sharding


def test_validation_is_exact() -> None:
    graphdef, weights = nnx.split(Llama(MODEL, rngs=nnx.Rngs(1)))
    params = nnx.to_pure_dict(weights)
    tokens_BxL = batches(config_of(8, 1))[0]
    mask_BxL = (np.arange(tokens_BxL.size) < 200).reshape(tokens_BxL.shape)
    one_device = jax.make_mesh((1, 1), sharding.BATCH, (jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:1])
    expected = evaluate(graphdef, params, [(tokens_BxL, mask_BxL)], one_device)
    for layout in ((8, 1), (2, 4)):
        mesh = sharding.make_mesh(config_of(*layout))
        spread = jax.device_put(params, sharding.shardings(params, mesh, Llama.spec_of))
        found = evaluate(graphdef, spread, [(tokens_BxL, mask_BxL)], mesh)
        assert found.tokens == expected.tokens == 200 - 13
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
