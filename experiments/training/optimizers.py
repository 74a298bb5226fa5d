"""From the optimizer's settings to an optax chain: one line a method."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import optax

import optax_alphadecay as oad
from experiments.config import OptimizerConfig

MODULES = oad.block_matrices(stacked=("layers",))
"""The matrices of the transformer blocks; the leaves under `layers` are stacked over the blocks."""

MODULEWISE = ("adadecay", "alphadecay")
"""Methods that give each module a decay of its own, refreshed every `refresh_every` steps."""


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine down to `final_fraction` of the peak.

    Args:
        config: Peak, share of warm-up and final share.
        steps: Optimizer steps of the whole run.

    Returns:
        The learning rate by the number of updates made so far. The first update has rate 0, as in the paper.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=round(config.warmup_fraction * steps),
        decay_steps=steps,
        end_value=config.learning_rate * config.final_fraction,
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformationExtraArgs:
    """Builds the whole update: clipping, weight decay, Adam, learning rate.

    Coupled (`adam`): `clip -> decay -> Adam -> learning rate`. The decay is added to the clipped gradient and goes
    through the moments. Decoupled (`adamw`): `clip -> Adam -> decay -> learning rate`. A weight shrinks by the
    scheduled learning rate times its decay at each step. A decay that measures gradients measures the clipped ones,
    in both.

    Args:
        config: The method and its settings.
        steps: Optimizer steps of the whole run, which set the length of the schedule.

    Returns:
        The chain. Its state holds one `AlphaDecayState` for the methods in `MODULEWISE`.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    decay = make_decay(config)
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    descend = optax.scale_by_learning_rate(make_schedule(config, steps))
    if config.coupling == "adam":
        return optax.chain(clip, decay, adam, descend)
    return optax.chain(clip, oad.with_gradients(optax.chain(adam, decay, descend)))


def make_decay(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds the weight decay alone: `updates + rate * weights`, with `eta = config.weight_decay`.

    | method | rate |
    |---|---|
    | none | 0 |
    | uniform | eta |
    | awd | one for all weights, each step: running mean of `100 * eta * norm(gradients) / norm(weights)` |
    | adadecay | eta times a ratio per module, from its gradient's norm, at each refresh; elsewhere eta |
    | adadecay_per_parameter | eta times a ratio per weight, from its gradient's size, each step |
    | alphadecay | eta times a ratio per module, from its spectrum, at each refresh; elsewhere eta |

    Args:
        config: The method and its settings.

    Returns:
        A transformation to chain before Adam (coupled) or behind it (decoupled).
    """
    eta, gap = config.weight_decay, config.refresh_every
    match config.method:
        case "none":
            return optax.identity()
        case "uniform":
            return optax.add_decayed_weights(eta)
        case "awd":
            return oad.awd(100 * eta)
        case "adadecay":
            return oad.modulewise_adadecay(eta, refresh_every=gap, modules=MODULES)
        case "adadecay_per_parameter":
            return oad.adadecay(eta)
        case "alphadecay":
            metric, assign = make_metric(config), make_assignment(config)
            return oad.alphadecay(eta, refresh_every=gap, metric=metric, assign=assign, modules=MODULES)


def make_metric(config: OptimizerConfig) -> oad.Metric:
    """Builds the measure of a module; only pl_alpha_hill has a fit to choose, and norms need no eigenvalues."""
    if config.metric == "pl_alpha_hill":
        return oad.pl_alpha_hill(fit=getattr(oad, config.fit)(), solver=config.solver)
    norms: dict[str, oad.Metric] = {"grad_norm": oad.grad_norm(), "frobenius_norm": oad.frobenius_norm()}
    return norms.get(config.metric) or getattr(oad, config.metric)(solver=config.solver)


def make_assignment(config: OptimizerConfig) -> oad.Assignment:
    """Builds the map from scores to ratios; only the linear one has a range to choose, and controls.

    Raises:
        ValueError: If a control is asked of another assignment.
    """
    if config.assign != "linear":
        if config.reverse or config.unit_mean:
            raise ValueError(
                f"optimizer.reverse and optimizer.unit_mean are controls of the linear assignment, not of "
                f"optimizer.assign={config.assign}: leave them out."
            )
        return getattr(oad, config.assign)()
    linear, sign = oad.linear(*config.scale_range), -1.0 if config.reverse else 1.0

    def assign(scores: jax.Array) -> jax.Array:
        ratios = linear(sign * scores)
        return ratios / jnp.nanmean(ratios) if config.unit_mean else ratios

    return assign


def refreshes(config: OptimizerConfig, step: int) -> bool:
    """Whether the update that ends `step`, counted from 1, measures the modules anew."""
    return config.method in MODULEWISE and (step == 1 or step % config.refresh_every == 0)
