"""How a refresh grows with width and depth of the model, and what it asks of each device as these become more."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np

import optax_alphadecay as oad
from benchmarks import hlo
from benchmarks.measure import Row, ratio, take_turns
from benchmarks.programs import preset, weight_shapes, weights
from benchmarks.refresh import refresher
from experiments.config import Config
from experiments.models.llama import Llama
from experiments.parallel.sharding import abstract
from experiments.training.optimizers import MODULES
from optax_alphadecay.modules import resolve

_WIDTHS = (128, 256, 512, 1024)
_DEPTHS = (2, 4, 8, 16)
_DEVICES = (1, 2, 4, 8)


def growth(repeats: int) -> list[Row]:
    """Times a refresh of models of several widths and depths.

    Args:
        repeats: Turns to time.

    Returns:
        The ratio of each size to the smallest one.
    """
    widths = {f"width {width}": _resized(width, 2) for width in _WIDTHS}
    depths = {f"depth {depth}": _resized(256, depth) for depth in _DEPTHS}
    seconds = take_turns({name: refresher(weights(config)) for name, config in {**widths, **depths}.items()}, repeats)
    rows = []
    for smallest, *larger in (list(widths), list(depths)):
        rows += [ratio(f"refresh at {name} / at {smallest}", seconds, name, smallest) for name in larger]
    return rows


def by_devices(size: str) -> list[Row]:
    """Compiles a refresh of weights that are sharded over more and more devices, in a process that has so many.

    Args:
        size: Name of the preset.

    Returns:
        For each number of devices, rows on decompositions, collectives and bytes.
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={max(_DEVICES)}",
    }
    command = [sys.executable, "-m", "benchmarks.growth", size]
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [Row(**entry) for entry in json.loads(done.stdout)]


def _by_devices_here(size: str) -> list[Row]:
    shapes = weight_shapes(preset(size, "alphadecay"))
    modules = sum(stack.shape[0] for stack in resolve(shapes, MODULES))
    decay = oad.alphadecay(1e-5, modules=MODULES)
    rows = []
    for devices in _DEVICES:
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("fsdp",), axis_types=auto)
        states = jax.eval_shape(decay.init, shapes)
        params, state = (abstract(tree, mesh, Llama.spec_of) for tree in (shapes, states))
        text = jax.jit(decay.update).lower(params, state, params).compile().as_text() or ""
        decompositions = sum(hlo.trips(text, lambda each: "sytrd" in each.target))
        if not decompositions:
            raise ValueError("the compiled refresh has no call named *sytrd*; adapt the name to this version of jax.")
        moves = [each for each in hlo.in_branches(text) if each.opcode in hlo.COLLECTIVES]
        reshards = [each for each in moves if each.opcode != "all-gather"]
        name = f"{size} refresh on {devices} devices"
        share = math.ceil(modules / devices)
        rows += [
            Row(f"{name}: decompositions a device", decompositions, "", share, detail=f"{modules} modules"),
            Row(f"{name}: resharding collectives of its one size class", len(reshards), "", 1),
            Row(f"{name}: bytes of the collectives a device", sum(each.num_bytes for each in moves) / 1e6, "MB"),
        ]
    return rows


def _resized(width: int, depth: int) -> Config:
    config = preset("nano", "alphadecay")
    model = dataclasses.replace(
        config.model, hidden_size=width, intermediate_size=round(width * 8 / 3), num_layers=depth
    )
    return dataclasses.replace(config, model=model)


if __name__ == "__main__":
    print(json.dumps([dataclasses.asdict(row) for row in _by_devices_here(sys.argv[1])]))
