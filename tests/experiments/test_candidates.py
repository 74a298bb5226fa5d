"""What could do better: learning rates by spectrum, and cautious or corrected decay with a fixed table by type."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import AlphaDecay, ByType, Llr, Method, Uniform, with_settings
from experiments.training.optimizers import make_optimizer
from tests.experiments.blocks import block_params, gradients_at, hill

STEPS = 40
KERNELS = (("mlp", "up_proj"), ("self_attn", "q_proj"))
BY_TYPE = ByType(
    learning_rate=0.01, weight_decay=0.1, coupling="adamw", warmup_fraction=0.0,
    ratios=(("q_proj", 0.5), ("up_proj", 3.0)),
)  # fmt: skip


@pytest.fixture
def params() -> dict[str, Any]:
    return block_params()


def by_path(tree: Any) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def updates_of(config: Method, params: dict[str, Any], steps: int) -> list[dict[str, np.ndarray]]:
    """The updates of every step, at weights that stay as they are."""
    optimizer = make_optimizer(config, STEPS)
    state, found = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(gradients_at(step, params), state, params)
        found.append(by_path(updates))
    return found


def alphas_of(found: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([hill(np.linalg.svd(kernel, compute_uv=False)[None] ** 2) for kernel in found])


def kernels(params: dict[str, Any]) -> list[np.ndarray]:
    return [np.asarray(params["layers"][a][b]["kernel"], np.float64)[block] for a, b in KERNELS for block in (0, 1)]


@pytest.mark.parametrize("coupling", ["adam", "adamw"])
def test_llr_moves_rates_to_what_a_refresh_gave(coupling: Any, params: dict[str, Any]) -> None:
    """A refresh every 4 steps, ramps of 3: rates by step are on straight lines between the readings."""
    config = Llr(
        learning_rate=0.01,
        weight_decay=0.1,
        warmup_fraction=0.0,
        rate_range=(1.0, 5.0),
        refresh_every=4,
        ramp=3,
        coupling=coupling,
    )
    plain = with_settings(config, "uniform")
    grown = jax.tree.map(jnp.copy, params)
    sizes = jnp.linspace(1.0, 3.0, 64).reshape(1, 64, 1)
    grown["layers"]["self_attn"]["q_proj"]["kernel"] *= sizes  # another spectrum from the fourth update on
    alphas = [alphas_of(kernels(each)) for each in (params, grown)]
    read = [1 + 4 * (a - a.min()) / np.ptp(a) for a in alphas]
    fractions = np.array([1, 2, 3])[:, None] / 3
    lines = [1 + (read[0] - 1) * fractions, read[0] + (read[1] - read[0]) * fractions]
    expected = [*lines[0], *lines[1]]

    optimizer, uniform = make_optimizer(config, STEPS), make_optimizer(plain, STEPS)
    state, other = optimizer.init(params), uniform.init(params)
    update = jax.jit(optimizer.update)
    for step, rates in enumerate(expected):
        weights, gradients = params if step < 3 else grown, gradients_at(step, params)
        updates, state = update(gradients, state, weights)
        same, other = uniform.update(gradients, other, weights)
        found, base = by_path(updates), by_path(same)
        for place, (module, kind) in enumerate(KERNELS):
            name = f"layers/{module}/{kind}/kernel"
            for block in (0, 1):
                np.testing.assert_allclose(
                    found[name][block], base[name][block] * rates[2 * place + block], rtol=1e-3, atol=1e-8
                )
        for name in ("embed/embedding", "lm_head/kernel", "layers/input_norm/scale"):
            np.testing.assert_allclose(found[name], base[name], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("config", [BY_TYPE, dataclasses.replace(AlphaDecay(), **{
    field.name: getattr(BY_TYPE, field.name) for field in dataclasses.fields(Uniform)
})])  # fmt: skip
def test_cautious_decay_leaves_out_what_the_step_takes_from_zero(config: Method, params: dict[str, Any]) -> None:
    bold, cautious = (updates_of(with_settings(config, cautious=flag), params, 1)[0] for flag in (False, True))
    still = updates_of(with_settings(config, "none"), params, 1)[0]
    for name, weights in by_path(params).items():
        decays = np.sign(-still[name]) * np.sign(weights) >= 0  # a step is subtracted
        assert 0.3 < decays.mean() < 0.7 or name.endswith("scale")
        np.testing.assert_allclose(cautious[name], np.where(decays, bold[name], still[name]), rtol=1e-5, atol=1e-9)


def test_corrected_decay_by_type_follows_the_learning_rate(params: dict[str, Any]) -> None:
    config = dataclasses.replace(BY_TYPE, corrected=True, final_fraction=0.0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer(config, STEPS)
    state = optimizer.init(params)
    for step in range(11):
        updates, state = jax.jit(optimizer.update)(zeros, state, params)
        share = (1 + np.cos(np.pi * step / STEPS)) / 2
        for name, update in by_path(updates).items():
            ratio = 0.5 if "q_proj" in name else 3.0 if "up_proj" in name else 1.0
            corrected = share**2 if "lm_head" not in name else share
            weights = by_path(params)[name]
            np.testing.assert_allclose(update, -0.01 * 0.1 * corrected * ratio * weights, rtol=1e-4)


def test_options_of_adamw_and_ramps_that_are_none_are_refused() -> None:
    for option in ("cautious", "corrected"):
        with pytest.raises(ValueError, match=rf"optimizer\.{option}=True is a setting of optimizer\.coupling=adamw"):
            with_settings(BY_TYPE, None, coupling="adam", **{option: True})
    with pytest.raises(ValueError, match=r"optimizer\.corrected and optimizer\.cautious do not go together"):
        with_settings(BY_TYPE, None, corrected=True, cautious=True)
    with pytest.raises(ValueError, match=r"optimizer\.ramp=0 must be at least 1"):
        Llr(ramp=0)


def test_fixed_ratios_decay_like_the_plain_table(params: dict[str, Any]) -> None:
    """Through the library or by hand: the learning rate at its peak corrects nothing."""
    plain = updates_of(dataclasses.replace(BY_TYPE, final_fraction=1.0), params, 3)
    through = updates_of(dataclasses.replace(BY_TYPE, final_fraction=1.0, corrected=True), params, 3)
    for ours, theirs in zip(through, plain, strict=True):
        for name, update in ours.items():
            np.testing.assert_allclose(update, theirs[name], rtol=1e-5, atol=1e-9)
