"""The training state, and one optimizer step as a compiled program."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments import partitioning
from experiments.config import Config
from experiments.llama import Llama, next_token_loss
from experiments.partitioning import constrain


class TrainState(NamedTuple):
    """What a step turns into the next."""

    params: Any
    opt_state: Any


def first_state(config: Config, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    """Draws the weights in place: no device ever holds more than its share, and the bits are those of one device."""

    def draw(key: jax.Array) -> TrainState:
        params = nnx.to_pure_dict(nnx.state(Llama(config.model, rngs=nnx.Rngs(key))))
        return TrainState(params, optimizer.init(params))

    # As an argument: one compiled program, kept on disk, then serves all seeds.
    key = jax.random.key(config.seed)
    return jax.jit(draw, out_shardings=partitioning.shardings(jax.eval_shape(draw, key), mesh))(key)


def make_train_step(graphdef: nnx.GraphDef[Llama], optimizer: optax.GradientTransformation) -> jax.stages.Wrapped:
    """Builds one optimizer step.

    Args:
        graphdef: The model without its parameters.
        optimizer: The whole update.

    Returns:
        A jitted function of the state, which is donated, and of int32 tokens `[accumulate, batch, length]`. It
        returns the next state, and the float32 scalars `train/loss` and `train/gradient_norm` (before clipping).
        Compiled under `jax.set_mesh`, it keeps the state as `partitioning` lays it out.
    """

    def loss_of(params: Any, tokens_BxL: jax.Array) -> jax.Array:
        return next_token_loss(nnx.merge(graphdef, params), tokens_BxL)

    def train_step(state: TrainState, tokens_AxBxL: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        def add_piece(total: Any, tokens_BxL: jax.Array) -> tuple[Any, jax.Array]:
            loss, gradients = jax.value_and_grad(loss_of)(state.params, tokens_BxL)
            return constrain(jax.tree.map(jnp.add, total, gradients)), loss

        zeros = constrain(jax.tree.map(jnp.zeros_like, state.params))
        total, losses = jax.lax.scan(add_piece, zeros, tokens_AxBxL)
        gradients = jax.tree.map(lambda gradient: gradient / len(losses), total)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {"train/loss": losses.mean(), "train/gradient_norm": optax.tree.norm(gradients)}
        return constrain(TrainState(optax.apply_updates(state.params, updates), opt_state)), metrics

    return jax.jit(train_step, donate_argnums=0)


def compile_train_step(
    config: Config,
    graphdef: nnx.GraphDef[Llama],
    optimizer: optax.GradientTransformation,
    state: TrainState,
    mesh: jax.sharding.Mesh,
) -> jax.stages.Compiled:
    """Compiles the step of a run for a mesh; only shapes are needed, and no device of the mesh need be there.

    Args:
        config: The run.
        graphdef: The model without its parameters.
        optimizer: The whole update.
        state: The state, or `partitioning.abstract` of it.
        mesh: The devices.

    Returns:
        The compiled `make_train_step`.
    """
    shape = (config.accumulate, config.batch_size // config.accumulate, config.data.sequence_length)
    tokens_AxBxL = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=partitioning.pieces_sharding(mesh))
    with jax.set_mesh(mesh):
        return make_train_step(graphdef, optimizer).lower(state, tokens_AxBxL).compile()
