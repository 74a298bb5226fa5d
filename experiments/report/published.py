"""What the paper reports (arXiv 2506.14562), as a reference beside what was made here."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib

from experiments.report.text import table

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks" / "results.json"
_DECAYS = ("1e-5", "5e-6", "1e-6")
_PERPLEXITIES = {
    "60m": {
        "WD=0": ("33.23", "33.23", "33.23"),
        "Uniform": ("32.39", "32.56", "33.03"),
        "AWD": ("33.78", "33.74", "33.74"),
        "AdaDecay": ("32.24", "32.52", "33.03"),
        "AlphaDecay": ("31.56", "31.58", "32.61"),
    },
    "135m": {
        "WD=0": ("24.60", "24.60", "24.60"),
        "Uniform": ("22.99", "23.14", "24.14"),
        "AWD": ("24.25", "24.45", "24.53"),
        "AdaDecay": ("23.20", "23.08", "23.96"),
        "AlphaDecay": ("22.76", "22.55", "23.49"),
    },
    "350m": {
        "WD=0": ("18.62", "18.62", "18.62"),
        "Uniform": ("17.12", "16.74", "17.50"),
        "AWD": ("18.32", "18.55", "18.79"),
        "AdaDecay": ("18.21", "17.42", "17.91"),
        "AlphaDecay": ("17.00", "16.66", "16.88"),
    },
    "1b": {
        "WD=0": ("16.11", "16.11", "16.11"),
        "Uniform": ("15.36", "14.66", "15.03"),
        "AWD": ("16.03", "16.22", "16.38"),
        "AdaDecay": ("17.23", "18.14", "15.35"),
        "AlphaDecay": ("15.13", "14.55", "14.63"),
    },
}
_REFRESH_SECONDS = {"60m": ("1.67", "7.9", "8.7"), "135m": ("4.7", "21.5", "24.9")}
"""Median, fix-finger and goodness of fit, on the paper's GPU."""
_OTHER_FITS = ("fix_finger", "goodness_of_fit")


def perplexities() -> str:
    """The paper's table 2, folded away and marked as the paper's."""
    columns = [f"{scale.upper()}, {decay}" for scale in _PERPLEXITIES for decay in _DECAYS]
    methods = next(iter(_PERPLEXITIES.values()))
    rows = [[method, *(number for by_method in _PERPLEXITIES.values() for number in by_method[method])]
            for method in methods]  # fmt: skip
    return (
        "<details>\n<summary>What the paper reports for its models (Adam; not made here)</summary>\n\n"
        "Validation perplexity on C4 by model and weight decay, from table 2 of arXiv 2506.14562. These numbers are "
        f"the paper's, not ours.\n\n{table(('method', *columns), rows)}\n</details>\n"
    )


def refresh_seconds(path: pathlib.Path = BENCHMARKS) -> str:
    """Seconds of one refresh with each fit: this library's, as benchmarked, and the paper's.

    Args:
        path: results.json of the benchmarks; its rows compare each fit with the median, in one sitting.
    """
    measured = json.loads(path.read_text())
    conditions, rows = measured["measured_under"], {row["name"]: row for row in measured["rows"]}
    lines = []
    for scale, theirs in _REFRESH_SECONDS.items():
        pairs = [rows[f"{scale} refresh with {fit}() / with median()"]["seconds"] for fit in _OTHER_FITS]
        ours = [pairs[0][1], *(seconds for seconds, _ in pairs)]
        lines.append([f"{scale.upper()}, here", *(f"{seconds:.2f}" for seconds in ours)])
        lines.append([f"{scale.upper()}, the paper's GPU", *theirs])
    about = (
        "Seconds of one refresh of all modules, with the fits in one sitting: from "
        f"[the benchmarks](../benchmarks/results.md) ({conditions['machine']}; commit {conditions['commit']}), not "
        "from the runs above, whose modules are too small to tell."
    )
    return f"{about}\n\n{table(('model', 'median', 'fix-finger', 'goodness of fit'), lines)}"
