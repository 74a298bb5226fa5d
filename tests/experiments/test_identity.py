"""Names of runs: what is part of them, what is not, and that a new setting orphans no result."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from experiments import command_line, presets, vision_config
from experiments.config import Config, DataConfig, MeshConfig, ModelConfig
from experiments.methods import METHODS, AlphaDecay
from experiments.presets import PRESETS
from experiments.suites import identity, store
from experiments.suites.identity import name_of, settings_that_matter
from experiments.suites.paper import SUITES, runs_of
from experiments.suites.scales import SCALES

CONFIG: Config = PRESETS["nano-repeated"].config


def changed(group: str, **values: object) -> Config:
    part = dataclasses.replace(getattr(CONFIG, group), **values)
    return dataclasses.replace(CONFIG, **{group: part})


@pytest.mark.parametrize(
    "same",
    [
        dataclasses.replace(CONFIG, workdir=pathlib.Path("/elsewhere"), log_every=1, accumulate=2, wandb=True),
        dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=2)),
        changed("data", dir=pathlib.Path("/data"), tokenizer=pathlib.Path("/a.model")),
        changed("model", remat=True),
        changed("optimizer", solver="svd"),
    ],
)
def test_where_a_run_is_computed_is_not_part_of_its_name(same: Config) -> None:
    assert name_of(same) == name_of(CONFIG)
    assert "elsewhere" not in json.dumps(settings_that_matter(same))


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(CONFIG, seed=1),
        dataclasses.replace(CONFIG, steps=401),
        changed("data", unique_tokens=0),
        changed("data", corpus="books"),
        changed("model", num_layers=4),
        changed("optimizer", fit="fix_finger"),
        changed("optimizer", unit_mean=True),
        changed("optimizer", unit_mean=True, mean_over="weights"),
        changed("optimizer", solver="stochastic"),
    ],
)
def test_what_a_run_computes_is_part_of_its_name(other: Config) -> None:
    assert name_of(other) != name_of(CONFIG)


def with_new_field(kind: type, name: str = "invented", default: Any = 7) -> type:
    """The class, of the same name, with one field more."""
    return dataclasses.make_dataclass(kind.__name__, [(name, type(default), default)], bases=(kind,), frozen=True)


def rebuilt(settings: Any, kinds: dict[str, type]) -> Any:
    """The same settings in classes that have a field more."""
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    fields = {
        name: rebuilt(value, kinds) if dataclasses.is_dataclass(value) else value for name, value in fields.items()
    }
    return kinds.get(type(settings).__name__, type(settings))(**fields)


@pytest.mark.parametrize("scale", ["nano", "nano-fresh"])
def test_every_recorded_run_is_found_after_a_setting_was_added(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [Config, ModelConfig, DataConfig, AlphaDecay, vision_config.VisionConfig, vision_config.ImageConfig]
    new = {kind.__name__: with_new_field(kind) for kind in kinds}
    for module in (presets, vision_config):
        richer = {
            name: command_line.Preset(about, rebuilt(config, new)) for name, (about, config) in module.PRESETS.items()
        }
        monkeypatch.setattr(module, "PRESETS", richer)
    found = store.read(store.DIRECTORY / f"{scale}.jsonl").results
    planned = [run for suite in SUITES for run in runs_of(suite, SCALES[scale], found)]
    assert any(hasattr(run.config.data, "invented") for run in planned)
    assert found.keys() <= {name_of(run.config) for run in planned}
    assert len(found) >= {"nano": 391, "nano-fresh": 35}[scale]


def test_a_default_that_changes_in_the_code_changes_no_recorded_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name_of(CONFIG)
    other_default = with_new_field(AlphaDecay, "refresh_every", 123)
    moved = dataclasses.replace(CONFIG, optimizer=rebuilt(CONFIG.optimizer, {"AlphaDecay": other_default}))
    assert name_of(moved) == before
    optimizer: Any = moved.optimizer
    at_new_default = dataclasses.replace(moved, optimizer=dataclasses.replace(optimizer, refresh_every=123))
    assert name_of(at_new_default) != before


def test_the_schema_names_settings_that_exist() -> None:
    kinds: list[Any] = [Config, ModelConfig, DataConfig, vision_config.VisionConfig, vision_config.VitConfig,
             vision_config.ImageConfig, *METHODS.values()]  # fmt: skip
    fields = {kind.__name__: {field.name for field in dataclasses.fields(kind)} for kind in kinds}
    for name, defaults in json.loads(identity.SCHEMA.read_text())["defaults"].items():
        assert defaults.keys() <= fields[name]
