"""Tables and scalars of a state, on its own and inside an optimizer's."""
# SPDX-License-Identifier: Apache-2.0

import math
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

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
    logged = oad.scalars(state, PARAMS, modules=RULE, prefix="decay", weight_decay=0.5, learning_rate=1e-2)
    scores, ratios = np.array([row.score for row in rows]), np.array([row.ratio for row in rows])
    assert logged == {
        "decay/rejected": 0.0,
        "decay/refused": 0.0,
        "decay/fenced": 0.0,
        "decay/score_mean": pytest.approx(scores.mean()),
        "decay/score_std": pytest.approx(scores.std()),
        "decay/ratio_mean": pytest.approx(ratios.mean()),
        "decay/ratio_std": pytest.approx(ratios.std()),
        **{f"decay/score/{row.name}": row.score for row in rows},
        **{f"decay/ratio/{row.name}": row.ratio for row in rows},
        **{f"decay/norm/{row.name}": row.norm for row in rows},
        **{f"decay/decay/{row.name}": pytest.approx(0.5 * row.ratio) for row in rows},
        **{f"decay/decay_per_step/{row.name}": pytest.approx(0.005 * row.ratio) for row in rows},
        **{f"decay/timescale/{row.name}": pytest.approx(200 / row.ratio) for row in rows},
    }
    norms = np.sqrt(np.square(PARAMS["layers"]["up"]).sum(axis=(1, 2)))
    np.testing.assert_allclose([row.norm for row in rows], norms, rtol=1e-6)


def test_the_decay_per_step_is_what_weights_lose() -> None:
    """Without gradients, a step of AdamW is decay alone."""
    optimizer = oad.adamw(0.01, weight_decay=0.5, metric=oad.frobenius_norm(), modules=RULE)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, state = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    logged = oad.scalars(state, PARAMS, modules=RULE, weight_decay=0.5, learning_rate=0.01)
    for layer in (0, 1):
        lost = -updates["layers"]["up"][layer] / PARAMS["layers"]["up"][layer]
        np.testing.assert_allclose(lost, logged[f"alphadecay/decay_per_step/layers/up/{layer}"], rtol=1e-5)
    table = oad.format_table(oad.module_table(state, PARAMS, modules=RULE), weight_decay=0.5, learning_rate=0.01)
    headings, first, _ = (line.split() for line in table.splitlines())
    assert headings == ["module", "shape", "score", "ratio", "norm", "decay", "per", "step", "steps"]
    per_step, steps = map(float, first[-2:])
    assert per_step * steps == pytest.approx(1, rel=1e-2)
    with pytest.raises(ValueError, match=r"format_table: learning_rate=0\.01 needs the weight_decay"):
        oad.format_table(oad.module_table(state, PARAMS, modules=RULE), learning_rate=0.01)
    idle = oad.scalars(state, PARAMS, modules=RULE, weight_decay=0.5, learning_rate=0.0)
    assert idle["alphadecay/timescale/layers/up/0"] == math.inf


def test_table_marks_fenced_modules() -> None:
    params = {name: jnp.full((2, 2), value) for name, value in {"a": 2.2, "b": 501.0, "c": 3.5}.items()}
    optimizer = oad.alphadecay(0.1, metric=lambda weights, gradients: weights[:, 0, 0], modules=True)
    _, state = optimizer.update(params, optimizer.init(params), params)
    rows = oad.module_table(state, params, modules=True)
    assert [row.fenced for row in rows] == [False, True, False]
    assert oad.format_table(rows).splitlines()[2].split() == [
        "b",
        "2",
        "x",
        "2",
        "501.000",
        "(fenced)",
        "3.000",
        "1e+03",
    ]
    assert oad.scalars(state, params, modules=True)["alphadecay/fenced"] == 1


def test_table_of_other_modules_of_the_same_number_is_refused() -> None:
    params = {name: jnp.ones((2, 2)) for name in "ab"}
    state = oad.alphadecay(0.1, modules={"a": True, "b": False}).init(params)
    with pytest.raises(ValueError, match=r"the state is of other modules than b; pass the params, modules"):
        oad.module_table(state, params, modules={"a": False, "b": True})
    rows = oad.module_table(oad.request_refresh(state), params, modules={"a": True, "b": False})
    assert [row.name for row in rows] == ["a"]


