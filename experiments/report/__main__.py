"""The command of the report: `python -m experiments.report`."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import pathlib
import sys
from collections.abc import Sequence

from experiments.command_line import ends_in_a_line
from experiments.report.document import write
from experiments.suites import store


@ends_in_a_line
def main(args: Sequence[str] | None = None) -> int:
    """Writes the report.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0, or 1 if the results cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description="Turns results (DIR/SCALE.jsonl, written by python -m experiments.suites) into DIR/report.md and "
        "DIR/figures/*.svg. DIR/notes.md, if there is one, becomes a section. The same results give the same bytes.",
    )
    parser.add_argument("--results", type=pathlib.Path, default=store.DIRECTORY, metavar="DIR",
                        help="folder of the results (default: results)")  # fmt: skip
    directory: pathlib.Path = parser.parse_args(args).results
    try:
        print(write(directory, directory))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
