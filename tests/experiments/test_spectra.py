"""Figure 2: what is measured of a run, against NumPy, and what the report shows of it."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
from typing import Any

import numpy as np
import pytest

from experiments.finetune_config import BaseConfig, SpectraConfig
from experiments.finetuning.base import read_base, restore_base
from experiments.parallel import sharding
from experiments.report import spectra
from experiments.report.data import read_results
from experiments.suites import worker
from experiments.suites.identity import name_of
from experiments.suites.paper import runs_of
from experiments.suites.results import Curve, measured
from experiments.suites.scales import SCALES
from tests.experiments.experiment_fixtures import FinishedRun
from tests.experiments.invented_results import add, outcome

RUNS = runs_of("figure-2", SCALES["nano"], {})


def test_spectra_of_a_run_are_numpys(finished_run: FinishedRun, tmp_path: pathlib.Path) -> None:
    base = read_base(finished_run.workdir)
    config: Any = RUNS[0].config
    config = SpectraConfig(
        base.model, base.data, config.optimizer, steps=0, base=BaseConfig(base.dir), workdir=tmp_path / "spectra"
    )
    worker._MEASUREMENTS[type(config)](config)
    found = measured(config.workdir, units_per_step=0)["curve"]
    layers = restore_base(base.dir, base.model, sharding.one_device_mesh())["layers"]
    names = [name.removeprefix("alpha/") for name in found if name.startswith("alpha/")]
    assert {f"spectrum/{name}" for name in names} == {name for name in found if name.startswith("spectrum/")}
    assert len(names) == 7 * base.model.num_layers
    for name in names:
        kind, _, block = name.partition(" of block ")
        group = "mlp" if kind in layers["mlp"] else "self_attn"
        weights = np.asarray(layers[group][kind]["kernel"][int(block)], np.float64)
        values = np.sort(np.linalg.svd(weights, compute_uv=False)) ** 2
        np.testing.assert_allclose(found[f"spectrum/{name}"].values, values, rtol=1e-3, atol=1e-6 * values[-1])
        assert found[f"spectrum/{name}"].steps == list(range(1, len(values) + 1))
        tail = np.log(values[len(values) // 2 :] / values[len(values) // 2])
        assert found[f"alpha/{name}"].values == pytest.approx([1 + len(tail) / tail.sum()], rel=1e-3)


def test_runs_are_those_of_figure_4() -> None:
    bases: list[Any] = [getattr(run.config, "base", None) for run in RUNS]
    assert [run.labels for run in RUNS] == [{"method": "Uniform"}, {"method": "AlphaDecay"}]
    of_figure_4 = {name_of(run.config) for run in runs_of("figure-4", SCALES["nano"], {})}
    assert {base.run for base in bases} <= of_figure_4 and all(base.run == name_of(base.config) for base in bases)
    assert len({name_of(run.config) for run in RUNS}) == 2
    assert runs_of("figure-2", SCALES["nano-fresh"], {}) == []


def test_the_report_draws_them(tmp_path: pathlib.Path) -> None:
    values = np.geomspace(0.01, 4, 10).tolist()
    alphas = {"q_proj of block 0": 1.5, "up_proj of block 1": 3.25, "v_proj of block 0": 2.0}
    curves = {f"spectrum/{name}": Curve(list(range(1, 11)), values) for name in alphas}
    curves |= {f"alpha/{name}": Curve([0], [alpha]) for name, alpha in alphas.items()}
    add(tmp_path, *(outcome(run.config, curve=curves) for run in RUNS))
    part = spectra.section().part(read_results(tmp_path), "nano")
    span = "1.50 (`q_proj of block 0`) to 3.25 (`up_proj of block 1`)"
    assert part.line == f"Alpha, Uniform: {span}; AlphaDecay: {span}."
    assert part.draw is not None
    for axes in part.draw().axes:
        legend: Any = axes.get_legend()
        names = [text.get_text() for text in legend.get_texts()]
        assert names[0] == "q_proj of block 0, alpha = 1.50" and names[-1] == "up_proj of block 1, alpha = 3.25"
        marks = axes.lines[0]
        np.testing.assert_allclose(np.asarray(marks.get_ydata()), np.arange(10, 0, -1) / 10)
