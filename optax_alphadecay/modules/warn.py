"""Warnings that point at the user's own line."""
# SPDX-License-Identifier: Apache-2.0

import inspect
import warnings

# Packages between the user's line and this one; the last two wrap their functions.
_INSIDE = {"optax_alphadecay", "optax", "jax", "jaxlib", "flax", "contextlib", "functools"}


def warn(message: str) -> None:
    """Warn at the innermost line of the call stack that is outside of this package, Optax, JAX and Flax."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
