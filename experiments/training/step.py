"""The training state, and one optimizer step as a compiled program."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.config import RunConfig
from experiments.models.common import Network
from experiments.parallel import sharding
from experiments.parallel.sharding import SpecOf, constrain


class TrainState(NamedTuple):
    """What a step turns into the next."""

    params: Any
    opt_state: Any


def first_state(
    config: RunConfig,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    network: Network,
) -> TrainState:
    """Draws the weights in place: no device ever holds more than its share, and the bits are those of one device."""

    def draw(key: jax.Array) -> TrainState:
        params = nnx.to_pure_dict(nnx.state(network(config.model, rngs=nnx.Rngs(key))))
        return TrainState(params, optimizer.init(params))

    # As an argument: one compiled program, kept on disk, then serves all seeds.
    key = jax.random.key(config.seed)
    return jax.jit(draw, out_shardings=sharding.shardings(jax.eval_shape(draw, key), mesh, network.spec_of))(key)


def make_gradients(graphdef: nnx.GraphDef[Any], spec_of: SpecOf) -> Callable[[Any, Any], tuple[Any, jax.Array]]:
    """Builds the gradient of a batch.

    Args:
        graphdef: The model without its parameters; its `loss` takes a batch.
        spec_of: Where parameters lie: the network's.

    Returns:
        A function of the parameters and of a tree of arrays `[accumulate, batch, ...]`. It returns the mean gradient,
        and the loss of each piece, float32 `[accumulate]`.
    """

    def loss_of(params: Any, piece: Any) -> jax.Array:
        return nnx.merge(graphdef, params).loss(piece)

    def gradients_of(params: Any, pieces: Any) -> tuple[Any, jax.Array]:
        def add_piece(total: Any, piece: Any) -> tuple[Any, jax.Array]:
            loss, gradients = jax.value_and_grad(loss_of)(params, piece)
            return constrain(jax.tree.map(jnp.add, total, gradients), spec_of), loss

        zeros = constrain(jax.tree.map(jnp.zeros_like, params), spec_of)
        total, losses = jax.lax.scan(add_piece, zeros, pieces)
        return jax.tree.map(lambda gradient: gradient / len(losses), total), losses

    return gradients_of


def make_train_step(
    graphdef: nnx.GraphDef[Any], optimizer: optax.GradientTransformation, spec_of: SpecOf
) -> jax.stages.Wrapped:
    """Builds one optimizer step.

    Args:
        graphdef: The model without its parameters; its `loss` takes a batch.
        optimizer: The whole update.
        spec_of: Where parameters lie: the network's.

    Returns:
        A jitted function of the state, which is donated, and of a tree of arrays `[accumulate, batch, ...]`. It
        returns the next state, and the float32 scalars `train/loss` and `train/gradient_norm` (before clipping).
        Compiled under `jax.set_mesh`, it keeps the state where `spec_of` says.
    """
    gradients_of = make_gradients(graphdef, spec_of)

    def train_step(state: TrainState, pieces: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        gradients, losses = gradients_of(state.params, pieces)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {"train/loss": losses.mean(), "train/gradient_norm": optax.tree.norm(gradients)}
        state = TrainState(optax.apply_updates(state.params, updates), opt_state)
        return constrain(state, spec_of), metrics

    return jax.jit(train_step, donate_argnums=0)


def compile_train_step(
    config: RunConfig,
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    state: TrainState,
    mesh: jax.sharding.Mesh,
    spec_of: SpecOf,
) -> jax.stages.Compiled:
    """Compiles the step of a run for a mesh; only shapes are needed, and no device of the mesh need be there.

    Args:
        config: The run.
        graphdef: The model without its parameters.
        optimizer: The whole update.
        state: The state, or `sharding.abstract` of it.
        mesh: The devices.
        spec_of: Where parameters lie: the network's.

    Returns:
        The compiled `make_train_step`.
    """
    rows, layout = (config.accumulate, config.batch_size // config.accumulate), sharding.pieces_sharding(mesh)
    pieces = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*rows, *x.shape), x.dtype, sharding=layout), config.data.example
    )
    with jax.set_mesh(mesh):
        return make_train_step(graphdef, optimizer, spec_of).lower(state, pieces).compile()
