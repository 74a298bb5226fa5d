"""Reads compiled programs: which of their instructions run each time, and which only in a conditional's branch."""
# SPDX-License-Identifier: Apache-2.0

import collections
import re
from collections.abc import Iterable
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*?\s(?P<opcode>[a-z][a-z0-9\-]*)\(")
_CALLS = re.compile(
    r"\b(?:calls|to_apply|condition|body|(?:true|false|branch|called)_computations?)=(?:\{([^}]*)\}|(%?[\w.\-]+))"
)
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_HEAVY = {"while", "dot", "convolution", "sort", "fft", "triangular-solve", "cholesky"}


class Instruction(NamedTuple):
    """One instruction of a computation."""

    opcode: str
    """For instance `dot`, or `custom-call`."""
    target: str
    """The library function of a custom call; else empty."""
    calls: tuple[str, ...]
    """Names of the computations it runs: bodies, branches, fusions."""


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
    reached, todo = {entry}, [entry]
    found = []
    while todo:
        instructions = computations[todo.pop()]
        found += instructions
        for instruction in instructions:
            if instruction.opcode != "conditional":
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
            inside.append(Instruction(instruction["opcode"], target[1] if target else "", calls))
    return computations, entry
