"""Memory that a train step needs of each device: `python -m benchmarks.fits PRESET [options as for training]`."""
# SPDX-License-Identifier: Apache-2.0

import sys

import jax

from benchmarks.programs import compile_for_mesh
from experiments.presets import from_command_line


def main() -> int:
    """Compiles the step for the devices at hand, allocating nothing, and prints the compiler's memory analysis."""
    config = from_command_line(prog="python -m benchmarks.fits")
    try:
        memory = compile_for_mesh(config).memory_analysis()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if memory is None:
        print(f"error: the {jax.default_backend()} backend does not analyse memory.", file=sys.stderr)
        return 1
    held, temporary = memory.argument_size_in_bytes / 1e9, memory.temp_size_in_bytes / 1e9
    print(
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, each: {held:.3g} GB state and tokens + "
        f"{temporary:.3g} GB temporaries = {held + temporary:.3g} GB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
