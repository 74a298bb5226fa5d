"""Runs the tests that need eight devices, each file in a process whose CPU is split into eight."""
# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "tests" / "on_eight_devices").glob("test_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_on_eight_devices(file: pathlib.Path, pytestconfig: pytest.Config) -> None:
    # Collectives and trip counts are decided before LLVM, whose passes tests skip.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    # Where coverage is measured, the lines that run there count; pytest-cov finds the file it leaves.
    measured = ["-m", "coverage", "run", "--parallel-mode", "--source=optax_alphadecay"]
    command = [
        *(sys.executable, *(measured if pytestconfig.getoption("cov_source", None) else [])),
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", str(file)),
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout
