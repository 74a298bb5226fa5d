"""Every method does what its line says: chains against NumPy, rates against their definitions."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import optax_alphadecay as oad
from experiments.methods import (
    METHODS,
    AdamC,
    AlphaDecay,
    ByType,
    GradientScale,
    Method,
    NoDecay,
    Uniform,
    with_settings,
)
from experiments.presets import PRESETS
from experiments.training.optimizers import (
    MEASURING,
    MODULES,
    make_assignment,
    make_optimizer,
    make_schedule,
    refreshes,
)
from tests.experiments.blocks import block_params, gradients_at, hill

STEPS = 40
BASE = AlphaDecay(learning_rate=0.01, weight_decay=0.1, refresh_every=3)


def choices(field: str) -> tuple[str, ...]:
    return typing.get_args(typing.get_type_hints(AlphaDecay)[field])


@pytest.fixture
def params() -> dict[str, Any]:
    return {name: leaf for name, leaf in block_params().items() if name != "lm_head"}


def trained(config: Method, params: dict[str, Any], steps: int) -> tuple[dict[str, Any], Any]:
    optimizer = make_optimizer(config, STEPS)
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = update(gradients_at(step, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def in_numpy(config: AdamC | Uniform, params: dict[str, Any], steps: int) -> list[np.ndarray]:
    """Clipping, Adam and a uniform decay in float64, from their definitions."""
    weights = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    m = [np.zeros_like(w) for w in weights]
    v = [np.zeros_like(w) for w in weights]
    coupled = config.coupling == "adam"
    corrected = config.method == "adamc"
    for step in range(steps):
        gradients = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradients_at(step, params))]
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
        gradients = [g * min(1.0, config.clip_norm / norm) for g in gradients]
        gradients = [g + coupled * config.weight_decay * w for g, w in zip(gradients, weights, strict=True)]
        m = [config.b1 * a + (1 - config.b1) * g for a, g in zip(m, gradients, strict=True)]
        v = [config.b2 * a + (1 - config.b2) * g**2 for a, g in zip(v, gradients, strict=True)]
        unbiased = [
            (a / (1 - config.b1 ** (step + 1)), b / (1 - config.b2 ** (step + 1))) for a, b in zip(m, v, strict=True)
        ]
        directions = [a / (np.sqrt(b) + config.eps) for a, b in unbiased]
        rate = 0.01 * step / 4  # warm-up of 4 steps
        weights = [
            w - rate * (d + (not coupled) * (rate / 0.01 if corrected else 1) * config.weight_decay * w)
            for w, d in zip(weights, directions, strict=True)
        ]
    return weights


@pytest.mark.parametrize(("method", "coupling"), [("uniform", "adam"), ("uniform", "adamw"), ("adamc", "adamw")])
def test_one_rate_against_numpy(method: str, coupling: str, params: dict[str, Any]) -> None:
    config = with_settings(BASE, method, coupling=coupling)
    assert isinstance(config, AdamC | Uniform)
    found, _ = trained(config, params, 4)
    for ours, theirs in zip(jax.tree.leaves(found), in_numpy(config, params, 4), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_none_is_uniform_without_decay(params: dict[str, Any]) -> None:
    found, _ = trained(with_settings(BASE, "none"), params, 4)
    same, _ = trained(with_settings(BASE, "uniform", weight_decay=0.0), params, 4)
    jax.tree.map(np.testing.assert_array_equal, found, same)


def test_schedule_against_its_formula() -> None:
    config = NoDecay(learning_rate=0.5, warmup_fraction=0.2, final_fraction=0.1)
    found = [float(make_schedule(config, 50)(count)) for count in (0, 5, 10, 30, 50)]
    cosine = 0.5 * (0.1 + 0.9 * (1 + np.cos(np.pi * np.array([0, 20, 40]) / 40)) / 2)
    np.testing.assert_allclose(found, [0, 0.25, *cosine], rtol=1e-6)


def rates(config: Method, params: dict[str, Any], gradients: dict[str, Any]) -> dict[str, np.ndarray]:
    """Decay of each weight over eta, out of a decoupled update whose Adam direction is known."""
    config = with_settings(config, coupling="adamw", warmup_fraction=0.0)
    optimizer = make_optimizer(config, STEPS)
    still = make_optimizer(with_settings(config, "none"), STEPS)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    directions, _ = still.update(gradients, still.init(params), params)
    per_weight = jax.tree.map(
        lambda u, d, w: np.float64(u - d) / (-config.learning_rate * config.weight_decay * np.float64(w)),
        updates,
        directions,
        params,
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(per_weight)
    }


def test_alphadecay_shares_out_by_module(params: dict[str, Any]) -> None:
    config = dataclasses.replace(BASE, weight_decay=10.0, scale_range=(0.5, 2.0))
    found = rates(config, params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(found["embed/embedding"], 1, rtol=1e-4)
    np.testing.assert_allclose(found["layers/input_norm/scale"], 1, rtol=1e-4)
    modules = [*found["layers/mlp/up_proj/kernel"], *found["layers/self_attn/q_proj/kernel"]]
    ratios = [float(np.median(module)) for module in modules]
    for module, ratio in zip(modules, ratios, strict=True):
        np.testing.assert_allclose(module, ratio, rtol=1e-3)
    assert (min(ratios), max(ratios)) == pytest.approx((0.5, 2.0), rel=1e-4)
    assert ratios.index(max(ratios)) < 2, "a random wide matrix has the lighter tail, and the stronger decay"


def test_awd_rate_is_the_clipped_gradients_norm_over_the_weights(params: dict[str, Any]) -> None:
    config = with_settings(BASE, "awd", weight_decay=10.0, clip_norm=50.0)
    found = rates(config, params, gradients_at(0, params))
    norm = np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in jax.tree.leaves(params)))
    for leaf in found.values():
        np.testing.assert_allclose(np.median(leaf), 0.9 * 100 * 50.0 / norm, rtol=1e-3)


def test_adadecay_measures_the_gradient_behind_adam_too(params: dict[str, Any]) -> None:
    config = with_settings(BASE, "adadecay", weight_decay=10.0)
    gradients = gradients_at(0, params)
    gradients["layers"]["mlp"]["up_proj"]["kernel"] *= jnp.array([3.0, 0.1]).reshape(2, 1, 1)
    found = rates(config, params, gradients)
    norms = np.linalg.norm(np.float64(gradients["layers"]["mlp"]["up_proj"]["kernel"]), axis=(1, 2))
    others = np.linalg.norm(np.float64(gradients["layers"]["self_attn"]["q_proj"]["kernel"]), axis=(1, 2))
    for block in (0, 1):
        scores = np.array([norms[block], others[block]])
        expected = 2 / (1 + np.exp(-4 * (scores - scores.mean()) / scores.std()))
        leaves = (found["layers/mlp/up_proj/kernel"][block], found["layers/self_attn/q_proj/kernel"][block])
        np.testing.assert_allclose([np.median(leaf) for leaf in leaves], expected, rtol=1e-2)


def test_adadecay_per_parameter_decays_more_where_the_gradient_is_larger(params: dict[str, Any]) -> None:
    config = with_settings(BASE, "adadecay_per_parameter", weight_decay=10.0)
    gradients = gradients_at(0, params)
    found = rates(config, params, gradients)["embed/embedding"]
    sizes = np.abs(np.float64(gradients["embed"]["embedding"]))
    expected = 2 / (1 + np.exp(-4 * (sizes - sizes.mean()) / sizes.std()))
    large = np.abs(np.asarray(params["embed"]["embedding"])) > 0.5
    np.testing.assert_allclose(found[large], expected[large], atol=2e-3)


@pytest.mark.parametrize(("method", "coupling"), [*((method, "adam") for method in METHODS), ("alphadecay", "adamw")])
def test_refreshes_are_told_truly(method: Any, coupling: Any, params: dict[str, Any]) -> None:
    config = with_settings(BASE, method, coupling=coupling)
    optimizer = make_optimizer(config, STEPS)
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    seen = []
    for step in range(1, 8):
        before = state
        updates, state = update(gradients_at(step, params), state, params)
        params = optax.apply_updates(params, updates)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))
        if isinstance(config, MEASURING):
            tables = [oad.module_table(each, params, modules=MODULES) for each in (before, state)]
            assert len(tables[0]) == 4
            seen += [step] * (tables[0] != tables[1])
    assert seen == [step for step in range(1, 8) if refreshes(config, step)]
    assert seen == ([1, 3, 6] if isinstance(config, MEASURING) else [])


@pytest.mark.parametrize("alpha_range", [(), (0.5, 2.0)])
def test_gradient_scale_is_by_gradient_over_weight(alpha_range: tuple[float, ...], params: dict[str, Any]) -> None:
    config = GradientScale(learning_rate=0.01, weight_decay=10.0, alpha_range=alpha_range)
    params["layers"]["mlp"]["up_proj"]["kernel"] *= jnp.array([1.0, 3.0])[:, None, None]
    gradients = gradients_at(0, params)
    found = rates(config, params, gradients)
    kernels = [params["layers"][a][b]["kernel"] for a, b in (("mlp", "up_proj"), ("self_attn", "q_proj"))]
    slopes = [gradients["layers"][a][b]["kernel"] for a, b in (("mlp", "up_proj"), ("self_attn", "q_proj"))]
    rms = [np.sqrt(np.square(np.float64(x)).mean(axis=(1, 2))) for x in (*slopes, *kernels)]
    scale = np.concatenate([rms[0] / rms[2], rms[1] / rms[3]])
    scale /= np.average(scale, weights=[64 * 96] * 2 + [64 * 64] * 2)
    if alpha_range:
        alphas = np.concatenate([hill(np.linalg.svd(np.float64(w), compute_uv=False) ** 2) for w in kernels])
        scale *= 0.5 + 1.5 * (alphas - alphas.min()) / np.ptp(alphas)
    per_module = [found[f"layers/{name}/kernel"][i] for name in ("mlp/up_proj", "self_attn/q_proj") for i in (0, 1)]
    for rate, expected in zip(per_module, scale, strict=True):
        np.testing.assert_allclose(np.median(rate), expected, rtol=1e-3)
    np.testing.assert_allclose(np.median(found["embed/embedding"]), 1, rtol=1e-4)


@pytest.mark.parametrize(
    ("field", "choice"),
    [
        *(("metric", choice) for choice in choices("metric")),
        *(("fit", choice) for choice in choices("fit")[1:]),
        *(("assign", choice) for choice in choices("assign")),
    ],
)
def test_every_choice_is_used(field: str, choice: str, params: dict[str, Any]) -> None:
    changes: dict[str, Any] = {field: choice}
    if field == "assign":
        changes["metric"] = "frobenius_norm"  # compiles faster
    config = dataclasses.replace(BASE, **changes)
    rows = oad.module_table(trained(config, params, 1)[1], params, modules=MODULES)
    weights = params["layers"]["mlp"]["up_proj"]["kernel"]
    gradients = gradients_at(0, params)["layers"]["mlp"]["up_proj"]["kernel"]
    norm = optax.tree.norm(gradients_at(0, params))
    eigenvalues = np.linalg.svd(np.float64(weights), compute_uv=False) ** 2
    squares = [np.linalg.svd(np.float64(weights[:, :, start : start + 64]), compute_uv=False) for start in (0, 32)]
    expected = {
        "alpha_over_random": (hill(eigenvalues) - 1) / (oad.random_matrix_alpha(64, 96) - 1),
        "farms": hill(np.concatenate(squares, axis=1) ** 2),
        "grad_norm": np.linalg.norm(np.float64(gradients / norm), axis=(1, 2)),
        "frobenius_norm": eigenvalues.sum(axis=1),
        "spectral_norm": eigenvalues.max(axis=1),
        "stable_rank": eigenvalues.sum(axis=1) / eigenvalues.max(axis=1),
        "spectral_entropy": scipy.stats.entropy(eigenvalues, axis=1) / np.log(eigenvalues.shape[1]),
    }
    if choice in expected:
        np.testing.assert_allclose([row.score for row in rows[:2]], expected[choice], rtol=1e-4)
    else:
        assert all(row.score > 1 for row in rows)
    ratios = np.array([row.ratio for row in rows])
    if field == "assign" and choice in ("sqrt", "log2"):
        assert ratios.mean() == pytest.approx(1, rel=1e-5)
    elif choice == "sigmoid":
        assert ratios[0] + ratios[2] == pytest.approx(2, rel=1e-5)
    else:
        assert (ratios.min(), ratios.max()) == pytest.approx(BASE.scale_range, rel=1e-5)


@pytest.mark.parametrize("option", [{}, {"corrected": True}, {"cautious": True}])
def test_by_type_gives_each_type_its_ratio_and_all_else_one(option: Any, params: dict[str, Any]) -> None:
    plain = ByType(learning_rate=0.01, weight_decay=10.0, coupling="adamw", ratios=(("q_proj", 0.5), ("up_proj", 2.0)))
    config = dataclasses.replace(plain, **option)
    found = rates(config, params, jax.tree.map(jnp.zeros_like, params))
    for name, leaf in found.items():
        expected = 0.5 if "q_proj" in name else 2.0 if "up_proj" in name else 1.0
        np.testing.assert_allclose(leaf, expected, rtol=1e-4)
    wrong = dataclasses.replace(config, ratios=(("query", 0.5),))
    with pytest.raises(ValueError, match=r"optimizer\.ratios names query, but the blocks have q_proj, up_proj\."):
        rates(wrong, params, jax.tree.map(jnp.zeros_like, params))


def test_presets_build() -> None:
    for _, config in PRESETS.values():
        make_optimizer(config.optimizer, config.steps)


def test_mean_one_keeps_the_shares_and_reverse_mirrors_them() -> None:
    scores = jnp.array([2.0, 5.0, 3.0, jnp.nan])
    plain = np.asarray(make_assignment(BASE)(scores))
    scaled = np.asarray(make_assignment(dataclasses.replace(BASE, unit_mean=True))(scores))
    mirrored = np.asarray(make_assignment(dataclasses.replace(BASE, reverse=True))(scores))
    np.testing.assert_allclose(scaled, plain / plain[:3].mean(), rtol=1e-6)
    by_weights = make_assignment(dataclasses.replace(BASE, unit_mean=True, mean_over="weights"))
    sizes = np.array([1000, 200, 30, 4])
    np.testing.assert_allclose(by_weights(scores, sizes), plain / np.average(plain[:3], weights=sizes[:3]), rtol=1e-6)
    np.testing.assert_allclose(plain + mirrored, [sum(BASE.scale_range)] * 3 + [np.nan], rtol=1e-6)
