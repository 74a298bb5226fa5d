"""Results of `benchmarks.inspection` as tables."""
# SPDX-License-Identifier: Apache-2.0

import math
from typing import Any

from benchmarks.report import listed, table

_SOURCES = ("checkpoint", "what", "package", "maker", "licence")
_OUTPUTS = ("checkpoint", "size", "modules", "alpha", "wall", "CPU", "memory", "its largest matrix")
_COMPARISON = ("checkpoint", "modules", "wall", "CPU", "CPU, imports too", "times", "times, imports too", "memory")
_AGREEMENT = ("checkpoint", "modules", "largest difference", "where", "differ by more than 1e-3")


def markdown(found: dict[str, Any]) -> str:
    """Formats all results for reading."""
    sources = [
        [model["name"], model["kind"], f"{model['package']} {model['version']}", model["maker"], model["licence"]]
        for model in found["models"]
    ]
    return "\n".join(
        [
            "# The inspector on real checkpoints, measured by `benchmarks.inspection`\n",
            listed(found["measured_under"]),
            table(_SOURCES, sources),
            "With table, JSON, CSV and HTML, and shuffled spectra. Memory is the largest resident set over that of the"
            " imports:\n",
            table(_OUTPUTS, list(map(_outputs, found["outputs"]))),
            "The inspector / WeightWatcher on the same modules of the same files, both in processes of their own:\n",
            table((*_COMPARISON, "turns"), list(map(_comparison, found["comparison"]))),
            "Alphas of the goodness-of-fit fit, module by module:\n",
            table(_AGREEMENT, [[name, *_agreement(alphas)] for name, alphas in found["alphas"].items()]),
        ]
    )


def _outputs(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        f"{row['checkpoint_mb']:.0f} MB",
        str(row["modules"]),
        f"{min(row['alphas']):.2f} to {max(row['alphas']):.2f}",
        f"{row['wall']:.1f} s",
        f"{row['cpu']:.1f} s",
        f"{row['peak'] - row['imported']:.0f} MB",
        f"{row['largest_mb']:.1f} MB",
    ]


def _comparison(row: dict[str, Any]) -> list[str]:
    return [
        row["name"] + (", shuffled too" if row["shuffled"] else ""),
        str(row["modules"]),
        *(f"{row[part][0]:.2f} / {row[part][1]:.2f} s" for part in ("wall", "cpu", "all")),
        *(f"{row[part + '_ratio']:.1f}" for part in ("cpu", "all")),
        f"{row['memory'][0]:.0f} / {row['memory'][1]:.0f} MB",
        str(row["turns"]),
    ]


def _agreement(alphas: dict[str, list[float]]) -> list[str]:
    pairs = {name: abs(ours - theirs) for name, (ours, theirs) in alphas.items()}
    differences = {name: math.inf if math.isnan(difference) else difference for name, difference in pairs.items()}
    worst = max(differences, key=lambda name: differences[name])
    far = sum(1 for difference in differences.values() if difference > 1e-3)
    return [str(len(alphas)), f"{differences[worst]:.1e}", f"`{worst}`", str(far)]
