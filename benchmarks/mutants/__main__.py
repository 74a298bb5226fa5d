"""Breaks the library in small ways and counts what its tests notice: `make mutants`, on a clean work tree."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import importlib
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence

import jax
import pytest
import scipy.stats
import tyro
from cosmic_ray import mutating
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

from benchmarks.mutants.covering import Covering, First, Times, files_of, read
from experiments.command_line import ends_in_a_line

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "optax_alphadecay"
LOADED = ("flax.nnx", "hypothesis.extra.numpy", "optax.contrib", "orbax.checkpoint", "safetensors.numpy")
"""What tests import that takes long: each process is forked from one that has it. Of the library, it has nothing."""
OPTIONS = [
    "-x", "-q", "--doctest-modules", "--rootdir", str(ROOT), "-p", "no:cacheprovider",
    "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
]  # fmt: skip
"""Of pytest: tests and doctests, up to the first that fails."""
QUICK = [PACKAGE.name, "tests/library", "-m", "not slow"]
APART = "tests/library/test_sharding.py"
"""Tests on eight devices: slow, and in processes of their own, where coverage is not measured."""
COLLECTING = 600
"""Seconds for what comes before the first test; then each has an alarm of its own."""
OUTCOMES = {
    int(pytest.ExitCode.OK): TestOutcome.SURVIVED,
    int(pytest.ExitCode.TESTS_FAILED): TestOutcome.KILLED,
    int(pytest.ExitCode.INTERRUPTED): TestOutcome.KILLED,  # a file of tests cannot import the library
    int(pytest.ExitCode.USAGE_ERROR): TestOutcome.KILLED,  # tests/conftest.py cannot
    -signal.SIGALRM: TestOutcome.KILLED,
}
"""By exit code; all other ends of a process say nothing of the mutant, and do not count as caught."""
ON_MESHES = {f"{PACKAGE.name}/{name}.py" for name in ("distribution", "measurement", "norms/spread_stacks", "scion")}
"""The files that these tests are about."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Tries a random sample of the mutants in a database of cosmic-ray, each with the tests that run its line."""

    database: pathlib.Path = ROOT / "mutants.sqlite"
    """What `cosmic-ray init` and its filter of operators have written; outcomes are added."""
    sample: int = 200
    """Mutants to try, at most."""
    seed: int = 0
    """Draws them, in this order, from all that are not filtered out."""
    minutes: float = math.inf
    """After which no further one is begun: what was tried is a sample, too."""


def run_tests(log: pathlib.Path, plugins: Sequence[object], *options: str) -> int:
    """Runs pytest in a process forked from this one, and returns its exit code: minus a signal, if one ended it.

    Args:
        log: What it prints.
        plugins: Of pytest.
        options: More options of pytest, and where the tests are.
    """
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
            signal.alarm(COLLECTING)
            code = int(pytest.main([*OPTIONS, *options], plugins))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started, if an alarm ended it
    return os.waitstatus_to_exitcode(status)


def cover(log: pathlib.Path) -> Covering:
    """Runs the tests without a mutant, twice, the second time in the order in which mutants are tried.

    Raises:
        ValueError: If they fail: they would tell nothing; or if files differ from the commit.
    """
    if changed := subprocess.check_output(["git", "status", "--porcelain", PACKAGE.name, "tests"], text=True):
        raise ValueError(f"Commit these first, or put them back; they may hold a mutant: {changed.strip()}")
    data, seconds, apart = (log.with_suffix(end) for end in (".coverage", ".seconds", ".apart"))
    os.environ["COVERAGE_FILE"] = str(data)
    measured = (f"--cov={PACKAGE.name}", "--cov-context=test", "--cov-report=")
    failed = run_tests(log, [Times(seconds)], *QUICK, *measured) or run_tests(log, [Times(apart)], APART)
    covering = read(data, [seconds, apart], ROOT) if not failed else None
    if covering is None or run_tests(log, [First(frozenset(covering.seconds), covering.seconds)], *QUICK):
        raise ValueError(f"The tests fail without a mutant: see {log}.")
    return covering


