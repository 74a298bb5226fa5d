"""What alphadecay adds to compiled programs: temporaries, time to compile, and work between refreshes."""
# SPDX-License-Identifier: Apache-2.0

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.hlo import heavy_work, run_each_time
from benchmarks.measure import Row
from benchmarks.programs import Method, compile_optimizer_step, compile_train_step, preset, unstacked, weight_shapes

_BATCH_SIZE, _LENGTH = 2, 256
_BUDGET_MB = 16.0


class _Program(NamedTuple):
    temporaries: float  # MB
    seconds: float  # to trace and compile
    work: Counter[str]  # heavy operations of every run of the program, those in branches left out


def programs(size: str) -> list[Row]:
    """Compiles steps with uniform decay and with alphadecay, and compares them.

    The optimizer alone does not clip: a program that holds clipped gradients has room for anything, and would hide
    the temporaries of a refresh.

    Args:
        size: Name of the preset.

    Returns:
        For each of three programs, rows on its temporaries, on what it does between refreshes, and on the time to
        compile it.
    """
    scanned = weight_shapes(preset(size, "uniform"))
    builders: dict[str, Callable[[Method], jax.stages.Compiled]] = {
        f"{size} train step": lambda method: compile_train_step(preset(size, method), _BATCH_SIZE, _LENGTH),
        f"{size} optimizer alone": lambda method: _optimizer_alone(size, method, scanned),
        f"{size} optimizer alone, not scanned": lambda method: _optimizer_alone(size, method, unstacked(scanned)),
    }
    return [row for name, build in builders.items() for row in _compare(name, build)]


def _optimizer_alone(size: str, method: Method, shapes: Any) -> jax.stages.Compiled:
    return compile_optimizer_step(preset(size, method, clip_norm=0.0), shapes)


def _compare(name: str, build: Callable[[Method], jax.stages.Compiled]) -> list[Row]:
    uniform, ours = _inspect(build, "uniform"), _inspect(build, "alphadecay")
    temporaries = ours.temporaries - uniform.temporaries
    operations = (ours.work - uniform.work).total()
    seconds = ours.seconds - uniform.seconds
    return [
        Row(
            f"{name}: temporaries added",
            temporaries,
            "MB",
            _BUDGET_MB,
            detail=f"{ours.temporaries:.1f} - {uniform.temporaries:.1f} MB",
        ),
        Row(
            f"{name}: operations added between refreshes",
            operations,
            "",
            0,
            detail="loops, matrix products, sorts, library calls",
        ),
        Row(f"{name}: compile time added", seconds, "s", detail=f"{ours.seconds:.1f} - {uniform.seconds:.1f} s"),
    ]


def _inspect(build: Callable[[Method], jax.stages.Compiled], method: Method) -> _Program:
    start = time.perf_counter()
    compiled = build(method)
    seconds = time.perf_counter() - start
    memory, hlo = compiled.memory_analysis(), compiled.as_text()
    if memory is None or hlo is None:
        raise ValueError(f"the {jax.default_backend()} backend does not show its programs; set JAX_PLATFORMS=cpu.")
    return _Program(memory.temp_size_in_bytes / 1e6, seconds, heavy_work(run_each_time(hlo)))
