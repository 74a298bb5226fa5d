"""Measures the CPU time and the memory that tracing and compiling the update of many separate leaves takes."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import concurrent.futures
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optax_alphadecay as oad

DECAYS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "AlphaDecay": oad.alphadecay,
    "uniform": optax.add_decayed_weights,
}


class Cost(NamedTuple):
    """What it takes until a program is ready to run, and to run it."""

    trace: float
    """CPU seconds of all threads from Python to the compiler's input."""
    compile: float
    """CPU seconds from there to machine code."""
    memory: float
    """MB by which the largest memory of the process grew meanwhile."""
    temporaries: float
    """MB that the compiled program needs beside its inputs and outputs."""


def separate_leaves(number: int) -> Any:
    """Square matrices of 64 x 64, each a leaf of its own."""
    return {f"layer_{at}": jax.ShapeDtypeStruct((64, 64), jnp.float32) for at in range(number)}


def unscanned_layers(number: int) -> Any:
    """Layers of a LLaMA of width 256: seven matrices with 256 eigenvalues each."""
    shapes = dict.fromkeys(("q", "k", "v", "o"), (256, 256)) | {
        "gate": (256, 688),
        "up": (256, 688),
        "down": (688, 256),
    }
    layer = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return {f"layer_{at}": dict(layer) for at in range(number)}


def measure(decay: str, leaves: int, layers: int) -> Cost:
    """Traces and compiles an update of Adam with this decay in front, in the process that it is called in.

    Args:
        decay: A key of `DECAYS`.
        leaves: Number of separate matrices, if `layers` is 0.
        layers: Number of unscanned layers.
    """
    params = unscanned_layers(layers) if layers else separate_leaves(leaves)
    optimizer = optax.chain(DECAYS[decay](1e-3), optax.adam(1e-3))
    state = jax.eval_shape(optimizer.init, params)
    before, start = _largest_memory(), time.process_time()
    lowered = jax.jit(optimizer.update).lower(params, state, params)
    traced = time.process_time()
    compiled = lowered.compile()
    done = time.process_time()
    analysis = compiled.memory_analysis()
    temporaries = analysis.temp_size_in_bytes / 1e6 if analysis else float("nan")
    return Cost(traced - start, done - traced, _largest_memory() - before, temporaries)


def _largest_memory() -> float:
    """The most that this process has held so far, in MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Prints a row of a table for each model: AlphaDecay, uniform decay, and the ratio of their CPU times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, nargs="*", default=(100, 300, 1000), help="numbers of separate matrices")
    parser.add_argument("--layers", type=int, nargs="*", default=(300,), help="numbers of unscanned layers")
    args = parser.parse_args()
    print("| matrices | AlphaDecay: trace, compile, memory, temporaries | uniform: the same | ratio of times |")
    print("|---|---:|---:|---:|")
    models = [(number, 0) for number in args.leaves] + [(0, number) for number in args.layers]
    for leaves, layers in models:
        ours, uniform = (in_a_process_of_its_own(decay, leaves, layers) for decay in DECAYS)
        name = f"{layers:,} unscanned layers of 7 matrices, N = 256" if layers else f"{leaves:,} leaves of 64 x 64"
        ratio = (ours.trace + ours.compile) / (uniform.trace + uniform.compile)
        print(f"| {name} | {_in_words(ours)} | {_in_words(uniform)} | {ratio:.1f} |", flush=True)


def in_a_process_of_its_own(decay: str, leaves: int, layers: int) -> Cost:
    """As `measure`; nothing is compiled or held yet in the process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(measure, decay, leaves, layers).result()


def _in_words(cost: Cost) -> str:
    return f"{cost.trace:.1f} s, {cost.compile:.1f} s, {cost.memory:.0f} MB, {cost.temporaries:.1f} MB"


if __name__ == "__main__":
    main()
