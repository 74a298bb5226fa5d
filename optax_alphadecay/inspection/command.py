"""The command: `python -m optax_alphadecay PATH ...`, also called `optax-alphadecay`."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import contextlib
import math
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from optax.contrib import MuonDimensionNumbers

from optax_alphadecay.inspection import output, table
from optax_alphadecay.inspection.inspector import inspect
from optax_alphadecay.inspection.records import COLUMNS, Inspection
from optax_alphadecay.inspection.summary import sentences, unmatched
from optax_alphadecay.inspection.tensors import CheckpointError, natural_key, printable, require
from optax_alphadecay.modules import BlockMatrices, block_matrices


def main(arguments: Sequence[str] | None = None) -> int:
    """Inspect checkpoints and show the result.

    Args:
      arguments: the command line; None takes the process's.

    Returns:
      The exit code: 0; after one line on stderr 1, 2 if the command line is not understood, or 130 at Ctrl-C.
    """
    try:
        options = _parser().parse_args(arguments)
        table.check(_view(options))
        _rule(options)
    except ValueError as error:
        return _failed(error, code=2)
    try:
        _run(options)
    except KeyboardInterrupt:
        how = (
            f"the same command goes on from {options.resume}" if options.resume else "with --resume FILE it could go on"
        )
        return _failed(f"interrupted; {how}", code=130)
    except (ValueError, OSError) as error:
        return _failed(error)
    return 0


def _failed(why: object, code: int = 1) -> int:
    print(f"optax-alphadecay: {printable(' '.join(str(why).split()))}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, for main to print."""
        raise CheckpointError(f"{message}; --help lists the options")


_PATHS = (
    "a file or folder: safetensors (shards too), Orbax, .npz, .npy, or PyTorch's .pt, .pth, .bin and .ckpt; of float64,"
    " float32, float16, bfloat16 or float8"
)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="optax-alphadecay",
        description="Measure the spectra of the weight matrices of a checkpoint, or compare several checkpoints.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help=f"{_PATHS}; several are compared, in order of their names"
    )
    choose = parser.add_argument_group("which tensors are modules")
    choose.add_argument(
        "--all", action="store_true", help="embeddings, output heads and all other matrices of any size too"
    )
    choose.add_argument(
        "--exclude", action="append", default=[], type=_pattern, metavar="REGEX", help="leave out names"
    )
    choose.add_argument(
        "--axes",
        action="append",
        default=[],
        type=_axes,
        metavar="REGEX=IN:OUT",
        help="axes of tensors with more than two, as 'conv.*=1:0' or 'query/kernel$=0:1,2'; the others are stacked",
    )
    choose.add_argument(
        "--stacked",
        action="append",
        default=[],
        type=_stacked,
        metavar="NAME[=AXIS]",
        help="part of the model whose tensors hold all layers, along their first axis or this one",
    )
    choose.add_argument("--min-eigenvalues", type=int, metavar="N", help="leave out smaller ones (50); not with --all")
    measure = parser.add_argument_group("what is measured")
    measure.add_argument("--weight-decay", type=_rate, default=0.1, metavar="RATE", help="base rate (0.1)")
    measure.add_argument("--no-shuffle", action="store_true", help="no correlation traps: half the time")
    measure.add_argument("--seed", type=int, default=0, help="of the shuffling (0)")
    measure.add_argument("--resume", type=pathlib.Path, metavar="FILE", help="keep what is measured, and go on from it")
    _add_views(parser)
    return parser


def _add_views(parser: argparse.ArgumentParser) -> None:
    show = parser.add_argument_group("what is shown")
    show.add_argument(
        "--columns",
        default=table.DEFAULT_COLUMNS,
        help="of one checkpoint's table: any of " + ", ".join(COLUMNS) + "; or as they are headed in the table",
    )
    show.add_argument("--sort", default="", metavar="COLUMN", help="--sort=-alpha sorts from the largest")
    show.add_argument("--match", default="", type=_pattern, metavar="REGEX", help="only modules with such a name")
    show.add_argument("--where", action="append", default=[], metavar="CONDITION", help="only those, as 'alpha > 3'")
    show.add_argument("--top", type=_count, metavar="N", help="only the first N")
    show.add_argument("--left-out", action="store_true", help="list what was left out, and why")
    records = "records of all modules"
    for kind, what in (("json", records), ("csv", records), ("html", "report, a page that needs no network")):
        show.add_argument(f"--{kind}", type=pathlib.Path, metavar="FILE", help=f"write the {what}")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of modules: give 0 or more")
    return int(text)


