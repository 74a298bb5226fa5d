"""Replays the recorded runs of tests/data/trajectory with any optax optimizer."""
# SPDX-License-Identifier: Apache-2.0

import functools
import json
import pathlib
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.config import ModelConfig
from experiments.models.llama import next_token_loss
from experiments.models.torch_weights import from_torch, to_torch

CONFIG = ModelConfig(64, 172, 4, 2, vocab_size=128, compute_dtype="float32")
_FOLDER = pathlib.Path(__file__).parents[1] / "data" / "trajectory"


class Replay(NamedTuple):
    """What a replayed run leaves behind."""

    losses: np.ndarray
    """Loss of each step, before its update."""
    gradient_norms: np.ndarray
    """Global norm of the gradient at each step."""
    weights: dict[str, np.ndarray]
    """Final weights under PyTorch's names, in its layout."""
    states: dict[int, Any]
    """Optimizer states that were asked for, by the number of updates made."""


def record(name: str) -> dict[str, Any]:
    """Reads what was recorded of a run, for instance `adam_uniform`."""
    return json.loads((_FOLDER / f"{name}.json").read_text())


def recorded_weights(name: str) -> dict[str, np.ndarray]:
    """Reads recorded weights under PyTorch's names: `init_weights` or `<run>_final_weights`."""
    with np.load(_FOLDER / f"{name}.npz") as weights:
        return dict(weights)


def batches() -> jax.Array:
    """Returns the tokens of every step, `[60, 8, 32]`, int32."""
    with np.load(_FOLDER / "tokens.npz") as file:
        return jnp.asarray(file["tokens"], jnp.int32)


def recorded_modules(run: dict[str, Any]) -> dict[str, bool]:
    """Marks the weights that a recorded run took for modules, as a tree for `run(stacked=False)`."""
    names = {f"{name}.weight" for name in run["refresh"][0]["longname"]}
    return {name: name in names for name in recorded_weights("init_weights")}


def largest_difference(weights: dict[str, np.ndarray], name: str) -> float:
    """Returns max |dW| between weights and the recorded ones called `name`."""
    recorded = recorded_weights(name)
    assert weights.keys() == recorded.keys()
    return max(float(np.abs(weights[key] - recorded[key]).max()) for key in recorded)


def without_padding_row(gradients: Any) -> Any:
    """Zeroes the gradient of the last embedding row: PyTorch took -1 for the padding token, hence that row."""

    def zeroed(path: tuple[Any, ...], gradient: jax.Array) -> jax.Array:
        return gradient.at[-1].set(0) if "embed" in jax.tree_util.keystr(path) else gradient

    return jax.tree.map_with_path(zeroed, gradients)


def run(
    optimizer: optax.GradientTransformation,
    steps: int = 60,
    *,
    stacked: bool = True,
    keep: Collection[int] = (),
    compiler_options: dict[str, Any] | None = None,
) -> Replay:
    """Trains the recorded model from its initial weights on its batches.

    Args:
        optimizer: Sees the parameters as `stacked` says.
        steps: Updates to make, at most 60.
        stacked: True for the parameters of `Llama`, as a nested dict with blocks stacked. False for a flat dict
            `{PyTorch name: weight}`, matrices `[out, in]`, in which single blocks can be selected.
        keep: Numbers of updates after which the optimizer's state is kept; 0 is the initial state.
        compiler_options: For the step; None compiles as tests do.

    Returns:
        Losses, gradient norms, final weights and the states in `keep`.
    """
    model = from_torch(CONFIG, recorded_weights("init_weights"))
    graphdef, variables = nnx.split(model)
    params: Any = nnx.to_pure_dict(variables) if stacked else to_torch(model)
    build = functools.partial(nnx.merge, graphdef) if stacked else functools.partial(from_torch, CONFIG)

    @functools.partial(jax.jit, compiler_options=compiler_options)
    def step(params: Any, state: Any, tokens_BxL: jax.Array) -> tuple[Any, Any, jax.Array, jax.Array]:
        loss, gradients = jax.value_and_grad(lambda params: next_token_loss(build(params), tokens_BxL))(params)
        gradients = without_padding_row(gradients)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss, optax.tree.norm(gradients)

    state, losses, norms = optimizer.init(params), [], []
    states = {0: state} if 0 in keep else {}
    for update, tokens_BxL in enumerate(batches()[:steps], start=1):
        params, state, loss, norm = step(params, state, tokens_BxL)
        losses.append(loss)
        norms.append(norm)
        if update in keep:
            states[update] = state
    return Replay(np.array(losses), np.array(norms), to_torch(build(params)), states)