def test_states_as_dictionaries() -> None:
    state = trained_state()
    rows = oad.module_table(state, PARAMS, modules=RULE)
    assert oad.module_table(flax.serialization.to_state_dict(state), PARAMS, modules=RULE) == rows
    with pytest.raises(ValueError, match=r"lacks age, fenced, fingerprint, .*upgrade_state"):
        oad.module_table(oad.state_v1(state)[1]._asdict(), PARAMS, modules=RULE)


def test_state_of_an_nnx_optimizer() -> None:
    model = nnx.Linear(8, 9, rngs=nnx.Rngs(0))
    rule = oad.block_matrices(8)
    optimizer = nnx.Optimizer(model, oad.adamw(1e-3, metric=oad.frobenius_norm(), modules=rule), wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    params = nnx.state(model, nnx.Param)
    for state in (optimizer.opt_state, nnx.state(optimizer), nnx.to_pure_dict(nnx.state(optimizer))):
        (row,) = oad.module_table(state, params, modules=rule)
        assert row.score == pytest.approx(float(jnp.sum(model.kernel[...] ** 2)), rel=1e-2)


def test_shapes_of_params_are_enough() -> None:
    shapes = jax.eval_shape(lambda: PARAMS)
    found = oad.module_table(trained_state(), shapes, modules=RULE)
    wanted = oad.module_table(trained_state(), PARAMS, modules=RULE)
    assert [row[:-1] for row in found] == [row[:-1] for row in wanted]
    assert all(math.isnan(row.norm) for row in found)
    assert "norm" not in oad.format_table(found)
    assert not [key for key in oad.scalars(trained_state(), shapes, modules=RULE) if "norm" in key]


def test_wrong_states() -> None:
    with pytest.raises(ValueError, match="found 0"):
        oad.module_table(optax.adam(1e-3).init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="found 2"):
        oad.scalars((trained_state(), trained_state()), PARAMS, modules=RULE)
    with pytest.raises(ValueError, match="holds 2 modules and params 0"):
        oad.module_table(trained_state(), PARAMS, modules=False)


def test_tables_are_made_outside_of_jit() -> None:
    state, other = trained_state(), jax.tree.map(jnp.ones_like, PARAMS)
    norms = oad.module_norms(
        optax.sgd(0.1), PARAMS, optax.sgd(0.1).init(PARAMS), PARAMS, learning_rate=0.1, modules=RULE
    )
    inside: list[tuple[str, Any]] = [
        ("module_table", lambda tree: oad.module_table(tree[0], tree[1], modules=RULE)),
        ("module_table", lambda tree: oad.module_table(state, tree[1], modules=RULE)),
        ("module_table", lambda tree: oad.scalars(tree[0], PARAMS, modules=RULE)),
        ("norm_scalars", lambda tree: oad.norm_scalars(tree[2], PARAMS, modules=RULE)),
    ]
    for name, function in inside:
        with pytest.raises(ValueError, match=rf"{name}: called inside jax\.jit.*on what that returns"):
            jax.jit(function)((state, other, norms))
    # Of what is known already, a table can be made anywhere.
    tables = []

    def step(x: Any) -> Any:
        tables.append(oad.module_table(state, PARAMS, modules=RULE))
        return x

    jax.jit(step)(1.0)
    assert tables == [oad.module_table(state, PARAMS, modules=RULE)]


def test_table_tells_modules_never_measured_from_refused_ones() -> None:
    params = {"broken": jnp.full((2, 8, 9), jnp.nan), "fine": jnp.ones((1, 8, 9))}
    optimizer = oad.alphadecay(
        0.1, metric=oad.frobenius_norm(), refresh_every=1, modules=optax.contrib.MuonDimensionNumbers(1, 2)
    )

    def table(state: Any) -> list[list[str]]:
        rows = oad.module_table(state, params, modules=optax.contrib.MuonDimensionNumbers(1, 2))
        return [line.split()[4:] for line in oad.format_table(rows).splitlines()[1:]]

    state = optimizer.init(params)
    assert table(state) == [["-", "1.000", "nan"], ["-", "1.000", "nan"], ["-", "1.000", "8.49"]]
    _, state = optimizer.update(params, state, params)
    assert table(state) == [["refused", "1.000", "nan"]] * 2 + [["72.000", "1.000", "8.49"]]
    _, state = optimizer.update(params, state, params | {"fine": params["fine"] * jnp.inf})
    assert table(state)[2] == ["72.000", "(refused)", "1.000", "8.49"]


def test_table_without_modules_says_so() -> None:
    params = {"w": jnp.ones((8, 8))}
    rows = oad.module_table(oad.alphadecay(0.1, modules={"w": False}).init(params), params, modules={"w": False})
    assert oad.format_table(rows).startswith("no modules: every parameter keeps the base decay")


ROWS = [
    oad.ModuleRow("a", (64, 256), 2.5, 1.25, norm=3.0),
    oad.ModuleRow("long/b", (8, 9), 2.0, 0.0, age=1, fenced=True),
    oad.ModuleRow("c", (8, 9), math.nan, 1.0, age=2),
    oad.ModuleRow("d", (8, 9), math.nan, 0.5, fenced=True),
    oad.ModuleRow("e", (8, 9), math.nan, 0.5),
]


def test_the_table_to_the_letter() -> None:
    assert oad.format_table(ROWS, weight_decay=0.5, learning_rate=0.1).splitlines() == [
        "module  shape     score                    ratio  norm  decay  per step  steps",
        "a       64 x 256  2.500                    1.250  3     0.625  0.0625    16",
        "long/b  8 x 9     2.000 (refused, fenced)  0.000  nan   0      0         inf",
        "c       8 x 9     refused                  1.000  nan   0.5    0.05      20",
        "d       8 x 9     fenced                   0.500  nan   0.25   0.025     40",
        "e       8 x 9     -                        0.500  nan   0.25   0.025     40",
    ]
    assert oad.format_table(ROWS[1:3], weight_decay=0.5).splitlines() == [
        "module  shape  score                    ratio  decay",
        "long/b  8 x 9  2.000 (refused, fenced)  0.000  0",
        "c       8 x 9  refused                  1.000  0.5",
    ]
    assert oad.format_table(ROWS[-1:]).splitlines() == ["module  shape  score  ratio", "e       8 x 9  -      0.500"]


def test_rates_of_zero_are_rates() -> None:
    lines = oad.format_table(ROWS[:1], weight_decay=0.0).splitlines()
    assert [line.split()[-1] for line in lines] == ["decay", "0"]
    lines = oad.format_table(ROWS[:1], weight_decay=0.0, learning_rate=0.0).splitlines()
    assert lines[0].endswith("decay  per step  steps") and lines[1].split()[-3:] == ["0", "0", "inf"]


def test_a_schedule_is_no_rate_of_a_step() -> None:
    with pytest.raises(ValueError, match="scalars: learning_rate is a schedule"):
        oad.scalars(trained_state(), PARAMS, modules=RULE, weight_decay=0.1, learning_rate=optax.constant_schedule(0.1))


def test_means_are_of_modules_that_have_a_score() -> None:
    params = {name: jnp.ones((2, 2)) for name in "abcd"}
    state = oad.alphadecay(0.1, modules=True).init(params)
    first = oad.scalars(state, params, modules=True)
    assert not [key for key in first if "_mean" in key or "_std" in key]
    state = state._replace(
        scores=jnp.array([1.0, jnp.nan, 5.0, jnp.nan]),
        ratios=jnp.array([0.5, 1.0, 2.5, 1.0]),
        age=jnp.array([0, 1, 3, 0], jnp.int32),
        fenced=jnp.array([False, True, True, True]),
        rejected=jnp.int32(7),
    )
    logged = oad.scalars(state, params, modules=True, prefix="p")
    over_all = {key: value for key, value in logged.items() if key.count("/") == 1}
    assert over_all == {
        "p/score_mean": 3.0,
        "p/score_std": 2.0,
        "p/ratio_mean": 1.5,
        "p/ratio_std": 1.0,
        "p/refused": 2.0,
        "p/fenced": 3.0,
        "p/rejected": 7.0,
    }
    assert [row.refused for row in oad.module_table(state, params, modules=True)] == [False, True, True, False]
    assert [row.norm for row in oad.module_table(state, params, modules=True)] == [2.0] * 4


def test_a_dictionary_is_a_state_by_its_fields_and_no_others() -> None:
    state = trained_state()[1]
    fields = state._asdict()
    least = {name: fields[name] for name in ("scores", "ratios", "rejected")}
    with pytest.raises(ValueError, match=r"lacks count, age, fenced, fingerprint, as"):
        oad.module_table(least, PARAMS, modules=RULE)
    for other in ({**fields, "other": 1}, {"scores": fields["scores"], "ratios": fields["ratios"]}):
        with pytest.raises(ValueError, match="found 0"):
            oad.module_table(other, PARAMS, modules=RULE)
    assert oad.module_table([fields], PARAMS, modules=RULE) == oad.module_table(state, PARAMS, modules=RULE)
