"""Train steps compile for TPU topologies that are not there, with one resharding for each refresh."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

SMALL_STEP = """
import dataclasses, json, sys
from benchmarks import tpu

config = tpu.config_of("60m", sys.argv[1], chips=64)
model = dataclasses.replace(
    config.model, hidden_size=128, intermediate_size=344, num_heads=4, num_layers=3, vocab_size=512
)
data = dataclasses.replace(config.data, sequence_length=128)
config = dataclasses.replace(config, model=model, data=data, batch_size=16, accumulate=1)
program = tpu.compile_step(config, tpu.mesh_of("v5e:4x4", fsdp=0))
print(json.dumps({"collectives": program.collectives, "in_loops": program.in_loops, "moved": program.moved}))
"""


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'jax[tpu]'"
)


def compiled(method: str) -> dict[str, Any]:
    # Importing benchmarks.tpu sets the environment, so the process must be a new one.
    script = [sys.executable, "-c", SMALL_STEP, method]
    done = subprocess.run(script, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return program


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("method", ["alphadecay", "stochastic"])
def test_train_step_compiles_for_a_tpu_topology(method: str) -> None:
    program = compiled(method)
    # The other one brings the scores back: XLA makes it an all-reduce or an all-gather.
    assert program["collectives"].pop("all-to-all") == 1
    assert sum(program["collectives"].values()) == 1
    assert program["in_loops"] == 0
    # 21 modules on 16 chips are 2 rounds of 128 x 344, in float32.
    assert 2 * 128 * 344 * 4 <= program["moved"] * 1e6 < 2.1 * 128 * 344 * 4


@pytest.mark.slow
@needs_libtpu
def test_scion_moves_each_shape_there_and_back() -> None:
    """Of 16 chips, each orthogonalises its share of the 12, 6 and 3 matrices of a shape, in bfloat16."""
    program = compiled("scionc")
    assert program["collectives"] == {"all-to-all": 6}
    assert program["in_loops"] == 0
    # One round of each: 12 of 128 x 128, 6 of 128 x 344 and 3 of 344 x 128 on 16 chips, twice.
    assert program["moved"] * 1e6 == pytest.approx(2 * 2 * 128 * (128 + 2 * 344), rel=0.01)
