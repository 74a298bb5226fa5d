"""Results of `benchmarks.inspection` as tables."""
# SPDX-License-Identifier: Apache-2.0

import math
from typing import Any

from benchmarks.report import listed, table


def markdown(found: dict[str, Any]) -> str:
    """Formats all results for reading."""
    sources = [
        [model["name"], model["kind"], f"{model['package']} {model['version']}", model["maker"], model["licence"]]
        for model in found["models"]
    ]
    outputs = [
        [
            row["name"],
            f"{row['checkpoint_mb']:.0f} MB",
            str(row["modules"]),
            f"{min(row['alphas']):.2f} to {max(row['alphas']):.2f}",
            f"{row['wall']:.1f} s",
            f"{row['cpu']:.1f} s",
            f"{row['peak'] - row['imported']:.0f} MB",
            f"{row['largest_mb']:.0f} MB",
        ]
        for row in found["outputs"]
    ]
    comparison = [
        [
            row["name"] + (", shuffled too" if row["shuffled"] else ""),
            str(row["modules"]),
            *(f"{row[part][0]:.2f} / {row[part][1]:.2f} s" for part in ("wall", "cpu", "all")),
            *(f"{row[part + '_ratio']:.1f}" for part in ("cpu", "all")),
            f"{row['memory'][0]:.0f} / {row['memory'][1]:.0f} MB",
            str(row["turns"]),
        ]
        for row in found["comparison"]
    ]
    agreement = [[name, *_agreement(alphas)] for name, alphas in found["alphas"].items()]
    return "\n".join(
        [
            "# The inspector on real checkpoints, measured by `benchmarks.inspection`\n",
            listed(found["measured_under"]),
            table(("checkpoint", "what", "package", "maker", "licence"), sources),
            "With table, JSON, CSV and HTML, and shuffled spectra; memory is the largest resident set over that of the"
            " imports:\n",
            table(
                ("checkpoint", "size", "modules", "alpha", "wall", "CPU", "memory", "its largest matrix"),
                outputs,
            ),
            "The inspector / WeightWatcher on the same modules of the same files, both in processes of their own:\n",
            table(
                (
                    "checkpoint",
                    "modules",
                    "wall",
                    "CPU",
                    "CPU, imports too",
                    "times",
                    "times, imports too",
                    "memory",
                    "turns",
                ),
                comparison,
            ),
            "Alphas of the goodness-of-fit fit, module by module:\n",
            table(("checkpoint", "modules", "largest difference", "where", "differ by more than 1e-3"), agreement),
        ]
    )


def _agreement(alphas: dict[str, list[float]]) -> list[str]:
    pairs = {name: abs(ours - theirs) for name, (ours, theirs) in alphas.items()}
    differences = {name: math.inf if math.isnan(difference) else difference for name, difference in pairs.items()}
    worst = max(differences, key=lambda name: differences[name])
    far = sum(1 for difference in differences.values() if difference > 1e-3)
    return [str(len(alphas)), f"{differences[worst]:.1e}", f"`{worst}`", str(far)]
