"""How tests compile: quickly and once a session, or as users do where the compiled program is what is tested."""
# SPDX-License-Identifier: Apache-2.0

import os
from typing import Any

import jax

_QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false"
USERS_OPTIONS: dict[str, Any] = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
    "xla_llvm_disable_expensive_passes": False,
}
"""For `compiler_options` of `jax.jit` and of `compile`: undoes `compile_quickly`."""


def compile_quickly() -> None:
    """Compiles in half the time, here and in child processes, what tests run only once or twice.

    To be called before JAX compiles anything. `JAX_DISABLE_MOST_OPTIMIZATIONS=0` in the environment turns it off.
    """
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK_FLAGS}".strip()
        jax.config.update("jax_disable_most_optimizations", True)


def keep_programs(folder: str) -> None:
    """Keeps compiled programs in a folder, here and in child processes, because tests compile the same ones."""
    for name, value in {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0,
    }.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)
