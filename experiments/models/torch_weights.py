"""LLaMA weights from PyTorch's names and layout to ours and back."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.config import ModelConfig
from experiments.models.llama import Llama

_LAYER = "model.layers.{layer}."
_TORCH_NAMES = {
    "embed/embedding": "model.embed_tokens.weight",
    "layers/input_norm/scale": _LAYER + "input_layernorm.weight",
    "layers/self_attn/q_proj/kernel": _LAYER + "self_attn.q_proj.weight",
    "layers/self_attn/k_proj/kernel": _LAYER + "self_attn.k_proj.weight",
    "layers/self_attn/v_proj/kernel": _LAYER + "self_attn.v_proj.weight",
    "layers/self_attn/o_proj/kernel": _LAYER + "self_attn.o_proj.weight",
    "layers/post_attention_norm/scale": _LAYER + "post_attention_layernorm.weight",
    "layers/mlp/gate_proj/kernel": _LAYER + "mlp.gate_proj.weight",
    "layers/mlp/up_proj/kernel": _LAYER + "mlp.up_proj.weight",
    "layers/mlp/down_proj/kernel": _LAYER + "mlp.down_proj.weight",
    "final_norm/scale": "model.norm.weight",
    "lm_head/kernel": "lm_head.weight",
}


def torch_name(path: str, layer: int | None = None) -> str:
    """Names a parameter as PyTorch does.

    Args:
        path: Our name, as in `layers/self_attn/q_proj/kernel`.
        layer: The block, for parameters that are stacked over blocks; others ignore it.

    Returns:
        PyTorch's name, as in `model.layers.0.self_attn.q_proj.weight`.

    Raises:
        ValueError: If the model has no such parameter, or if it is stacked and no layer is given.
    """
    if path not in _TORCH_NAMES:
        raise ValueError(f"path={path!r} is not a parameter of Llama; those are {', '.join(_TORCH_NAMES)}.")
    if path.startswith("layers/") and layer is None:
        raise ValueError(f"path={path!r} is stacked over blocks: pass layer=, counted from 0.")
    return _TORCH_NAMES[path].format(layer=layer)


def _named(params: nnx.State[Any, Any]) -> list[tuple[str, nnx.Variable[jax.Array]]]:
    """The parameters with their paths, as in `layers/self_attn/q_proj/kernel`."""
    return [("/".join(map(str, keys)), variable) for keys, variable in nnx.to_flat_state(params)]


def _torch_shapes(params: nnx.State[Any, Any]) -> dict[str, tuple[int, ...]]:
    """Every PyTorch name of the parameters with the shape it must have, `[out, in]` for matrices."""
    shapes = {}
    for path, variable in _named(params):
        layers, *shape = variable.shape if path.startswith("layers/") else (1, *variable.shape)
        for layer in range(layers):
            shapes[torch_name(path, layer)] = tuple(shape[::-1] if path.endswith("/kernel") else shape)
    return shapes


def _check(shapes: Mapping[str, tuple[int, ...]], state_dict: Mapping[str, np.ndarray | jax.Array]) -> None:
    """Raises a ValueError that lists every entry of `state_dict` that does not fit."""
    complaints = [f"missing: {name}" for name in shapes if name not in state_dict]
    complaints += [f"unknown: {name}" for name in state_dict if name not in shapes]
    complaints += [
        f"wrong shape: {name} is {tuple(state_dict[name].shape)}, not {shape}"
        for name, shape in shapes.items()
        if name in state_dict and tuple(state_dict[name].shape) != shape
    ]
    if complaints:
        raise ValueError(
            "state_dict does not fit the ModelConfig. Pass the weights of a LLaMA of these sizes.\n  "
            + "\n  ".join(complaints)
        )


def from_torch(config: ModelConfig, state_dict: Mapping[str, np.ndarray | jax.Array]) -> Llama:
    """Builds a model from PyTorch weights; also works on traced arrays.

    Args:
        config: Sizes of the model.
        state_dict: Arrays under the names of Hugging Face's `LlamaForCausalLM`, matrices `[out, in]`.

    Returns:
        The model, its parameters float32.

    Raises:
        ValueError: If an entry is missing, unknown or of the wrong shape; all of them are named.
    """
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    _check(_torch_shapes(params), state_dict)

    def ours(path: str, layer: int | None = None) -> jax.Array:
        weight = jnp.asarray(state_dict[torch_name(path, layer)], jnp.float32)
        return weight.T if path.endswith("/kernel") else weight

    for path, variable in _named(params):
        if path.startswith("layers/"):
            variable.set_value(jnp.stack([ours(path, layer) for layer in range(config.num_layers)]))
        else:
            variable.set_value(ours(path))
    return nnx.merge(graphdef, params)


def to_torch(model: Llama) -> dict[str, np.ndarray]:
    """Returns the weights under PyTorch's names and in its layout: the inverse of `from_torch`."""
    state_dict = {}
    for path, variable in _named(nnx.state(model, nnx.Param)):
        value = np.asarray(variable.get_value())
        for layer, weight in enumerate(value if path.startswith("layers/") else value[None]):
            state_dict[torch_name(path, layer)] = weight.T if path.endswith("/kernel") else weight
    return state_dict
