"""What every leaf is taken for and why, as records and as a text, and warnings where nothing is a module."""
# SPDX-License-Identifier: Apache-2.0

import functools
import inspect
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad
from optax_alphadecay import modules

PARAMS = {
    "attention": {"query": {"kernel": jnp.ones((64, 4, 16)), "bias": jnp.ones((4, 16))}},
    "adapter": jnp.ones((64, 64)),
    "count": jnp.ones((64, 64), int),
    "gate": jnp.ones(64),
    "lora": jnp.ones((64, 8), jnp.bfloat16),
    "up": jnp.ones((64, 96)),
    "wte": jnp.ones((500, 64)),
}


def test_every_leaf_has_a_record_with_its_reason() -> None:
    rule = oad.block_matrices(axes={"adapter": False}, split={"up": (64, 32)})
    mask = {**dict.fromkeys(PARAMS, True), "gate": False}
    records = {record.name: record for record in oad.leaf_records(PARAMS, rule, mask)}
    assert {name: (record.taken_for, record.reason) for name, record in records.items()} == {
        "adapter": ("base decay", "axes says False for 'adapter'"),
        "attention/query/bias": ("base decay", "'bias' names a bias"),
        "attention/query/kernel": ("error", "nothing says which of its 3 axes are inputs and outputs"),
        "count": ("base decay", "int32 is no floating dtype"),
        "gate": ("no decay", "by the mask"),
        "lora": ("base decay", "8 eigenvalues, fewer than min_eigenvalues=50"),
        "up": ("modules", "a matrix of at least 50 eigenvalues that no name excludes; split into outputs (64, 32)"),
        "wte": ("base decay", "'wte' names an embedding"),
    }
    assert (records["lora"].shape, records["lora"].dtype, records["lora"].eigenvalues) == ((64, 8), "bfloat16", 8)
    assert records["up"].modules == ("up[0:64]",), "the other part has 32 eigenvalues"
    assert "MuonDimensionNumbers" in (records["attention/query/kernel"].error or "")


def test_records_and_stacks_agree() -> None:
    rule = oad.modules_for("flax")
    found = [stack for record in oad.leaf_records(PARAMS, rule) for stack in record.stacks]
    assert tuple(found) == modules.resolve(PARAMS, rule)


def test_records_of_a_tree_of_choices() -> None:
    tree = {"up": True, "query": MuonDimensionNumbers(0, (1, 2)), "gate": True, "rest": None}
    params = {"up": jnp.ones((2, 3)), "query": jnp.ones((4, 2, 3)), "gate": jnp.ones(3), "rest": jnp.ones((3, 3))}
    by_name = {record.name: record for record in oad.leaf_records(params, tree)}
    assert by_name["up"].taken_for == by_name["query"].taken_for == "modules"
    assert by_name["query"].stacks[0].shape == (1, 4, 6)
    assert by_name["gate"].taken_for == "error" and "cannot be a module" in (by_name["gate"].error or "")
    assert (by_name["rest"].taken_for, by_name["rest"].reason) == ("base decay", "modules says None")


def test_the_text_has_a_line_a_leaf_and_says_what_is_wrong() -> None:
    rule = oad.block_matrices(stacked=["layer"], axes={"adaptor": False})
    text = oad.explain(PARAMS, rule)
    lines = text.splitlines()
    assert len([line for line in lines if line.split("  ")[0] in {r.name for r in oad.leaf_records(PARAMS)}]) == 8
    assert "2 modules in 2 of 8 leaves." in lines
    assert "axes: 'adaptor' matches no leaf." in lines
    assert "stacked: 'layer' matches no leaf." in lines
    assert "alphadecay: 'attention/query/kernel' has shape (64, 4, 16)" in text


# Warnings


def test_no_module_is_warned_of_once_with_the_nearest_leaves() -> None:
    lora = {
        "q": {"a": jnp.ones((64, 8)), "b": jnp.ones((8, 64))},
        "norm": {"scale": jnp.ones((2, 64))},
        "x": jnp.ones(3),
    }
    decay = oad.alphadecay(0.1)
    with pytest.warns(UserWarning, match=r"'q/a' of shape \(64, 8\): 8 eigenvalues, fewer than .*explain") as caught:
        state = decay.init(lora)
    assert len(caught) == 1
    decay.update(lora, state, lora)  # an error here, if it warned again
    with pytest.warns(UserWarning, match="'norm/scale'.*'scale' names a scale"):
        decay.init({"norm": lora["norm"]})
    with pytest.warns(UserWarning, match="None has two axes"):
        decay.init({"x": lora["x"]})


def test_what_is_meant_is_not_warned_of() -> None:
    small = {"w": jnp.ones((8, 8))}
    for tree in ({"w": False}, {"w": None}):
        oad.alphadecay(0.1, modules=tree).init(small)
    oad.alphadecay(0.1).init({})
    oad.alphadecay(0.1).init({"w": optax.MaskedNode()})


def test_a_rule_of_users_that_was_taken_for_a_schedule_is_warned_of() -> None:
    """It gives False for the number of updates, which is no matrix, and no rule is left to complain."""

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim == 2, params)

    params = {"w": jnp.ones((64, 64))}
    injected = optax.inject_hyperparams(oad.alphadecay)
    with pytest.warns(UserWarning, match=r"modules is False.*static_args="):
        injected(0.1, modules=matrices).init(params)
    with pytest.warns(UserWarning, match=r"'w' of shape \(64, 64\): by the mask"):
        injected(0.1, mask=matrices).init(params)
    with pytest.raises(ValueError, match=r"block_matrices: called with a scalar.*static_args="):
        injected(0.1, modules=oad.block_matrices()).init(params)
    optax.inject_hyperparams(oad.alphadecay, static_args=("modules", "mask"))(0.1, modules=matrices).init(params)


