"""From the optimizer's settings to an optax chain: one line a method."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_alphadecay as oad
from experiments.methods import (
    AdaDecay,
    AdaDecayPerParameter,
    AdamC,
    AlphaDecay,
    Awd,
    ByType,
    GradientScale,
    Llr,
    Method,
    NoDecay,
    Scion,
    ScionC,
    Uniform,
)
from experiments.training.decays import candidates, layer_rates, modules

MODULES = modules.MODULES
"""The matrices of the transformer blocks; the leaves under `layers` are stacked over the blocks."""

ORTHOGONALIZED = oad.block_matrices(1, stacked=("layers",))
"""The matrices that Scion orthogonalises: the same ones, however small."""

MODULEWISE = (AdaDecay, AlphaDecay, GradientScale)
"""Methods that give each module a decay of its own, refreshed every `refresh_every` steps."""

MEASURING = (*MODULEWISE, Llr)
"""Methods that measure modules; Llr gives each a learning rate of its own."""


def make_schedule(config: Method, steps: int) -> optax.Schedule:
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


def make_optimizer(config: Method, steps: int) -> optax.GradientTransformationExtraArgs:
    """Builds the whole update: clipping, weight decay, Adam, learning rate.

    Coupled (`adam`): `clip -> decay -> Adam -> learning rate`. The decay is added to the clipped gradient and goes
    through the moments. Decoupled (`adamw`): `clip -> Adam -> decay -> learning rate`. A weight shrinks by the
    scheduled learning rate times its decay at each step. A decay that measures gradients measures the clipped ones,
    in both. Scion has its own direction in the place of Adam's, and is decoupled.

    Args:
        config: The method and its settings.
        steps: Optimizer steps of the whole run, which set the length of the schedule.

    Returns:
        The chain. Its state holds one `AlphaDecayState` for the methods in `MEASURING`.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    schedule = make_schedule(config, steps)
    if isinstance(config, Scion):
        return optax.chain(clip, make_scion(config, schedule))
    if isinstance(config, AdamC) or (isinstance(config, AlphaDecay | ByType) and config.corrected):
        return optax.chain(clip, make_adamc(config, schedule))
    decay = make_decay(config)
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    descend = optax.scale_by_learning_rate(schedule)
    if isinstance(config, Llr):
        descend = optax.chain(layer_rates.layer_rates(config.rate_range, config.refresh_every, config.ramp), descend)
    if config.coupling == "adam":
        return optax.chain(clip, decay, adam, descend)
    return optax.chain(clip, oad.with_gradients(optax.chain(adam, decay, descend)))


