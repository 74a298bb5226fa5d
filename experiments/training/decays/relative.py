"""How strong a decay really is: its part of a step over the gradient's."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optax_alphadecay as oad
from experiments.methods import AdaDecay, AlphaDecay, ByType, GradientScale, Llr, Method, NoDecay, Uniform
from experiments.parallel import distributed
from experiments.training.decays.modules import MODULES, module_leaves


def relative_decays(config: Method, params: Any, opt_state: Any) -> dict[str, float]:
    """Measures the decay's part of a step over the gradient's, by type of module, such as `q_proj`.

    Both are root mean squares over all blocks. Coupled, the gradient's is the root of Adam's second moment, which holds
    the decay too: near 1, nothing but the decay moves the weights. Decoupled, it is 1, the size of an Adam step.

    Args:
        config: How the weights decay.
        params: The parameters.
        opt_state: The state of the whole optimizer.

    Returns:
        A number by type; nothing for methods that do not give every module one constant rate times a ratio.
    """
    moments = _second_moments(opt_state)
    if moments is None or getattr(config, "corrected", False) or getattr(config, "cautious", False):
        return {}
    squares = _mean_squares(params, *moments, config.b2)  # type: ignore[union-attr]
    weights, gradients = distributed.fetch(squares, "norms")
    found = {}
    for kind, ratio in _ratios(config, params, opt_state, weights).items():
        gradient = np.sqrt(gradients[kind]) if config.coupling == "adam" else 1.0
        found[kind] = float(config.weight_decay * ratio * np.sqrt(weights[kind]) / gradient) if gradient else 0.0
    return found


def _second_moments(opt_state: Any) -> tuple[Any, jax.Array] | None:
    """Adam's second moment, a tree like the parameters, and the number of its updates; None without Adam."""
    nodes: list[Any] = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))
    return next(((node.nu, node.count) for node in nodes if isinstance(node, optax.ScaleByAdamState)), None)


@jax.jit
def _mean_squares(
    params: Any, nu: Any, count: jax.Array, b2: float
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Means over all blocks of squared weights and of Adam's second moment without its bias, by type of module."""
    unbiased = 1 - b2 ** jnp.maximum(count, 1)
    moments = {kind: leaf.mean() / unbiased for kind, leaf in _by_type(nu).items()}
    return {kind: jnp.mean(jnp.square(leaf)) for kind, leaf in _by_type(params).items()}, moments


def _by_type(params: Any) -> dict[str, Any]:
    """The leaves that hold modules, by the name of their layer."""
    return {path.split("/")[-2]: leaf for path, (leaf, _) in module_leaves(params).items()}


def _ratios(config: Method, params: Any, opt_state: Any, kinds: Mapping[str, Any]) -> dict[str, float]:
    """Decay over the base rate by type of module; empty where it is not one number a module."""
    if isinstance(config, NoDecay | Uniform | Llr):  # a learning rate multiplies gradient and decay alike
        return dict.fromkeys(kinds, 1.0)
    if isinstance(config, ByType):
        return {kind: dict(config.ratios).get(kind, 1.0) for kind in kinds}
    if not isinstance(config, AdaDecay | AlphaDecay | GradientScale):
        return {}
    rows = oad.module_table(opt_state, params, modules=MODULES)
    by_kind = {kind: [row.ratio for row in rows if kind in row.name.split("/")] for kind in kinds}
    return {kind: float(np.mean(ratios)) for kind, ratios in by_kind.items()}