@pytest.mark.parametrize(
    ("argument", "rule"),
    [
        ("axes", oad.block_matrices(axes={"adaptor": False})),
        ("split", oad.block_matrices(split={"adaptor": 2})),
        ("stacked", oad.block_matrices(stacked=["adaptor"])),
        ("stacked", oad.block_matrices(stacked={"adapter": 0, "adaptor": 1}, axes={"adapter": False})),
        ("stacked", oad.modules_for("flax", stacked=["adaptor"])),
    ],
)
def test_a_pattern_without_a_leaf_is_warned_of(argument: str, rule: Any) -> None:
    params = {"adapter": jnp.ones((64, 64)), "up": jnp.ones((64, 64))}
    with pytest.warns(UserWarning, match=f"no leaf matches {argument}: 'adaptor'"):
        oad.alphadecay(0.1, modules=rule).init(params)
    # The leaf that is meant may be in another group.
    optax.masked(oad.alphadecay(0.1, modules=rule), {"adapter": False, "up": True}).init(params)


def test_what_a_ready_rule_knows_is_not_warned_of() -> None:
    """MaxText's layers have three names, of which a model has one or two."""
    oad.alphadecay(0.1, modules=oad.modules_for("maxtext")).init({"layers": {"up": jnp.ones((64, 2, 64))}})


@pytest.mark.parametrize("wrap", [lambda init: init, jax.jit, lambda init: functools.partial(jax.eval_shape, init)])
def test_a_warning_points_at_the_line_of_the_user(wrap: Any) -> None:
    optimizer = optax.chain(optax.clip(1.0), optax.chain(oad.alphadecay(0.1), optax.masked(optax.sgd(0.1), True)))
    with pytest.warns(UserWarning, match="no leaf of params is a module") as caught:
        wrap(optimizer.init)({"w": jnp.ones((8, 8))})
    line = inspect.getsource(sys.modules[__name__]).splitlines()[caught[0].lineno - 1]
    assert caught[0].filename == __file__ and "wrap(optimizer.init)" in line


def test_initialising_shapes_warns_like_initialising_arrays() -> None:
    with pytest.warns(UserWarning, match="no leaf of params is a module"):
        jax.eval_shape(oad.alphadecay(0.1).init, {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(oad.alphadecay(0.1).init, {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)})


def attention(width: int = 64, heads: int = 4) -> dict[str, Any]:
    inward, outward = jnp.ones((width, heads, width // heads)), jnp.ones((heads, width // heads, width))
    return {**{name: {"kernel": inward} for name in ("query", "key", "value")}, "out": {"kernel": outward}}


CONV = {"conv": {"kernel": jnp.ones((3, 3, 64, 64))}}


@pytest.mark.parametrize(
    ("params", "call"),
    [
        (attention(), "modules_for('flax')"),
        (CONV, "modules_for('convolutions')"),
        ({"experts": {"up": jnp.ones((4, 64, 96))}}, "modules_for('experts')"),
        ({**CONV, **attention()}, "modules_for('flax', 'convolutions')"),
    ],
)
def test_what_is_unclear_is_sent_to_the_ready_rules_that_know_it(params: dict[str, Any], call: str) -> None:
    with pytest.raises(ValueError, match="cannot be guessed") as error:
        oad.block_matrices()(params)
    advice = str(error.value).splitlines()[-1]
    assert f"modules={call}: " in advice and "a guess" in advice
    assert oad.explain(params).splitlines()[-1] == advice
    rule = eval(call, {"modules_for": oad.modules_for})
    assert all(record.modules for record in oad.leaf_records(params, rule) if len(record.shape) > 2)
    assert "modules_for" not in oad.explain(params, rule)


@pytest.mark.parametrize(
    "params",
    [
        {**attention(), "w": jnp.ones((64, 64, 64))},
        # No rule of MaxText's is of these names; that its layers are stacked on axis 1 makes nothing clear.
        {"layers": {"mlp": {"kernel": jnp.ones((12, 64, 256))}, "query": {"kernel": jnp.ones((12, 64, 64))}}},
        {"layers": {"mlp": {"kernel": jnp.ones((64, 64, 256))}}},
    ],
)
def test_no_ready_rule_is_named_where_none_knows_all_leaves(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be guessed") as error:
        oad.block_matrices()(params)
    assert "modules_for" not in str(error.value)


@pytest.mark.parametrize(
    ("rule", "models", "arguments"),
    [
        (oad.modules_for("flax"), ["flax", "convolutions"], {}),
        (oad.modules_for("maxtext", stacked=[]), ["maxtext", "convolutions"], {"stacked": []}),
        (oad.block_matrices(axes={"nothing": True}), ["flax", "convolutions"], {"axes": {"nothing": True}}),
        (oad.block_matrices(8, stacked=["h"]), ["flax", "convolutions"], {"min_eigenvalues": 8, "stacked": ["h"]}),
    ],
)
def test_advice_keeps_what_was_passed(rule: Any, models: list[str], arguments: dict[str, Any]) -> None:
    params = {**attention(), **CONV}
    advice = oad.explain(params, rule).splitlines()[-1]
    rest = ", ..." if arguments else ""
    assert f"modules=modules_for({', '.join(map(repr, models))}{rest})" in advice
    assert ("with the arguments that you passed" in advice) == bool(arguments)
    records = oad.leaf_records(params, oad.modules_for(*models, **arguments))
    assert all(record.modules for record in records)


def test_what_a_mask_leaves_out_needs_no_advice() -> None:
    params = {**attention(), "up": jnp.ones((64, 96))}
    mask = {name: name == "up" for name in params}
    assert "modules_for" not in oad.explain(params, mask=mask)