def outcome_of(mutation: MutationSpec, log: pathlib.Path, covering: Covering) -> WorkResult:
    """Breaks a file, runs the files of tests that run the line, then those that run apart, and mends it."""
    path, (first, _), (last, _) = mutation.module_path, mutation.start_pos, mutation.end_pos
    tests = covering.of(path, first, last)
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    with mutating.use_mutation(path, operator, mutation.occurrence) as (before, after):
        if after is None:
            raise ValueError(f"{mutation} cannot be made: write the database anew.")
        plugin = First(tests, covering.seconds)
        # The last file has no tests: with it tests/conftest.py is read, where doctests are all there is.
        code = run_tests(log, [plugin], *files_of(tests), "tests/library/__init__.py", *QUICK[-2:])
        if code == 0 and str(path) in ON_MESHES:
            code = run_tests(log, [plugin], APART)
        diff = "".join(mutating._make_diff(before, after, path))
    outcome = OUTCOMES.get(code, TestOutcome.INCOMPETENT)
    said = f"exit code {code}\n{log.read_text(errors='replace')[-2000:]}"
    return WorkResult(WorkerOutcome.NORMAL, said, outcome, diff)


@ends_in_a_line
def main(args: Sequence[str] | None = None) -> int:
    """Tries mutants.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0; 1 if the tests fail without a mutant.
    """
    options = tyro.cli(Options, args=args, prog="python -m benchmarks.mutants")
    database = options.database.resolve()
    os.chdir(ROOT)
    os.environ["CI"] = "true"  # hypothesis: the same examples for all
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(database.with_suffix(".compiled")))
    for name, value in {"compilation_cache_dir": compiled, "persistent_cache_min_compile_time_secs": 0}.items():
        os.environ[f"JAX_{name.upper()}"] = str(value)
        jax.config.update(f"jax_{name}", value)
    jax.config.update("jax_platforms", "cpu")
    for module in LOADED:
        importlib.import_module(module)
    try:
        with use_db(str(database), WorkDB.Mode.open) as work:
            report(options, *try_mutants(options, work, database.with_suffix(".log")))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def try_mutants(options: Options, work: WorkDB, log: pathlib.Path) -> tuple[int, list[WorkResult]]:
    """Tries a sample until the time is up.

    Args:
        options: What to try.
        work: The database; what it has results for is not tried again.
        log: What tests print.

    Returns:
        How many mutants there are, and what came of those that were tried.
    """
    covering = cover(log)
    until, tried = time.monotonic() + 60 * options.minutes, list[WorkResult]()
    mutations, results = {item.job_id: item.mutations[0] for item in work.work_items}, dict(work.results)
    filtered = {job for job, result in results.items() if result.worker_outcome == WorkerOutcome.SKIPPED}
    jobs = sorted(mutations.keys() - filtered, key=lambda job: _key(mutations[job]))
    for job in random.Random(options.seed).sample(jobs, min(options.sample, len(jobs))):
        if time.monotonic() > until:
            break
        if job not in results:
            results[job] = outcome_of(mutations[job], log, covering)
            work.set_result(job, results[job])
        tried.append(results[job])
        path, operator, _ = _key(mutations[job])
        print(f"{len(tried)} {tried[-1].test_outcome}: {path}:{mutations[job].start_pos[0]} {operator}", flush=True)
    return len(jobs), tried


def _key(mutation: MutationSpec) -> tuple[str, str, int]:
    """Names a mutant of a commit."""
    return str(mutation.module_path), mutation.operator_name, mutation.occurrence


def report(options: Options, possible: int, results: Sequence[WorkResult]) -> None:
    """Prints the mutants that survive, and the share that was noticed with its exact interval, of 95 %."""
    from benchmarks.report import conditions  # counts devices, which a process that forks must not

    if not results:
        raise ValueError("No mutant was tried: give more --minutes or a larger --sample.")
    print(*(result.diff for result in results if result.test_outcome != TestOutcome.KILLED), sep="\n")
    caught = sum(result.test_outcome == TestOutcome.KILLED for result in results)
    interval = scipy.stats.binomtest(caught, len(results)).proportion_ci(method="exact")
    where = conditions(sys.argv[1:], module="benchmarks.mutants")
    counts = {"mutants": possible, "tried": len(results), "caught": caught, "interval": [interval.low, interval.high]}
    print(json.dumps({**where, "seed": options.seed, **counts}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
