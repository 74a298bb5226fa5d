"""Figures show what was logged: the numbers in them are those that went in."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from experiments.config import Config
from experiments.methods import with_settings
from experiments.presets import PRESETS
from experiments.training import figures

KINDS = ("mlp/up_proj", "self_attn/q_proj")
BLOCKS = 3


def metrics() -> list[dict[str, float]]:
    lines: list[dict[str, float]] = [{"step": step, "train/loss": 7 - step / 10} for step in range(1, 21)]
    for step in (1, 10, 20):
        line: dict[str, float] = {"step": step}
        for k, kind in enumerate(KINDS):
            for block in range(BLOCKS):
                line[f"alphadecay/score/layers/{kind}/kernel/{block}"] = 2 + k + block / 10 + step / 100
                line[f"alphadecay/ratio/layers/{kind}/kernel/{block}"] = 1 + k + block / 10 - step / 100
        lines.append(line)
    return [*lines, {"step": 10, "validation/loss": 6.1}, {"step": 20, "validation/loss": 5.2}]


def params() -> dict[str, Any]:
    keys = iter(jax.random.split(jax.random.key(0), 4))
    matrices = {
        "mlp": {"up_proj": {"kernel": jax.random.normal(next(keys), (BLOCKS, 60, 90))}},
        "self_attn": {"q_proj": {"kernel": jax.random.normal(next(keys), (BLOCKS, 60, 60))}},
        "input_norm": {"scale": jnp.ones((BLOCKS, 60))},
    }
    return {"embed": {"embedding": jnp.ones((80, 60))}, "layers": matrices}


@pytest.fixture
def config(tmp_path: pathlib.Path) -> Config:
    return dataclasses.replace(PRESETS["nano"].config, workdir=tmp_path)


def with_optimizer(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, optimizer=with_settings(config.optimizer, **changes))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["loss", "spectra", "alpha", "decay"]),
        ({"metric": "stable_rank"}, ["loss", "spectra", "stable_rank", "decay"]),
        ({"method": "adadecay"}, ["loss", "spectra", "grad_norm", "decay"]),
        ({"method": "uniform"}, ["loss", "spectra"]),
    ],
)
def test_files_of_each_method(config: Config, changes: dict[str, str], names: list[str]) -> None:
    paths = figures.draw(with_optimizer(config, **changes), metrics(), params(), 5.9)
    assert paths == [config.workdir / "figures" / f"{name}.png" for name in names]
    for path in paths:
        with PIL.Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert 600 < pixels.shape[1] < 2000 and 300 < pixels.shape[0] < 1500
        assert 0.5 < np.mean(pixels > 250) < 0.99 or path.name == "decay.png", "neither empty nor covered"


def test_loss_curves() -> None:
    (axes,) = figures.draw_losses(metrics(), math.log(300)).axes
    train, validation, unigram = axes.lines
    np.testing.assert_array_equal(train.get_xdata(), np.arange(1, 21))
    np.testing.assert_allclose(np.asarray(train.get_ydata()), 7 - np.arange(1, 21) / 10)
    np.testing.assert_array_equal(validation.get_xydata(), [[10, 6.1], [20, 5.2]])
    assert f"perplexity {math.exp(5.2):.1f}" in str(validation.get_label())
    assert unigram.get_label() == "unigram model (perplexity 300.0)"


def test_modules_are_read_back_and_averaged() -> None:
    modules = figures.modules_of(metrics())
    assert [(module.kind, module.block) for module in modules] == [
        ("up_proj", 0),
        ("up_proj", 1),
        ("up_proj", 2),
        ("q_proj", 0),
        ("q_proj", 1),
        ("q_proj", 2),
    ]
    np.testing.assert_allclose(modules[4].scores, [3.11, 3.2, 3.3])
    np.testing.assert_allclose(modules[4].ratios, [2.09, 2.0, 1.9])
    figure = figures.draw_scores(modules, "alpha")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["q_proj", "up_proj"], "as the lines end"
    means = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    np.testing.assert_allclose([np.asarray(line.get_ydata()) for line in means], [[2.11, 2.2, 2.3], [3.11, 3.2, 3.3]])


def test_decay_map_shows_the_last_refresh() -> None:
    axes = figures.draw_decay(figures.modules_of(metrics())).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.9, 1.0], [1.8, 1.9, 2.0]])  # type: ignore[arg-type]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["up_proj", "q_proj"]
    assert [text.get_text() for text in axes.texts] == ["0.80", "0.90", "1.00", "1.80", "1.90", "2.00"]


def test_spectra_against_numpy() -> None:
    spectra = figures.spectra_of(params())
    assert len(spectra) == 2 * BLOCKS, "norms and embeddings are no modules"
    matrix = np.asarray(params()["layers"]["self_attn"]["q_proj"]["kernel"][1], np.float64)
    found = next(spectrum for spectrum in spectra if spectrum.name == "q_proj of block 1")
    values = np.linalg.svd(matrix, compute_uv=False)[::-1] ** 2
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-5 * values[-1])
    tail = values[30:]
    assert found.alpha == pytest.approx(1 + 30 / np.log(tail / tail[0]).sum(), rel=1e-4)


def test_spectra_run_from_the_heaviest_tail_to_the_lightest() -> None:
    spectra = figures.spectra_of(params())
    (axes,) = figures.draw_spectra(spectra).axes
    labels = [str(line.get_label()) for line in axes.lines if "alpha" in str(line.get_label())]
    alphas = sorted(spectrum.alpha for spectrum in spectra)
    assert [label.split(" = ")[1] for label in labels] == [f"{alphas[i]:.2f}" for i in (0, 2, 3, 5)]
    # The fit is the straight line of slope 1 - alpha through the middle of the spectrum.
    line = next(line for line in axes.lines if str(line.get_label()) == labels[0])
    (x0, y0), *_, (x1, y1) = np.log(line.get_xydata())
    assert (x0, y0) == pytest.approx((0, math.log(0.5)))
    assert (y1 - y0) / (x1 - x0) == pytest.approx(1 - alphas[0], rel=1e-6)


def test_module_without_an_alpha_is_left_out() -> None:
    bad = params()
    bad["layers"]["mlp"]["up_proj"]["kernel"] = jnp.zeros((BLOCKS, 60, 90)).at[1].set(jnp.nan)
    assert {spectrum.name for spectrum in figures.spectra_of(bad)} == {f"q_proj of block {i}" for i in range(BLOCKS)}
