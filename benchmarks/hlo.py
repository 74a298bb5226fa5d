"""Reads compiled programs: which instructions run each time, which in branches or loops, and how many bytes move."""
# SPDX-License-Identifier: Apache-2.0

import collections
import math
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<result>.*?)\s(?P<opcode>[a-z][a-z0-9\-]*)\(")
_CALLS = re.compile(
    r"\b(?:calls|to_apply|condition|body|(?:true|false|branch|called)_computations?)=(?:\{([^}]*)\}|(%?[\w.\-]+))"
)
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
COLLECTIVES = {"all-gather", "all-reduce", "all-to-all", "collective-permute", "ragged-all-to-all", "reduce-scatter"}
"""Opcodes that move data between devices; the asynchronous ones are listed by these names too."""
_HEAVY = {"while", "dot", "convolution", "sort", "fft", "triangular-solve", "cholesky"}


class Instruction(NamedTuple):
    """One instruction of a computation."""

    opcode: str
    """For instance `dot`, or `custom-call`."""
    target: str
    """The library function of a custom call; else empty."""
    calls: tuple[str, ...]
    """Names of the computations it runs: bodies, branches, fusions."""
    trips: int
    """How often a loop runs its body, where the compiler knows; else 1."""
    num_bytes: int
    """Size of the result."""


def run_each_time(hlo: str) -> list[Instruction]:
    """Lists what runs whenever the program runs.

    Args:
        hlo: Text of a compiled module, as `jax.stages.Compiled.as_text` gives it.

    Returns:
        All instructions reachable from the entry without entering a branch of a conditional.

    Raises:
        ValueError: If this is not the text of a module, or calls a computation that is not in it.
    """
    computations, entry = _parse(hlo)
    if entry is None:
        raise ValueError("hlo has no ENTRY computation; pass compiled.as_text().")
    return _reached(computations, [entry], enter=lambda instruction: instruction.opcode != "conditional")


def in_branches(hlo: str) -> list[Instruction]:
    """Lists what runs in branches of conditionals, and in what they call; arguments as in `run_each_time`."""
    computations, _ = _parse(hlo)
    branches = {
        name for each in computations.values() for one in each if one.opcode == "conditional" for name in one.calls
    }
    return _reached(computations, branches)


def in_loops_of_branches(hlo: str) -> list[Instruction]:
    """Lists what runs in loops within branches of conditionals, and in what they call; as in `run_each_time`."""
    computations, _ = _parse(hlo)
    loops = {name for one in in_branches(hlo) if one.opcode == "while" for name in one.calls}
    return _reached(computations, loops)


def trips(hlo: str, wanted: Callable[[Instruction], bool]) -> list[int]:
    """Counts how often instructions run in one run of the program, if all its branches are taken.

    Args:
        hlo: As in `run_each_time`.
        wanted: Which instructions to count.

    Returns:
        The product of the trip counts of the loops around it, for every instruction wanted.
    """
    computations, entry = _parse(hlo)
    found: list[int] = []

    def visit(name: str, times: int) -> None:
        for instruction in computations[name]:
            found.extend([times] if wanted(instruction) else [])
            for called in instruction.calls:
                visit(called, times * instruction.trips)

    if entry is not None:
        visit(entry, 1)
    return found


def _reached(
    computations: dict[str, list[Instruction]],
    start: Iterable[str],
    enter: Callable[[Instruction], bool] = lambda instruction: True,
) -> list[Instruction]:
    """Instructions of the computations to start from and of those that they call."""
    reached = set(start)
    todo = list(reached)
    found = []
    while todo:
        instructions = computations[todo.pop()]
        found += instructions
        for instruction in filter(enter, instructions):
            new = set(instruction.calls) - reached
            if missing := new - computations.keys():
                raise ValueError(f"hlo calls {sorted(missing)} but does not hold them; pass all of the module.")
            reached |= new
            todo += new
    return found


def anywhere(hlo: str) -> list[Instruction]:
    """Lists all instructions of a program, whether it always runs them or not; arguments as in `run_each_time`."""
    computations, _ = _parse(hlo)
    return [instruction for instructions in computations.values() for instruction in instructions]


def heavy_work(instructions: Iterable[Instruction]) -> collections.Counter[str]:
    """Counts loops, matrix products, sorts and the like by their opcode, and library calls by their function."""
    return collections.Counter(
        instruction.target or instruction.opcode
        for instruction in instructions
        if instruction.opcode in _HEAVY or instruction.target
    )


def _parse(hlo: str) -> tuple[dict[str, list[Instruction]], str | None]:
    """The instructions of each computation, and the name of the entry."""
    computations: dict[str, list[Instruction]] = {}
    entry = None
    inside: list[Instruction] = []
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            inside = computations.setdefault(header["name"], [])
            entry = header["name"] if header["entry"] else entry
        elif instruction := _INSTRUCTION.match(line):
            target = _TARGET.search(line)
            called = ",".join(a or b for a, b in _CALLS.findall(line))
            calls = tuple(name.strip().removeprefix("%") for name in called.split(",") if name.strip())
            times = _TRIPS.search(line)
            inside.append(
                Instruction(
                    instruction["opcode"].removesuffix("-start"),
                    target[1] if target else "",
                    calls,
                    int(times[1]) if times else 1,
                    _num_bytes(instruction["result"], started=instruction["opcode"].endswith("-start")),
                )
            )
    return computations, entry


def _num_bytes(result: str, *, started: bool) -> int:
    """Size of an array or of a tuple of them, from its type; what is started asynchronously lists operands first."""
    arrays = [
        int(width or 8) * math.prod(int(size) for size in sizes.split(",") if size)
        for _, width, sizes in _ARRAY.findall(result)
        if sizes or not started  # scalars beside what is started are its context
    ]
    return sum(arrays[len(arrays) // 2 :] if started else arrays) // 8
