"""Which tests run a line of the library: their files are tried on a mutant of it, and they first."""
# SPDX-License-Identifier: Apache-2.0

import collections
import dataclasses
import json
import pathlib
import signal
from collections.abc import Mapping, Sequence, Set

import coverage
import pytest


@dataclasses.dataclass(frozen=True)
class Covering:
    """What a run of all tests without a mutant showed."""

    lines: Mapping[tuple[str, int], Set[str]]
    """Tests that run a line, by file and number. What runs at import only is not in it."""
    seconds: Mapping[str, float]
    """What each test takes, with the fixtures that it is the first to ask for."""

    def of(self, path: pathlib.Path, first: int, last: int) -> Set[str]:
        """The tests that run any of these lines; if none does, those that run any line of the file."""
        found = [tests for (file, line), tests in self.lines.items() if file == str(path) and first <= line <= last]
        found = found or [tests for (file, _), tests in self.lines.items() if file == str(path)]
        return frozenset[str]().union(*found)


def files_of(tests: Set[str]) -> list[str]:
    """The files that tests are in."""
    return sorted({test.partition("::")[0] for test in tests})


class Times:
    """A plugin of pytest that writes down what each test takes."""

    def __init__(self, file: pathlib.Path) -> None:
        self.file = file
        self.seconds: dict[str, float] = collections.defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds a test's set-up, call or tear-down."""
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        """Writes the file."""
        self.file.write_text(json.dumps(self.seconds))


class First:
    """A plugin of pytest that runs some tests first, file by file, the quickest file first.

    A test that takes a minute more than without a mutant, and five times as long, ends the process.
    """

    def __init__(self, tests: Set[str], seconds: Mapping[str, float]) -> None:
        self.tests = tests
        self.seconds = seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sorts the tests."""
        of_file: dict[pathlib.Path, float] = collections.defaultdict(float)
        for item in items:
            of_file[item.path] += self.seconds.get(item.nodeid, 0.0) * (item.nodeid in self.tests)

        def key(item: pytest.Item) -> tuple[bool, float, str, float]:
            return (
                item.nodeid not in self.tests,
                of_file[item.path],
                str(item.path),
                self.seconds.get(item.nodeid, 0.0),
            )

        items.sort(key=key)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Sets the alarm: its signal, which Python does not handle, ends a loop in compiled code too."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60 + int(5 * self.seconds.get(nodeid, 0.0)))


def read(covered: pathlib.Path, seconds: Sequence[pathlib.Path], root: pathlib.Path) -> Covering:
    """Reads what a run of all tests has written.

    Args:
        covered: By coverage.py, for `--cov-context=test`.
        seconds: By `Times`.
        root: Of the repository: paths become relative to it.
    """
    data = coverage.CoverageData(str(covered))
    data.read()
    lines = {}
    for measured in data.measured_files():
        path = str(pathlib.Path(measured).relative_to(root))
        for line, contexts in data.contexts_by_lineno(measured).items():
            if tests := frozenset(context.rpartition("|")[0] for context in contexts if context):
                lines[path, line] = tests
    return Covering(lines, {test: time for file in seconds for test, time in json.loads(file.read_text()).items()})
