"""Pre-trains a LLaMA: `python -m experiments.train PRESET [options]`. Started again, it resumes."""
# SPDX-License-Identifier: Apache-2.0

import sys
from collections.abc import Sequence

from experiments.parallel import distributed
from experiments.presets import from_command_line
from experiments.training.language_modeling import LANGUAGE_MODELING
from experiments.training.launch import launch


@distributed.ends_together
def main(args: Sequence[str] | None = None) -> int:
    """Trains and reports.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0; 1 after an error that the message explains; 130 when interrupted (Ctrl-C); 143 when
        preempted (SIGTERM).
    """
    return launch(from_command_line(args), LANGUAGE_MODELING)


if __name__ == "__main__":
    sys.exit(main())
