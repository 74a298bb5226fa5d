"""Measures the CPU time that tracing and compiling the update of many separate leaves takes."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optax_alphadecay as oad


class Seconds(NamedTuple):
    """CPU time, of all threads, until a program is ready to run."""

    trace: float
    """From Python to the compiler's input."""
    compile: float
    """From there to machine code."""


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


def measure(decay: optax.GradientTransformation, params: Any) -> Seconds:
    """Traces and compiles an update of Adam with this decay in front."""
    optimizer = optax.chain(decay, optax.adam(1e-3))
    state = jax.eval_shape(optimizer.init, params)
    jax.clear_caches()
    start = time.process_time()
    lowered = jax.jit(optimizer.update).lower(params, state, params)
    traced = time.process_time()
    lowered.compile()
    return Seconds(traced - start, time.process_time() - traced)


def main() -> None:
    """Prints one line a model: seconds with AlphaDecay, with uniform decay, and the ratio of the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, default=1000, help="number of separate matrices; 0 leaves them out")
    parser.add_argument("--layers", type=int, default=300, help="number of unscanned layers; 0 leaves them out")
    args = parser.parse_args()
    models = {
        f"{args.leaves} leaves": separate_leaves(args.leaves),
        f"{args.layers} layers": unscanned_layers(args.layers),
    }
    for name, params in models.items():
        if not params:
            continue
        uniform, ours = (measure(decay, params) for decay in (optax.add_decayed_weights(1e-3), oad.alphadecay(1e-3)))
        cells = [
            f"{part} {seconds:.1f} s" for seconds, part in zip((*ours, *uniform), 2 * Seconds._fields, strict=True)
        ]
        print(f"{name}: AlphaDecay {', '.join(cells[:2])}; uniform {', '.join(cells[2:])}; ratio", end=" ")
        print(f"{sum(ours) / sum(uniform):.1f}", flush=True)


if __name__ == "__main__":
    main()
