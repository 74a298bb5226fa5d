"""Tests with models and trainers of others, as they are on PyPI: run with `make test-clients`."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable
from typing import ParamSpec

import jax
import pytest

Arguments = ParamSpec("Arguments")


def with_their_code(test: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Lets code of others promote ranks and warn. Our own warnings stay errors: the last filter that matches holds."""

    @pytest.mark.filterwarnings("ignore", "error:alphadecay")
    @functools.wraps(test)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        with jax.numpy_rank_promotion("allow"):
            test(*args, **kwargs)

    return wrapped
