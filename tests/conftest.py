"""What every test runs under: the CPU, quick compiles that are shared, strict rank promotion, and markers by folder."""
# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import shutil
import tempfile

# Set before jax is imported, and for child processes too; a platform named outside wins.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

from tests import compiler

compiler.compile_quickly()
jax.config.update("jax_numpy_rank_promotion", "raise")

# No deadline: the first example compiles. On CI the examples are the same in every run.
hypothesis.settings.register_profile("project", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("project")

pytest_plugins = ["tests.experiments.experiment_fixtures"]

_TESTS = pathlib.Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs in one folder for the session, its workers and their child processes."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="compiled-by-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        compiler.keep_programs(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their folder, and puts slow tests first: none is left for the end.

    The library's coverage is that of its own tests and doctests. Measuring it adds a quarter to the time of a test, so
    it is not measured in the others, which reach no lines that these leave out.
    """
    for item in items:
        if _TESTS / "experiments" in item.path.parents:
            item.add_marker("experiments")
        if _TESTS in item.path.parents and _TESTS / "library" not in item.path.parents:
            item.add_marker("no_cover")
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
