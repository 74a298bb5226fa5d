"""Train steps compile for TPU topologies that are not there, with one resharding for each refresh."""
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import json
import pathlib
import subprocess
import sys

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


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'jax[tpu]'")
@pytest.mark.parametrize("method", ["alphadecay", "stochastic"])
def test_train_step_compiles_for_a_tpu_topology(method: str) -> None:
    # Importing benchmarks.tpu sets the environment, so the process must be a new one.
    script = [sys.executable, "-c", SMALL_STEP, method]
    done = subprocess.run(script, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program = json.loads(done.stdout.splitlines()[-1])
    # The other one brings the scores back: XLA makes it an all-reduce or an all-gather.
    assert program["collectives"].pop("all-to-all") == 1
    assert sum(program["collectives"].values()) == 1
    assert program["in_loops"] == 0
    # 21 modules on 16 chips are 2 rounds of 128 x 344, in float32.
    assert 2 * 128 * 344 * 4 <= program["moved"] * 1e6 < 2.1 * 128 * 344 * 4
