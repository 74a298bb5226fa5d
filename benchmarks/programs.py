"""The programs that are measured: parameters, optimizers and compiled train steps of the presets."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.config import Config
from experiments.methods import with_settings
from experiments.models.common import abstract_model
from experiments.models.llama import Llama
from experiments.parallel.sharding import abstract, make_mesh
from experiments.presets import PRESETS
from experiments.training.optimizers import make_optimizer
from experiments.training.step import TrainState, make_train_step
from experiments.training.step import compile_train_step as compile_step

Method = Literal["uniform", "alphadecay", "adamc", "scion", "scionc"]


def preset(name: str, method: Method, **optimizer: Any) -> Config:
    """A preset in float32, which every CPU computes natively, with another method.

    Args:
        name: Name of the preset.
        method: What moves and decays the weights.
        **optimizer: Other settings of the optimizer; the refresh interval is 500 unless it is among them.

    Returns:
        The run.
    """
    config = PRESETS[name].config
    settings = {"refresh_every": 500, **optimizer}
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, compute_dtype="float32"),
        optimizer=with_settings(config.optimizer, method, **settings),
    )


def weights(config: Config) -> Any:
    """Parameters as they are drawn at the start of a run."""
    return nnx.to_pure_dict(nnx.state(Llama(config.model, rngs=nnx.Rngs(config.seed))))


def weight_shapes(config: Config) -> Any:
    """The tree of `jax.ShapeDtypeStruct` of the parameters."""
    return jax.eval_shape(lambda: weights(config))


def unstacked(params: Any) -> Any:
    """The same parameters with a leaf for each matrix of each block, as a model that is not scanned has them.

    Args:
        params: Tree of `jax.ShapeDtypeStruct`, with `layers` stacked.

    Returns:
        A tree in which `blocks` is the list of the `layers`, and all else as before.
    """
    layers = params["layers"]
    num_layers = jax.tree.leaves(layers)[0].shape[0]
    block = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), layers)
    others = {name: leaf for name, leaf in params.items() if name != "layers"}
    return {**others, "blocks": [block] * num_layers}


def compile_train_step(config: Config, batch_size: int, length: int) -> jax.stages.Compiled:
    """Compiles the step of `experiments.train`, from parameters and tokens to parameters.

    Args:
        config: The run.
        batch_size: Sequences in the one piece of the batch.
        length: Tokens in a sequence.

    Returns:
        A function of a `TrainState`, which is donated, and of int32 tokens `[1, batch_size, length]`.
    """
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Llama(config.model, rngs=nnx.Rngs(0))))
    optimizer = make_optimizer(config.optimizer, config.steps)
    params = weight_shapes(config)
    state = TrainState(params, jax.eval_shape(optimizer.init, params))
    tokens_AxBxL = jax.ShapeDtypeStruct((1, batch_size, length), jnp.int32)
    return make_train_step(graphdef, optimizer, Llama.spec_of).lower(state, tokens_AxBxL).compile()


def compile_for_mesh(config: Config, mesh: jax.sharding.Mesh | None = None) -> jax.stages.Compiled:
    """Compiles the step of a run for a mesh; allocates nothing.

    Args:
        config: The run, batch size and precision included.
        mesh: Axes `data` and `fsdp` of devices that need not be there; None arranges those at hand by `config.mesh`.

    Returns:
        The step; its `memory_analysis()` is per device.
    """
    mesh = make_mesh(config) if mesh is None else mesh
    graphdef, params = abstract_model(config.model, Llama)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = abstract(TrainState(params, jax.eval_shape(optimizer.init, params)), mesh, Llama.spec_of)
    return compile_step(config, graphdef, optimizer, state, mesh, Llama.spec_of)


def compile_optimizer_step(config: Config, params: Any) -> jax.stages.Compiled:
    """Compiles the optimizer's part of a step alone.

    Args:
        config: The run.
        params: Parameters or their shapes.

    Returns:
        A function of a `TrainState`, which is donated, and of gradients. It returns the next state and nothing else,
        as a train step returns the next state and its metrics.
    """
    optimizer = make_optimizer(config.optimizer, config.steps)

    def step(state: TrainState, gradients: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state), {}

    state = TrainState(params, jax.eval_shape(optimizer.init, params))
    return jax.jit(step, donate_argnums=0).lower(state, params).compile()
