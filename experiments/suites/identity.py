"""Which run is which: names made of what differs from a versioned schema of defaults."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

from experiments.config import RunConfig

SCHEMA = pathlib.Path(__file__).with_name("schema.json")
"""Defaults by class and field, as they were when the version was made. A default that changes in the code does not
change what a recorded name means; a field that is not in the schema counts from its default in the code."""

_ELSEWHERE = {
    "": {"workdir", "wandb", "log_every", "norms_every", "checkpoint_every", "mesh", "accumulate"},
    "data": {"dir", "tokenizer"},
    "model": {"remat"},
    "optimizer": {"solver"},
    "base": {"dir", "config"},
}
"""Settings that say where or how a run is computed, and not what is computed. The data is told by `data.corpus`."""


def settings_that_matter(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what a run gives, nested as in the config, fit for JSON."""
    settings = _in_words(config)
    for group, names in _ELSEWHERE.items():
        part = settings.get(group, {}) if group else settings
        for name in names & part.keys():
            if (name, part[name]) != ("solver", "stochastic"):  # an estimate; the others are exact
                del part[name]
    return settings


def name_of(config: RunConfig) -> str:
    """A run's name: its method, its decay, its seed, and a hash of all settings that differ from the schema.

    A new setting at its default changes no name.
    """
    optimizer = config.optimizer
    differing = {"schema": _schema()["version"], **_differing(config, settings_that_matter(config))}
    digest = hashlib.sha256(json.dumps(differing, sort_keys=True).encode()).hexdigest()
    words = (optimizer.coupling, optimizer.method, f"wd{optimizer.weight_decay:g}", f"seed{config.seed}")
    return "-".join((*words, digest[:10]))


def _in_words(settings: Any) -> dict[str, Any]:
    """A dataclass as nested dictionaries fit for JSON; a method of decay says its name."""
    words: dict[str, Any] = {"method": settings.method} if hasattr(settings, "method") else {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        words[field.name] = _in_words(value) if dataclasses.is_dataclass(value) else _plain(value)
    return words


def _differing(settings: Any, matter: dict[str, Any]) -> dict[str, Any]:
    """Of the settings that matter, those that have no default or another value."""
    differing: dict[str, Any] = {name: matter[name] for name in ("method",) if name in matter}
    for field in dataclasses.fields(settings):
        if field.name not in matter:
            continue
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            differing[field.name] = _differing(value, matter[field.name])
        elif matter[field.name] != _default(type(settings), field):
            differing[field.name] = matter[field.name]
    return differing


def _default(kind: type, field: "dataclasses.Field[Any]") -> Any:
    """A field's default by the schema, or else by the code; something that no value equals if there is none."""
    for each in kind.__mro__:
        recorded = _schema()["defaults"].get(each.__name__, {})
        if field.name in recorded:
            return recorded[field.name]
    return dataclasses.MISSING if field.default is dataclasses.MISSING else _plain(field.default)


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


@functools.cache
def _schema() -> dict[str, Any]:
    return dict(json.loads(SCHEMA.read_text()))
