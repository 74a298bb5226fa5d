"""Draws the results: a refresh and its rivals, of larger models, on more devices; `python -m benchmarks.figure`."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import Row
from experiments.style import COLOURS, MARKERS, STYLE


def draw(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Draws one figure of three panels; a panel whose rows were not measured says so.

    Args:
        path: The PNG file to write.
        rows: The results of `benchmarks.run`.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 4.2), layout="constrained")
        panels = figure.subplots(1, 3)
        for draw_panel, axes in zip((_refresh, _growth, _over_devices), panels, strict=True):
            if not draw_panel(axes, rows):
                axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        figure.savefig(path)


def _refresh(axes: Axes, rows: Sequence[Row]) -> bool:
    axes.set(title="One refresh", ylabel="seconds", yscale="log")
    sizes: list[str] = []
    bars: dict[str, list[float]] = {"this library": [], "solver='eigvalsh'": [], "torch svdvals": []}
    for size in ("60m", "135m", "350m"):
        rival = _found(rows, rf"refresh of the \d+ modules of {size} / torch")
        other = _found(rows, rf"{size} refresh / with solver='eigvalsh'")
        if rival and other and rival[0].seconds and other[0].seconds:
            sizes.append(size)
            for label, seconds in zip(
                bars, (other[0].seconds[0], other[0].seconds[1], rival[0].seconds[1]), strict=True
            ):
                bars[label].append(seconds)
    for at, (label, seconds_of) in enumerate(bars.items()):
        places = [place + 0.26 * (at - 1) for place in range(len(sizes))]
        drawn = axes.bar(places, seconds_of, 0.24, label=label, color=COLOURS[at])
        axes.bar_label(drawn, fmt="{:.2g}", fontsize=9)
    axes.set_xticks(range(len(sizes)), [size.upper() for size in sizes])
    axes.legend(loc="upper left")
    axes.margins(y=0.25)
    return bool(sizes)


def _growth(axes: Axes, rows: Sequence[Row]) -> bool:
    axes.set(title="A refresh of larger models", xlabel="times as wide, or as deep", ylabel="times as long")
    axes.set(xscale="log", yscale="log")
    drawn = False
    for at, side in enumerate(("width", "depth")):
        times = {1.0: 1.0}
        for row in rows:
            match = re.fullmatch(rf"refresh at {side} (\d+) / at {side} (\d+)", row.name)
            if match and row.measured is not None:
                times[int(match[1]) / int(match[2])] = row.measured
                drawn = True
        axes.plot(list(times), list(times.values()), MARKERS[at] + "-", color=COLOURS[at], label=side)
    factors = (1, 2, 4, 8)
    axes.plot(factors, [factor**3 for factor in factors], ":", color="grey", label="cubic")
    axes.set_xticks(factors, [str(factor) for factor in factors])
    axes.minorticks_off()
    axes.legend(loc="upper left")
    return drawn


def _over_devices(axes: Axes, rows: Sequence[Row]) -> bool:
    axes.set(title="A refresh on more devices", xlabel="devices", ylabel="decompositions a device")
    shares, moved = (
        {
            int(match[1]): row.measured
            for row in rows
            if row.measured is not None and (match := re.match(rf"\w+ refresh on (\d+) devices: {what}", row.name))
        }
        for what in ("decompositions", "bytes")
    )
    axes.plot(list(shares), list(shares.values()), MARKERS[0] + "-", color=COLOURS[0], label="decompositions")
    other = axes.twinx()
    other.plot(list(moved), list(moved.values()), MARKERS[1] + "--", color=COLOURS[1], label="MB of the collectives")
    other.set(ylabel="MB of the collectives' results", ylim=(0, None))
    other.spines["right"].set_visible(True)
    other.grid(visible=False)
    axes.set_ylim(0, None)
    axes.set_xticks(list(shares))
    other.legend(handles=[*axes.lines, *other.lines], loc="upper right")
    return bool(shares)


def _found(rows: Sequence[Row], pattern: str) -> list[Row]:
    return [row for row in rows if re.match(pattern, row.name)]


def main() -> None:
    """Draws `performance.png` anew from `results.json`."""
    folder = pathlib.Path(__file__).parent
    entries = json.loads((folder / "results.json").read_text())["rows"]
    names = {field.name for field in dataclasses.fields(Row)}
    draw(folder / "performance.png", [Row(**{key: entry[key] for key in names}) for entry in entries])


if __name__ == "__main__":
    main()
