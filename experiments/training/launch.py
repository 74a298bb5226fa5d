"""What programs that train have in common: errors are explained instead of raised, and exit codes say what happened."""
# SPDX-License-Identifier: Apache-2.0

import sys

import jax
import rich.console

from experiments.config import RunConfig
from experiments.parallel import distributed
from experiments.training import preemption
from experiments.training.loop import resume, set_up
from experiments.training.preemption import Preempted, Preemption
from experiments.training.summary import finish
from experiments.training.task import Diverged, Task
from experiments.training.workdir import shared_settings


def launch(config: RunConfig, task: Task) -> int:
    """Trains and reports, and explains errors instead of raising them. Returns the exit code, as `main`."""
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True)
    try:
        with Preemption() as asked:
            return _train(config, asked, console, task)
    except OSError as error:
        print(
            f"error: {error}\nWhat was saved in {config.workdir} is intact. Free space on the disk, or mend what the "
            "message names: the same command then goes on from the newest checkpoint.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted. The same command goes on from the newest checkpoint.")
        return 130


def _train(config: RunConfig, asked: Preemption, console: rich.console.Console, task: Task) -> int:
    """Takes a run from wherever it is to its end. Returns the exit code; raises the OSError of a disk or of data."""
    try:
        distributed.join_processes()
        console.quiet = jax.process_index() > 0
        distributed.check_agreement(shared_settings(config, task.unit))
        run = set_up(config, asked, task)
    except (ValueError, FileNotFoundError) as error:
        distributed.end_if_left_alone(error)
        print(f"error: {error}", file=sys.stderr)
        return 1
    with run.resources:
        try:
            resume(run, console)
        except Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except Preempted:
            saved = run.checkpoints.latest() or "the start, for nothing was saved yet"
            console.print(f"Preempted (SIGTERM). The same command goes on from {saved}.")
            return preemption.EXIT_CODE
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            distributed.end_if_left_alone(error)
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(
                f"error: {str(error).splitlines()[0]} The run does not fit in memory: raise --accumulate or "
                "--mesh.fsdp, or pass --model.remat.",
                file=sys.stderr,
            )
            return 1
        finish(run, console)
    return 0
