"""Compiles whole train steps for TPU pods that are not there: `python -m benchmarks.tpu`. Needs libtpu, but no TPU."""
# SPDX-License-Identifier: Apache-2.0

import collections
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Literal

# Before jax is imported: without them, libtpu asks the cloud what it runs on.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import jax
import numpy as np
import rich.console
import tyro
from jax.experimental import topologies

from benchmarks import hlo, report
from benchmarks.programs import compile_for_mesh, preset
from experiments.config import Config

Method = Literal["uniform", "alphadecay", "stochastic", "adamc", "scion", "scionc"]
_COLUMNS = (
    "model",
    "chips",
    "method",
    "compile time",
    "state, MB a chip",
    "temporaries, MB a chip",
    "added",
    "collectives of the refresh or of orthogonalising",
    "MB a chip that they move",
    "in loops",
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compile. Every model is compiled for every topology with uniform decay, and as `methods` say."""

    models: tyro.conf.Positional[tuple[Literal["60m", "135m", "350m", "1b", "7b"], ...]] = ("1b", "7b")
    """Presets."""
    topologies: tuple[str, ...] = ("v5e:4x4", "v5e:16x16")
    """TPU slices, as libtpu names them."""
    methods: tuple[Literal["alphadecay", "stochastic", "adamc", "scion", "scionc"], ...] = ("alphadecay", "stochastic")
    """alphadecay: with exact eigenvalues (Jacobi). stochastic: with the stochastic solver."""
    fsdp: int = 0
    """Chips that share one copy of the weights; 0 means all."""
    out: pathlib.Path = pathlib.Path(__file__).parent / "tpu.md"
    """The report."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What there is to know of a compiled step."""

    seconds: float
    """To trace, partition and compile."""
    state: float
    """MB a chip: parameters, optimizer state and tokens."""
    temporaries: float
    """MB a chip, at the peak."""
    collectives: collections.Counter[str]
    """Opcodes in branches of conditionals, where the refresh is alone, and the all-to-alls of every step."""
    moved: float
    """MB a chip: results of those collectives."""
    in_loops: int
    """How many of those collectives are in loops."""


def compile_step(config: Config, mesh: jax.sharding.Mesh) -> Program:
    """Compiles the step of a run for a mesh of chips that need not be there.

    Args:
        config: The run.
        mesh: Axes `data` and `fsdp` of devices of a topology.

    Returns:
        Its measures.
    """
    start = time.perf_counter()
    compiled = compile_for_mesh(config, mesh)
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    if memory is None:
        raise ValueError("this compiler does not analyse memory; use another version of libtpu.")
    moves = [each for each in hlo.in_branches(text) if each.opcode in hlo.COLLECTIVES]
    moves += [each for each in hlo.run_each_time(text) if each.opcode == "all-to-all"]
    looped = [each for each in hlo.in_loops_of_branches(text) if each.opcode in hlo.COLLECTIVES]
    return Program(
        seconds,
        memory.argument_size_in_bytes / 1e6,
        memory.temp_size_in_bytes / 1e6,
        collections.Counter(each.opcode for each in moves),
        sum(each.num_bytes for each in moves) / 1e6,
        len(looped),
    )


def mesh_of(topology: str, fsdp: int) -> jax.sharding.Mesh:
    """Chips of a topology as `data` x `fsdp`.

    Args:
        topology: For instance `v5e:4x4`.
        fsdp: Chips that share one copy of the weights; 0 means all.

    Returns:
        The mesh. Programs can be compiled for it, and not run.

    Raises:
        ValueError: If `fsdp` does not divide the number of chips.
    """
    chips: np.ndarray = np.array(topologies.get_topology_desc(topology, platform="tpu").devices)
    fsdp = fsdp or chips.size
    if chips.size % fsdp:
        raise ValueError(f"fsdp={fsdp} does not divide the {chips.size} chips of {topology}: choose a divisor.")
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.sharding.Mesh(chips.reshape(-1, fsdp), ("data", "fsdp"), axis_types=auto)


def config_of(model: str, method: Method, chips: int) -> Config:
    """The paper's run of a model: 512 sequences of 256 tokens in bfloat16, recomputing each block.

    Args:
        model: Name of the preset.
        method: How its weights decay.
        chips: Devices. A piece of the batch has at least one sequence for each.

    Returns:
        The run. On fewer than 64 chips the batch is cut into pieces of 64.
    """
    uniform = preset(model, "uniform")
    config = preset(model, "alphadecay", solver="stochastic") if method == "stochastic" else preset(model, method)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(uniform.model, compute_dtype="bfloat16", remat=True),
        accumulate=1 if chips >= 64 else uniform.batch_size // 64,
    )


def row(model: str, chips: int, method: Method, program: Program, uniform: Program) -> list[str]:
    """One line of the report."""
    added = program.temporaries - uniform.temporaries
    kinds = ", ".join(f"{count} {opcode}" for opcode, count in sorted(program.collectives.items()))
    return [
        model,
        str(chips),
        method,
        f"{program.seconds:.0f} s",
        f"{program.state:,.0f}",
        f"{program.temporaries:,.0f}",
        "" if program is uniform else f"{added:+,.1f} MB, {added / uniform.temporaries:+.2%}",
        kinds,
        f"{program.moved:,.1f}" if program.collectives else "",
        str(program.in_loops) if program.collectives else "",
    ]


def main(args: Sequence[str] | None = None) -> int:
    """Compiles, and writes the report after each program, so that a long run can be broken off.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0, or 1 without libtpu.
    """
    args = sys.argv[1:] if args is None else list(args)
    options = tyro.cli(Options, args=args, prog="python -m benchmarks.tpu")
    console = rich.console.Console(highlight=False)
    conditions = report.conditions(args, module="benchmarks.tpu", packages=("jax", "jaxlib", "libtpu", "optax", "flax"))
    rows: list[list[str]] = []
    for topology in options.topologies:
        try:
            mesh = mesh_of(topology, options.fsdp)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except RuntimeError as error:
            print(f"error: {topology}: {error}. Programs for TPUs need libtpu: pip install 'jax[tpu]'", file=sys.stderr)
            return 1
        for model in options.models:
            uniform = None
            methods: tuple[Method, ...] = ("uniform", *options.methods)
            for method in methods:
                try:
                    with console.status(f"Compiling {model} with {method} for {topology} ..."):
                        program = compile_step(config_of(model, method, mesh.size), mesh)
                except jax.errors.JaxRuntimeError as error:  # as when it does not fit in a chip's memory
                    first_line = str(error).partition("\n")[0]
                    rows.append([model, str(mesh.size), method, first_line, *[""] * (len(_COLUMNS) - 4)])
                else:
                    uniform = uniform or program
                    rows.append(row(model, mesh.size, method, program, uniform))
                console.print(" | ".join(rows[-1]), soft_wrap=True)
                table = report.table(_COLUMNS, rows)
                options.out.write_text(f"# Train steps compiled for TPUs\n\n{report.listed(conditions)}\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