def _rate(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (rate := float(text)) < math.inf:
            return rate
    raise argparse.ArgumentTypeError(f"{text!r} is no rate of decay: give a number of at least 0")


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from error
    return text


def _axes(text: str) -> tuple[str, bool | MuonDimensionNumbers]:
    """Parse ``REGEX=IN:OUT``, each side one axis or several with commas."""
    pattern, _, sides = text.rpartition("=")
    try:
        reduction, output = (tuple(int(axis) for axis in side.split(",")) for side in sides.split(":"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write 'REGEX=IN:OUT', for instance 'conv.*=1:0'") from error
    return _pattern(pattern), MuonDimensionNumbers(reduction, output)


def _stacked(text: str) -> tuple[str, int]:
    """Parse ``NAME`` or ``NAME=AXIS``."""
    name, _, axis = text.partition("=")
    try:
        return name, int(axis or 0)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write 'NAME=AXIS', for instance 'layers=1'") from error


def _rule(options: argparse.Namespace) -> BlockMatrices:
    """Make the rule that the options ask for; patterns count in their order, and --all is the last of them."""
    if options.all and options.min_eigenvalues is not None:
        raise CheckpointError(f"--all takes any size, against --min-eigenvalues {options.min_eigenvalues}: give one")
    axes = dict(options.axes) | ({".*": True} if options.all else {})
    smallest = 50 if options.min_eigenvalues is None else options.min_eigenvalues
    return block_matrices(smallest, stacked=dict(options.stacked), axes=axes)


def _view(options: argparse.Namespace) -> table.View:
    return table.View(options.columns, options.sort, options.match, tuple(options.where), options.top)


def _run(options: argparse.Namespace) -> None:
    view = _view(options)
    _check_files(options)
    rich_console = require("rich.console", "this command", "'optax-alphadecay[inspect]'")
    rule = _rule(options)
    paths = sorted(options.paths, key=natural_key)
    with _progress(rich_console) as report:
        inspections = [
            inspect(
                path,
                modules=rule,
                exclude=options.exclude,
                weight_decay=options.weight_decay,
                shuffle=not options.no_shuffle,
                seed=options.seed,
                resume=options.resume,
                on_progress=lambda share, name, at=at: report((at + share) / len(paths), name),  # type: ignore[misc]
            )
            for at, path in enumerate(paths)
        ]
    console = rich_console.Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    found = any(map(len, inspections))
    # Files come first, since a closed pipe ends the command; what failed is told when the table is shown.
    written, failed = _write(options, inspections) if found else ([], [])
    if found:
        _show(console, inspections, view)
    if options.left_out:
        for inspection in inspections:
            table.print_left_out(console, inspection)
    for path, inspection in zip(paths, inspections, strict=True):
        if inspection.source != (given := printable(str(pathlib.Path(path)))):
            console.print(f"Of {given}, {inspection.source} was read.", markup=False, soft_wrap=True)
    for path in written:
        console.print(f"Wrote {path}, with all modules.", markup=False, soft_wrap=True)
    empty = [f"{each.source}: {' '.join(sentences(each))}" for each in inspections if not len(each)]
    if empty and found:
        console.print(*empty, sep="\n", markup=False, soft_wrap=True)
    elif empty:
        raise CheckpointError(" ".join(empty))
    if failed:
        raise CheckpointError(" ".join(failed))


def _check_files(options: argparse.Namespace) -> None:
    """Raise a CheckpointError if a file that will be written is one that is read, or another, or has no folder."""
    taken = {pathlib.Path(path).resolve(): "the checkpoint" for path in options.paths}
    for kind in ("resume", "json", "csv", "html"):
        if (path := getattr(options, kind)) is None:
            continue
        if not path.parent.is_dir():
            raise CheckpointError(f"--{kind} {path}: there is no folder {path.parent}; make it, or name another")
        if other := taken.get(path.resolve()):
            raise CheckpointError(f"--{kind} {path} would overwrite {other}; name another file")
        taken[path.resolve()] = f"--{kind}'s file"


def _show(console: Any, inspections: Sequence[Inspection], view: table.View) -> None:
    if len(inspections) > 1:
        table.print_comparison(console, inspections, view)
        told = dict.fromkeys(sentence for inspection in inspections for sentence in unmatched(inspection))
        console.print(*told, sep="\n", end="\n" if told else "", markup=False, soft_wrap=True)
        return
    table.print_table(console, inspections[0], view)
    for sentence in sentences(inspections[0]):
        console.print(sentence, markup=False, soft_wrap=True)


def _write(options: argparse.Namespace, inspections: Sequence[Inspection]) -> tuple[list[pathlib.Path], list[str]]:
    """Write the files that are asked for; list those that are written, and why others are not."""
    writers = {"json": output.write_json, "csv": output.write_csv, "html": output.write_html}
    written, failed = [], []
    for kind, path in ((kind, getattr(options, kind)) for kind in writers if getattr(options, kind)):
        try:
            writers[kind](path, inspections)
            written.append(path)
        except OSError as error:
            kept = f"what was measured is in {options.resume}" if options.resume else "--resume FILE keeps measurements"
            failed.append(f"--{kind} {path} cannot be written: {error.strerror or error}; name another file ({kept})")
    return written, failed


@contextlib.contextmanager
def _progress(rich_console: Any) -> Iterator[Callable[[float, str], None]]:
    """Show a bar with the time left on stderr, if that is a terminal."""
    rich_progress = require("rich.progress", "this command", "'optax-alphadecay[inspect]'")
    console = rich_console.Console(stderr=True)
    columns = [
        rich_progress.BarColumn(),
        rich_progress.TaskProgressColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[name]}", markup=False),
    ]
    with rich_progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0, name="")
        yield lambda share, name: bar.update(task, completed=share, name=name)
