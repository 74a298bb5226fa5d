"""The ready optimizers are the chains their documentation says."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

OPTIONS: dict[str, Any] = {"metric": oad.frobenius_norm(), "modules": {"w": True, "v": True, "b": False}}


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
            oad.adam(1e-2, 0.8, 0.95, 1e-6, weight_decay=0.1, **OPTIONS),
            optax.chain(oad.alphadecay(0.1, **OPTIONS), optax.adam(1e-2, 0.8, 0.95, 1e-6)),
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


def test_uniform_ratios_give_optax_adamw() -> None:
    options = {**OPTIONS, "assign": jnp.ones_like}
    ours, theirs = oad.adamw(1e-2, weight_decay=0.1, **options), optax.adamw(1e-2, weight_decay=0.1)
    for name, leaf in train(ours).items():
        np.testing.assert_allclose(leaf, train(theirs)[name], rtol=1e-6)
