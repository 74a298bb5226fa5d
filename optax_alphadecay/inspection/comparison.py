"""Several checkpoints of one model: alpha of each module from one to the next."""
# SPDX-License-Identifier: Apache-2.0

import itertools
import math
import os
from collections.abc import Sequence

from optax_alphadecay.inspection.records import Inspection


def labels(inspections: Sequence[Inspection]) -> list[str]:
    """Name each checkpoint by its path, without what all paths have in common."""
    if len(inspections) < 2:
        return [inspection.source for inspection in inspections]
    parts = [os.path.normpath(inspection.source).split(os.sep) for inspection in inspections]
    start = _shared(parts)
    end = _shared([path[start:][::-1] for path in parts])
    return [
        os.sep.join(path[start : len(path) - end]) or inspection.source
        for path, inspection in zip(parts, inspections, strict=True)
    ]


def _shared(paths: Sequence[Sequence[str]]) -> int:
    """Count the components with which all paths begin."""
    columns = zip(*paths, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def trajectories(inspections: Sequence[Inspection]) -> dict[str, list[float]]:
    """List the alphas of each module over the checkpoints, by its name; NaN where a checkpoint does not have it."""
    alphas = [{module.name: module.alpha for module in inspection} for inspection in inspections]
    return {
        name: [own.get(name, math.nan) for own in alphas]
        for name in dict.fromkeys(name for own in alphas for name in own)
    }


def change(alphas: Sequence[float]) -> float:
    """Compute the last alpha minus the first; NaN where one is missing."""
    return alphas[-1] - alphas[0]
