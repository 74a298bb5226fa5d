"""The ready optimizers are the chains their documentation says."""
# SPDX-License-Identifier: Apache-2.0

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

OPTIONS: dict[str, Any] = {"metric": oad.frobenius_norm(), "modules": {"w": True, "v": True, "b": False}}


UNIFORM_ADAMW = functools.partial(oad.adamw, **OPTIONS, assign=jnp.ones_like)


def train(optimizer: optax.GradientTransformation) -> dict[str, jax.Array]:
    key = jax.random.key(0)
    params = {"w": jax.random.normal(key, (4, 5)), "v": jnp.eye(3), "b": jnp.ones(5)}
    state = optimizer.init(params)
    for step in range(4):
        gradients = jax.tree.map(lambda leaf, step=step: jnp.sin(leaf + step), params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("alias", "chain"),
    [
        (
            oad.adam(1e-2, 0.8, 0.95, 1e-6, 1e-4, jnp.bfloat16, nesterov=True, weight_decay=0.1, **OPTIONS),
            optax.chain(
                oad.alphadecay(0.1, **OPTIONS), optax.adam(1e-2, 0.8, 0.95, 1e-6, 1e-4, jnp.bfloat16, nesterov=True)
            ),
        ),
        (
            oad.adamw(1e-2, 0.8, 0.95, 1e-6, weight_decay=0.1, **OPTIONS),
            optax.chain(
                optax.scale_by_adam(0.8, 0.95, 1e-6),
                oad.alphadecay(0.1, **OPTIONS),
                optax.scale_by_learning_rate(1e-2),
            ),
        ),
    ],
    ids=["adam", "adamw"],
)
def test_alias_is_its_chain(alias: Any, chain: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, train(alias), train(chain))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1e-2,), {"weight_decay": 0.1}),
        ((1e-2, 0.8, 0.95, 1e-6, 1e-4, jnp.bfloat16, 0.1, {"w": True, "v": False, "b": True}), {}),
        ((1e-2,), {"weight_decay": 0.1, "nesterov": True, "eps_root": 1e-4, "mask": lambda params: True}),
    ],
)
def test_replacing_the_name_of_optax_adamw_is_enough(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Where the ratios are 1."""
    found, wanted = (train(make(*args, **kwargs)) for make in (UNIFORM_ADAMW, optax.adamw))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_signatures_begin_with_those_of_optax(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(package, name)).parameters for package in (oad, optax))
    positional = [key for key, value in theirs.items() if value.kind is not value.KEYWORD_ONLY]
    assert list(ours)[: len(positional)] == positional
    assert theirs.keys() <= ours.keys()
    for key in theirs.keys() - {"weight_decay"}:
        assert ours[key].default == theirs[key].default
