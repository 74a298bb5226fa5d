"""Parameters of two small blocks, random gradients for them, and alpha by its definition."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def block_params() -> dict[str, Any]:
    """An embedding, two stacked blocks with two types of modules and a norm, and an output layer."""
    keys = jax.random.split(jax.random.key(0), 4)
    layers = {
        "self_attn": {"q_proj": {"kernel": jax.random.normal(keys[0], (2, 64, 64))}},
        "mlp": {"up_proj": {"kernel": jax.random.normal(keys[1], (2, 64, 96))}},
        "input_norm": {"scale": jnp.ones((2, 64))},
    }
    head = {"kernel": jax.random.normal(keys[3], (64, 80))}
    return {"embed": {"embedding": jax.random.normal(keys[2], (80, 64))}, "layers": layers, "lm_head": head}


def gradients_at(step: int, params: dict[str, Any]) -> dict[str, Any]:
    """Gradients that depend on the step alone."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(step + 1), len(leaves))
    drawn = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def hill(eigenvalues: np.ndarray) -> np.ndarray:
    """Alpha of the upper half of every spectrum, `[k, N]`, by its definition."""
    logs = np.log(np.sort(eigenvalues, axis=1))[:, eigenvalues.shape[1] // 2 :]
    alphas: np.ndarray = 1 + logs.shape[1] / (logs - logs[:, :1]).sum(axis=1)
    return alphas
