"""What every test runs under: the CPU, strict rank promotion, and repeatable property tests on CI."""
# SPDX-License-Identifier: Apache-2.0

import os

# Set before jax is imported, and for child processes too; a platform named outside wins.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

# No deadline: the first example compiles. On CI the examples are the same in every run.
hypothesis.settings.register_profile("project", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("project")

pytest_plugins = ["tests.experiments.experiment_fixtures"]
