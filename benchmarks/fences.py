"""Counts the recorded refreshes in which a fence changes ratios."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import optax_alphadecay as oad
from optax_alphadecay.assignment.protocol import fenced_modules

RESULTS = pathlib.Path(__file__).parents[1] / "results"


class Count(NamedTuple):
    """Refreshes of one metric."""

    refreshes: int
    """Recorded refreshes."""
    beyond_quartiles: int
    """Those with a score more than three interquartile ranges beyond the quartiles."""
    fenced: int
    """Those with a score beyond a fence of `linear`."""
    moved: int
    """Those in which the fence moves the ratio of another module by more than 0.01."""


def count(scores: Iterable[Sequence[float]]) -> Count:
    """Counts what the default fence of `linear` does to the scores of refreshes.

    Args:
        scores: The scores of all modules, one vector a refresh.
    """
    counts = np.zeros(4, int)
    for vector in (np.array(each, np.float32) for each in scores):
        low, high = np.nanpercentile(vector, [25, 75])
        outside = (vector < low - 3 * (high - low)) | (vector > high + 3 * (high - low))
        ratios, plain, fenced = map(np.asarray, _shares(vector))
        moved = np.abs(ratios - plain)[~fenced] > 0.01
        counts += [1, outside.any(), fenced.any(), moved.any()]
    return Count(*counts.tolist())


@jax.jit
def _shares(scores: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Ratios with the fence and without, and what is beyond it."""
    linear = oad.linear()
    return linear(scores), oad.linear(fence=None)(scores), fenced_modules(linear, scores)


def main() -> None:
    """Prints one line a metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="*", type=pathlib.Path, help="files of results; those of the repository")
    paths = parser.parse_args().results or sorted(RESULTS.glob("*.jsonl"))
    recorded: dict[str, list[Any]] = {}
    for run in (json.loads(line) for path in paths for line in path.read_text().splitlines()):
        optimizer = run["settings"]["optimizer"]
        if run.get("refreshes") and optimizer["method"] == "alphadecay":
            recorded.setdefault(optimizer.get("metric", "pl_alpha_hill"), []).extend(run["refreshes"]["scores"])
    print("metric", *Count._fields, sep="  ")
    for metric, scores in sorted(recorded.items()):
        print(metric, *count(scores), sep="  ")


if __name__ == "__main__":
    main()