def make_scion(config: Scion, schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Builds Scion, or ScionC, with the radius in the learning rate: a weight moves by at most that in its norm."""
    return oad.scionc(
        schedule,
        config.weight_decay,
        config.momentum,
        norms=functools.partial(norm_balls, config.output_radius),
        orthogonalize=config.orthogonalize,
        dtype=config.dtype,
        peak=config.learning_rate,
        correct=None if isinstance(config, ScionC) else False,
    )


def norm_balls(output_radius: float, params: dict[str, Any]) -> dict[str, Any]:
    """The norm of each leaf: as `oad.scion_norms`, and RMS for a Vision Transformer's class token and positions."""
    tokens = {name for name in ("embed_class", "embed_position") if name in params}
    rule = oad.scion_norms(ORTHOGONALIZED, output_radius)
    rms = oad.bias_ball(axes=optax.contrib.MuonDimensionNumbers((), 2))  # [1, tokens, width]
    return {**rule({name: params[name] for name in params if name not in tokens}), **dict.fromkeys(tokens, rms)}


def make_adamc(config: AdamC | AlphaDecay | ByType, schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Builds AdamC; for the other methods, with a ratio per module that multiplies the corrected rate."""
    decay: Callable[..., optax.GradientTransformation] | None = None
    if isinstance(config, AlphaDecay):
        decay = functools.partial(oad.alphadecay, **_alphadecay(config))
    elif isinstance(config, ByType):
        decay = functools.partial(candidates.fixed_ratios, ratios=dict(config.ratios))
    return oad.adamc(
        schedule,
        config.b1,
        config.b2,
        config.eps,
        weight_decay=config.weight_decay,
        peak=config.learning_rate,
        correct=True if isinstance(config, AdamC) and config.correct_output else None,
        decay=decay,
    )


def _alphadecay(config: AlphaDecay) -> dict[str, Any]:
    """The arguments of `oad.alphadecay`, but for the rate."""
    return {
        "refresh_every": config.refresh_every,
        "metric": make_metric(config),
        "assign": make_assignment(config),
        "modules": MODULES,
        "cautious": config.cautious,
    }


def make_decay(config: Method) -> optax.GradientTransformation:
    """Builds the weight decay alone: `updates + rate * weights`, with `eta = config.weight_decay`.

    | method | rate |
    |---|---|
    | none | 0 |
    | uniform | eta |
    | awd | one for all weights, each step: running mean of `100 * eta * norm(gradients) / norm(weights)` |
    | adadecay | eta times a ratio per module, from its gradient's norm, at each refresh; elsewhere eta |
    | adadecay_per_parameter | eta times a ratio per weight, from its gradient's size, each step |
    | by_type | eta times a fixed ratio per type of module; elsewhere eta |
    | gradient_scale | eta times a ratio per module, from rms(gradient) / rms(weights), at each refresh; elsewhere eta |
    | alphadecay | eta times a ratio per module, from its spectrum, at each refresh; elsewhere eta |
    | llr | eta; it is the learning rate that differs between modules |

    Corrected rates depend on the learning rate, see `make_adamc` and `make_scion`.

    Args:
        config: The method and its settings.

    Returns:
        A transformation to chain before Adam (coupled) or behind it (decoupled).
    """
    return _DECAYS[type(config)](config)


_DECAYS: dict[type[Method], Callable[[Any], optax.GradientTransformation]] = {
    NoDecay: lambda config: optax.identity(),
    Uniform: lambda config: optax.add_decayed_weights(config.weight_decay),
    Awd: lambda config: oad.awd(100 * config.weight_decay),
    AdaDecay: lambda config: oad.modulewise_adadecay(
        config.weight_decay, refresh_every=config.refresh_every, modules=MODULES
    ),
    AdaDecayPerParameter: lambda config: oad.adadecay(config.weight_decay),
    ByType: lambda config: (
        candidates.fixed_ratios(config.weight_decay, dict(config.ratios), cautious=True)
        if config.cautious
        else decay_by_type(config.weight_decay, dict(config.ratios))
    ),
    GradientScale: lambda config: candidates.gradient_scale(
        config.weight_decay, config.refresh_every, config.alpha_range
    ),
    AlphaDecay: lambda config: oad.alphadecay(config.weight_decay, **_alphadecay(config)),
    Llr: lambda config: optax.add_decayed_weights(config.weight_decay),
}
"""How each method's decay of Adam is built. A new method is a dataclass in `methods.py` and a line here."""


def decay_by_type(rate: float, ratios: Mapping[str, float]) -> optax.GradientTransformation:
    """Builds a decay with a fixed ratio for each type of module.

    Args:
        rate: The base rate.
        ratios: By the name of the layer that a kernel of a block belongs to, such as `q_proj`; all else has ratio 1.

    Raises:
        ValueError: When it is first used, if a name is no layer of the blocks.
    """

    def add(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        seen: set[str] = set()

        def add_to_leaf(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
            names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
            is_module = names[0] == "layers" and names[-1] == "kernel"
            seen.update(names[-2:-1] if is_module else ())
            return update + rate * (ratios.get(names[-2], 1.0) if is_module else 1.0) * param

        decayed = jax.tree_util.tree_map_with_path(add_to_leaf, updates, params)
        modules.check_kinds(ratios, seen)
        return decayed

    return optax.stateless(add)


def make_metric(config: AlphaDecay) -> oad.Metric:
    """Builds the measure of a module; only pl_alpha_hill has a fit to choose, and norms need no eigenvalues."""
    if config.metric == "pl_alpha_hill":
        return oad.pl_alpha_hill(fit=getattr(oad, config.fit)(), solver=config.solver)
    plain: dict[str, oad.Metric] = {
        "grad_norm": oad.grad_norm(),
        "frobenius_norm": oad.frobenius_norm(),
        "alpha_over_random": lambda weights, gradients: candidates.alpha_over_random(weights, config.solver),
        "farms": lambda weights, gradients: candidates.farms(weights, config.solver),
    }
    return plain.get(config.metric) or getattr(oad, config.metric)(solver=config.solver)


def make_assignment(config: AlphaDecay) -> oad.Assignment:
    """Builds the map from scores to ratios; only the linear one has a range to choose, and controls."""
    if config.assign != "linear":
        return getattr(oad, config.assign)()
    # The paper's own rule, by which the recorded runs were made: every score may set the scale.
    linear, sign = oad.linear(*config.scale_range, fence=None), -1.0 if config.reverse else 1.0
    if config.mean_over == "weights":
        by_weights = oad.linear(*config.scale_range, mean=1.0, by="weights", fence=None)
        return lambda scores, sizes: by_weights(sign * scores, sizes)

    def assign(scores: jax.Array) -> jax.Array:
        ratios = linear(sign * scores)
        return ratios / jnp.nanmean(ratios) if config.unit_mean else ratios

    return assign


def refreshes(config: Method, step: int) -> bool:
    """Whether the update that ends `step`, counted from 1, measures the modules anew."""
    return isinstance(config, MEASURING) and (step == 1 or step % config.refresh_every == 0)
