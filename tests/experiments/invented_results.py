"""Results of runs that were never made, for tests of what is told about results."""
# SPDX-License-Identifier: Apache-2.0

import hashlib
import math
import pathlib
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.methods import AdaDecay, AlphaDecay
from experiments.suites import store
from experiments.suites.identity import name_of, settings_that_matter
from experiments.suites.paper import SUITES
from experiments.suites.plan import PlannedRun
from experiments.suites.results import Refreshes, Result, to_line
from experiments.suites.scales import SCALES, base_config

KINDS = ("mlp/down_proj", "mlp/gate_proj", "mlp/up_proj", "self_attn/k_proj", "self_attn/o_proj", "self_attn/q_proj",
         "self_attn/v_proj")  # fmt: skip


def runs_of(suite: str, scale: str, found: dict[str, Result] | None = None) -> list[PlannedRun]:
    """The runs of a table or figure."""
    return list(SUITES[suite].runs(base_config(SCALES[scale]), SCALES[scale], found or {}))


def outcome(config: Any = None, **fields: Any) -> Result:
    """A result with nothing in it but these fields; of no run in particular if there is no config."""
    settings = settings_that_matter(config) if config else {}
    name, seed = (name_of(config), config.seed) if config else ("a", 0)
    plain = {"name": name, "settings": settings, "seed": seed, "commit": "0123456789abcdef", "versions": {}}
    return Result(**{**plain, **fields})


def invent(config: Any, loss: float | None = None, **fields: Any) -> Result:
    """A result like those of real runs; without a loss, one that depends on the settings and a little on the seed."""
    rng = np.random.default_rng(int(hashlib.sha256(name_of(config).encode()).hexdigest(), 16) % 2**32)
    if loss is None:
        loss = 3.2 + 0.02 * config.seed + 0.3 * math.log(config.optimizer.learning_rate / 3e-3) ** 2
        loss += 0.02 * math.log10(config.optimizer.weight_decay + 1e-9) + 0.01 * rng.standard_normal()
    score = {"perplexity": math.exp(loss)} if isinstance(config, Config) else {"accuracy": 1 - loss / 10}
    gap = getattr(config.optimizer, "refresh_every", 0)
    return outcome(
        config,
        **{
            "versions": {"python": "3.11.7", "jax": "0.10.2"},
            "device": "cpu",
            "seconds": 12.0,
            "cpu_seconds": 12.0,
            "training_seconds": 12.0 - gap / 1000,
            "final": {"loss": loss, **score},
            "refreshes": _refreshes(config, rng) if isinstance(config.optimizer, AdaDecay | AlphaDecay) else None,
            **fields,
        },
    )


def _refreshes(config: Any, rng: np.random.Generator) -> Refreshes:
    modules = [f"layers/{kind}/kernel/{block}" for kind in KINDS for block in range(config.model.num_layers)]
    steps = [1, *range(config.optimizer.refresh_every, config.steps + 1, config.optimizer.refresh_every)]
    low, high = getattr(config.optimizer, "scale_range", (2 / 3, 3.0))
    scores = 3 + np.arange(len(modules)) / 10 + 0.3 * rng.standard_normal((len(steps), len(modules)))
    shares = (scores - scores.min(1, keepdims=True)) / np.ptp(scores, 1)[:, None]
    ratios = low + (high - low) * shares
    return Refreshes(modules, len(steps), steps, scores.tolist(), ratios.tolist())


def write(directory: pathlib.Path, *suites: str, scale: str = "nano") -> dict[str, Result]:
    """Writes invented results of whole suites, in an order in which each finds what it needs.

    Args:
        directory: Gets `SCALE.jsonl`.
        suites: Which.
        scale: Where.

    Returns:
        All results by name.
    """
    found: dict[str, Result] = {}
    for suite in suites:
        for _, config in runs_of(suite, scale, found):
            found[name_of(config)] = invent(config)
    add(directory, *found.values(), scale=scale)
    return found


def add(directory: pathlib.Path, *results: Result, scale: str = "nano") -> None:
    """Writes results into a scale's file, all at once."""
    path = directory / f"{scale}.jsonl"
    found = store.read(path).results | {result.name: result for result in results}
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{to_line(found[name])}\n" for name in sorted(found)))
