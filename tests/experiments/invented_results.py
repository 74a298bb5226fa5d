"""Results of runs that were never made, for tests of what is told about results."""
# SPDX-License-Identifier: Apache-2.0

import hashlib
import math
import pathlib
from typing import Any

import numpy as np

from experiments.config import Config
from experiments.suites import results
from experiments.suites.paper import SUITES, Run
from experiments.suites.scales import SCALES, base_config
from experiments.training.optimizers import MODULEWISE

KINDS = ("mlp/down_proj", "mlp/gate_proj", "mlp/up_proj", "self_attn/k_proj", "self_attn/o_proj", "self_attn/q_proj",
         "self_attn/v_proj")  # fmt: skip


def runs_of(suite: str, scale: str, found: dict[str, Any] | None = None) -> list[Run]:
    """The runs of a table or figure."""
    return list(SUITES[suite].runs(base_config(SCALES[scale]), SCALES[scale], found or {}))


def invent(config: Any, loss: float | None = None) -> dict[str, Any]:
    """A result like those of real runs; without a loss, one that depends on the settings and a little on the seed."""
    rng = np.random.default_rng(int(hashlib.sha256(results.name_of(config).encode()).hexdigest(), 16) % 2**32)
    if loss is None:
        loss = 3.2 + 0.02 * config.seed + 0.3 * math.log(config.optimizer.learning_rate / 3e-3) ** 2
        loss += 0.02 * math.log10(config.optimizer.weight_decay + 1e-9) + 0.01 * rng.standard_normal()
    steps = [1, *range(10, config.steps + 1, 10)]
    speeds = {"steps": steps, "values": [25e3 - config.optimizer.refresh_every for _ in steps]}
    score = {"perplexity": math.exp(loss)} if isinstance(config, Config) else {"accuracy": 1 - loss / 10}
    outcome = {
        "curve": {"train/tokens_per_second": speeds},
        "final": {"loss": loss, **score},
        "refreshes": _refreshes(config, rng) if config.optimizer.method in MODULEWISE else None,
    }
    versions = {"python": "3.11.7", "jax": "0.10.2"}
    facts = {"commit": "0123456789abcdef", "versions": versions, "device": "cpu", "seconds": 12.0, "cpu_seconds": 12.0}
    return results.describe(config, **facts, **outcome)


def _refreshes(config: Any, rng: np.random.Generator) -> dict[str, Any]:
    modules = [f"layers/{kind}/kernel/{block}" for kind in KINDS for block in range(config.model.num_layers)]
    steps = [1, *range(config.optimizer.refresh_every, config.steps + 1, config.optimizer.refresh_every)]
    low, high = config.optimizer.scale_range
    scores = 3 + np.arange(len(modules)) / 10 + 0.3 * rng.standard_normal((len(steps), len(modules)))
    shares = (scores - scores.min(1, keepdims=True)) / np.ptp(scores, 1)[:, None]
    ratios = low + (high - low) * shares
    return {
        "modules": modules, "made": len(steps), "steps": steps, "scores": scores.tolist(), "ratios": ratios.tolist(),
    }  # fmt: skip


def write(directory: pathlib.Path, *suites: str, scale: str = "nano") -> dict[str, dict[str, Any]]:
    """Writes invented results of whole suites, in an order in which each finds what it needs.

    Args:
        directory: Gets `SCALE/*.json`.
        suites: Which.
        scale: Where.

    Returns:
        All results by name.
    """
    found: dict[str, dict[str, Any]] = {}
    for suite in suites:
        for _, config in runs_of(suite, scale, found):
            found[results.name_of(config)] = result = invent(config)
            results.write(result, directory / scale)
    return found
