"""Tables and scalars of a state, on its own and inside an optimizer's."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

PARAMS: dict[str, Any] = {"layers": {"up": jax.random.normal(jax.random.key(0), (2, 8, 12))}, "head": jnp.ones((8, 9))}
RULE = oad.block_matrices(8, stacked=["layers"])


def trained_state() -> optax.OptState:
    optimizer = oad.adamw(1e-3, metric=oad.frobenius_norm(), modules=RULE)
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    return state


def test_table_names_every_module_of_a_nested_state() -> None:
    rows = oad.module_table(trained_state(), PARAMS, modules=RULE)
    assert [(row.name, row.shape) for row in rows] == [("layers/up/0", (8, 12)), ("layers/up/1", (8, 12))]
    squares = np.square(PARAMS["layers"]["up"]).sum(axis=(1, 2))
    np.testing.assert_allclose([row.score for row in rows], squares, rtol=1e-6)
    assert sorted(row.ratio for row in rows) == pytest.approx([2 / 3, 3.0])


def test_scalars_are_the_table_flattened() -> None:
    state = trained_state()
    rows = oad.module_table(state, PARAMS, modules=RULE)
    logged = oad.scalars(state, PARAMS, modules=RULE, prefix="decay")
    assert logged == {
        "decay/rejected": 0.0,
        **{f"decay/score/{row.name}": row.score for row in rows},
        **{f"decay/ratio/{row.name}": row.ratio for row in rows},
    }


def test_shapes_of_params_are_enough() -> None:
    shapes = jax.eval_shape(lambda: PARAMS)
    assert oad.module_table(trained_state(), shapes, modules=RULE) == oad.module_table(
        trained_state(), PARAMS, modules=RULE
    )


def test_wrong_states() -> None:
    with pytest.raises(ValueError, match="found 0"):
        oad.module_table(optax.adam(1e-3).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="found 2"):
        oad.scalars((trained_state(), trained_state()), PARAMS, modules=RULE)
    with pytest.raises(ValueError, match="holds 2 modules and params 0"):
        oad.module_table(trained_state(), PARAMS, modules=False)


def test_table_tells_modules_never_measured_from_refused_ones() -> None:
    params = {"broken": jnp.full((2, 8, 9), jnp.nan), "fine": jnp.ones((1, 8, 9))}
    optimizer = oad.alphadecay(
        0.1, metric=oad.frobenius_norm(), refresh_every=1, modules=optax.contrib.MuonDimensionNumbers(1, 2)
    )

    def table(state: Any) -> list[list[str]]:
        rows = oad.module_table(state, params, modules=optax.contrib.MuonDimensionNumbers(1, 2))
        return [line.split()[4:] for line in oad.format_table(rows).splitlines()[1:]]

    state = optimizer.init(params)
    assert table(state) == [["-", "1.000"]] * 3
    _, state = optimizer.update(params, state, params)
    assert table(state) == [["refused", "1.000"], ["refused", "1.000"], ["72.000", "1.000"]]
    _, state = optimizer.update(params, state, params | {"fine": params["fine"] * jnp.inf})
    assert table(state)[2] == ["72.000", "(refused)", "1.000"]


def test_table_without_modules_says_so() -> None:
    params = {"w": jnp.ones((8, 8))}
    rows = oad.module_table(oad.alphadecay(0.1, modules={"w": False}).init(params), params, modules={"w": False})
    assert oad.format_table(rows).startswith("no modules: every parameter keeps the base decay")
