"""Breaks the library in small ways and counts what its tests notice: `make mutants`, on a clean work tree."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import functools
import importlib
import json
import math
import os
import pathlib
import random
import signal
import sys
import time
import traceback
from collections.abc import Sequence

import jax
import scipy.stats
import tyro
from cosmic_ray import mutating, plugins
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

from experiments.command_line import ends_in_a_line

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE, TESTS = ROOT / "optax_alphadecay", ROOT / "tests" / "library"
SECONDS, TIMES = 300, 5
"""Tests that take longer than that, and that many times as long as without a mutant, have noticed."""
LOADED = ("flax.nnx", "hypothesis.extra.numpy", "optax.contrib", "orbax.checkpoint", "pytest", "safetensors.numpy")
"""What tests import that takes long: each process is forked from one that has it. Of the library, it has nothing."""
OPTIONS = [
    "-x", "-q", "--doctest-modules", "-m", "not slow", "--rootdir", str(ROOT), "-p", "no:cacheprovider",
    "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
]  # fmt: skip
"""Of pytest."""
TESTS_OF = {
    "__main__": ["inspection/test_command"],
    "aliases": ["test_aliases", "test_errors"],
    "assignment": ["test_assignment", "test_fences", "test_errors", "test_properties"],
    "baselines": ["test_baselines", "test_errors"],
    "correction/module_norms": ["test_module_norms"],
    "correction/steady_state": ["test_steady_state", "test_errors"],
    "correction": ["test_corrected", "test_errors"],
    "decay": ["test_transform", "test_cautious", "test_errors", "test_baselines", "test_properties"],
    "decoupled": ["test_decoupled", "test_errors"],
    "distribution": ["test_metrics", "test_transform", "test_scion"],
    "grouping": ["test_grouping", "test_metrics"],
    "inspection/readers": [
        "inspection/test_readers", "inspection/test_torch_reader", "inspection/test_torch_files",
        "inspection/test_malicious_files", "inspection/test_inspector",
    ],
    "inspection/page": ["inspection/test_page", "inspection/test_command"],
    "inspection": [
        "inspection/test_measures", "inspection/test_inspector", "inspection/test_page", "inspection/test_command",
        "inspection/test_readers",
    ],
    "measurement": ["test_metrics", "test_transform"],
    "metrics": ["test_metrics", "test_errors", "test_monitoring"],
    "modules/named_axes": ["test_named_axes"],
    "modules": ["test_modules", "test_module_names", "test_rules", "test_explain", "test_errors"],
    "monitoring": ["test_monitoring", "test_explain"],
    "norms": ["test_norms", "test_scion", "test_errors"],
    "scion": ["test_scion", "test_errors"],
    "spectra/eigenvalues": ["test_eigenvalues", "test_metrics", "test_errors"],
    "spectra/lanczos": ["test_lanczos", "test_errors"],
    "spectra/marchenko_pastur": ["test_marchenko_pastur"],
    "spectra/powerlaw": ["test_powerlaw", "test_errors"],
    "spectra/tridiagonal": ["test_tridiagonal", "test_eigenvalues"],
    "state": ["test_state", "test_upgrade", "test_monitoring", "test_errors", "test_transform"],
    "transform": ["test_transform", "test_errors", "test_properties"],
    "upgrade": ["test_upgrade", "test_state"],
}  # fmt: skip
"""By the beginning of a file's path, the longest that fits: files of `tests/library` that should notice, in order."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Tries a random sample of the mutants in a database of cosmic-ray, each with the tests of the file it breaks."""

    database: pathlib.Path = ROOT / "mutants.sqlite"
    """What `cosmic-ray init` and its filter of operators have written; outcomes are added."""
    sample: int = 200
    """Mutants to try, at most."""
    seed: int = 0
    """Draws them, in this order, from all that are not filtered out."""
    minutes: float = math.inf
    """After which no further one is begun: what was tried is a sample, too."""
    all_tests: bool = True
    """Try all quick tests of the library on those that survive the tests of their file."""


def tests_of(path: pathlib.Path) -> list[str]:
    """What should notice a fault in a file of the library: its doctests, and files of `tests/library`."""
    name = path.relative_to(PACKAGE.name).with_suffix("").as_posix()
    part = max((each for each in TESTS_OF if f"{name}/".startswith(f"{each}/")), key=len)
    return [str(path), *(str((TESTS / f"{test}.py").relative_to(ROOT)) for test in TESTS_OF[part])]


def tests_pass(files: Sequence[str], log: pathlib.Path, seconds: float = math.inf) -> bool:
    """Runs the quick tests of files, up to the first that fails, in a process forked from this one.

    Args:
        files: Files and folders for pytest.
        log: What it prints.
        seconds: After which they are stopped, and have not passed.
    """
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            with log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.dont_write_bytecode = True
            code = int(importlib.import_module("pytest").main([*OPTIONS, *files]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@functools.cache
def seconds_unbroken(files: tuple[str, ...], log: pathlib.Path) -> float:
    """How long tests take without a mutant. Raises a ValueError if they fail: they would tell nothing."""
    start = time.monotonic()
    if not tests_pass(files, log):
        raise ValueError(f"The tests fail without a mutant: {' '.join(files)}; see {log}.")
    return time.monotonic() - start


def outcome_of(mutation: MutationSpec, log: pathlib.Path, *, all_tests: bool) -> WorkResult:
    """Breaks a file, runs its tests, and mends it."""
    stages = [tuple(tests_of(mutation.module_path)), *([(str(TESTS),)] if all_tests else [])]
    limits = {files: max(SECONDS, TIMES * seconds_unbroken(files, log)) for files in stages}
    operator = plugins.get_operator(mutation.operator_name)(**mutation.operator_args)
    with mutating.use_mutation(mutation.module_path, operator, mutation.occurrence) as (before, after):
        if after is None:
            raise ValueError(f"{mutation} cannot be made: write the database anew.")
        survived = all(tests_pass(files, log, limit) for files, limit in limits.items())
        diff = "".join(mutating._make_diff(before, after, mutation.module_path))
    outcome = TestOutcome.SURVIVED if survived else TestOutcome.KILLED
    return WorkResult(WorkerOutcome.NORMAL, log.read_text(errors="replace")[-2000:], outcome, diff)


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
    until, tried = time.monotonic() + 60 * options.minutes, list[WorkResult]()
    mutations, results = {item.job_id: item.mutations[0] for item in work.work_items}, dict(work.results)
    filtered = {job for job, result in results.items() if result.worker_outcome == WorkerOutcome.SKIPPED}
    jobs = sorted(mutations.keys() - filtered, key=lambda job: _key(mutations[job]))
    for job in random.Random(options.seed).sample(jobs, min(options.sample, len(jobs))):
        if time.monotonic() > until:
            break
        if job not in results:
            results[job] = outcome_of(mutations[job], log, all_tests=options.all_tests)
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

    survived = [result.diff for result in results if result.test_outcome == TestOutcome.SURVIVED]
    print(*survived, sep="\n")
    caught = len(results) - len(survived)
    interval = scipy.stats.binomtest(caught, len(results)).proportion_ci(method="exact")
    where = conditions(sys.argv[1:], module="benchmarks.mutants")
    counts = {"mutants": possible, "tried": len(results), "caught": caught, "interval": [interval.low, interval.high]}
    print(json.dumps({**where, "seed": options.seed, **counts}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
