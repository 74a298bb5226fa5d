"""Overrides by pattern, split kernels, and errors that say what to write."""
# SPDX-License-Identifier: Apache-2.0

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad
from optax_alphadecay import modules
from tests.library.test_modules import selected

# Overrides by pattern


def test_the_first_pattern_that_matches_decides() -> None:
    params = {
        "attention": {"query": {"kernel": jnp.ones((64, 4, 16))}, "out": {"kernel": jnp.ones((64, 64))}},
        "adapter": {"down": jnp.ones((64, 64)), "up": jnp.ones((64, 64))},
        "lora": jnp.ones((64, 8)),
        "wte": jnp.ones((80, 64)),
    }
    inward = MuonDimensionNumbers(0, (1, 2))
    axes = {r"adapter/up$": True, r"(^|/)adapter/": False, r"query/kernel$": inward, r"^lora$|wte": True}
    assert selected(params, oad.block_matrices(axes=axes)) == [
        "adapter/up",
        "attention/out/kernel",
        "attention/query/kernel",
        "lora",
        "wte",
    ]
    again = dict(reversed(axes.items()))
    assert "adapter/up" not in selected(params, oad.block_matrices(axes=again)), "the wider pattern comes first"


@pytest.mark.parametrize("name", ["layers.0.query.kernel", "layers/0/query/kernel", "layers/0/query/kernel/value"])
def test_a_pattern_finds_dotted_and_wrapped_names(name: str) -> None:
    rule = oad.block_matrices(axes={r"layers/\d/query/kernel$": MuonDimensionNumbers(0, (1, 2))})
    assert selected({name: jnp.ones((64, 4, 16))}, rule) == [name]


def test_numbers_of_axes_go_before_names_and_not_before_size() -> None:
    numbers = {"w": MuonDimensionNumbers(0, (1, 2))}
    assert selected({"embed": {"w": jnp.ones((64, 4, 16))}}, oad.block_matrices(axes=numbers)) == ["embed/w"]
    assert selected({"w": jnp.ones((49, 4, 16))}, oad.block_matrices(axes=numbers)) == []
    assert selected({"w": jnp.ones((64, 4, 16), int)}, oad.block_matrices(axes=numbers)) == []


def test_axes_are_counted_as_stored_and_layers_left_out() -> None:
    params = {"layers": {"query": jnp.ones((64, 3, 4, 16))}}
    rule = oad.block_matrices(stacked={"layers": 1}, axes={"query": MuonDimensionNumbers(0, (2, 3))})
    [stack] = modules.resolve(params, rule)
    assert stack.shape == (3, 64, 64)
    wrong = oad.block_matrices(stacked={"layers": 1}, axes={"query": MuonDimensionNumbers(0, (1, 2))})
    with pytest.raises(ValueError, match=r"'layers/query' .* names axis 1, which by stacked runs over layers"):
        selected(params, wrong)


def test_axes_may_be_integers_of_numpy() -> None:
    numbers = MuonDimensionNumbers(np.int64(0), (np.int32(1), np.int32(2)))
    (stack,) = modules.resolve({"query": jnp.ones((64, 4, 16))}, oad.block_matrices(axes={"query": numbers}))
    assert stack.axes == ((), (0,), (1, 2))


def test_one_module_a_head() -> None:
    rule = oad.block_matrices(axes={"query": MuonDimensionNumbers(0, 2)})
    assert selected({"query": jnp.ones((64, 3, 50))}, rule) == ["query/0", "query/1", "query/2"]


def test_a_pattern_that_does_not_fit_is_named() -> None:
    rule = oad.block_matrices(axes={"query": MuonDimensionNumbers(0, (1, 2))})
    params = {"query": {"kernel": jnp.ones((64, 4, 16)), "bias": jnp.ones((4, 16))}}
    with pytest.raises(ValueError, match=r"\(1, 2\) are out of range for 'query/bias'.*The pattern 'query' of axes"):
        selected(params, rule)
    with pytest.raises(ValueError, match=r"'w' has shape \(2, 3, 4\)"):
        selected({"w": jnp.ones((2, 3, 4))}, oad.block_matrices(axes={"w": True}))


# Split kernels


def test_parts_of_a_fused_kernel_are_modules() -> None:
    leaf = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 176)), jnp.float32)
    rule = oad.block_matrices(stacked=["layers"], split={"up_gate": (96, 80)})
    stacks = modules.resolve({"layers": {"up_gate": leaf}}, rule)
    assert [stack.shape for stack in stacks] == [(2, 64, 96), (2, 64, 80)]
    assert modules.names(stacks) == (
        "layers/up_gate[0:96]/0",
        "layers/up_gate[0:96]/1",
        "layers/up_gate[96:176]/0",
        "layers/up_gate[96:176]/1",
    )
    np.testing.assert_array_equal(stacks[1].as_matrices(leaf), leaf[:, :, 96:])
    [ratio] = modules.broadcast_to_leaves(stacks, jnp.array([1.0, 2.0, 3.0, 4.0]).__getitem__).values()
    assert ratio.shape == (2, 1, 176)
    np.testing.assert_array_equal(ratio[1, 0], [2.0] * 96 + [4.0] * 80)


def test_each_part_decays_by_its_own_ratio() -> None:
    key = jax.random.key(0)
    heavy, light = jax.random.t(key, 2.0, (64, 64)), jax.random.normal(key, (64, 64))
    apart, fused = {"q": heavy, "v": light}, {"qv": jnp.concatenate([heavy, light], 1)}
    updates = []
    for params, rule in ((apart, None), (fused, oad.block_matrices(split={"qv": 2}))):
        optimizer = oad.alphadecay(0.1, modules=rule, metric=oad.pl_alpha_hill(solver="eigvalsh"))
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates.append(optimizer.update(zeros, optimizer.init(params), params)[0])
    np.testing.assert_array_equal(updates[1]["qv"], jnp.concatenate([updates[0]["q"], updates[0]["v"]], 1))


def test_a_part_too_small_keeps_the_base_decay() -> None:
    rule = oad.block_matrices(split={"kernel$": (64, 64, 8)})
    stacks = modules.resolve({"kernel": jnp.ones((64, 136)), "bias": jnp.ones(136)}, rule)
    assert modules.names(stacks) == ("kernel[0:64]", "kernel[64:128]")
    [ratio] = modules.broadcast_to_leaves(stacks, jnp.array([2.0, 3.0]).__getitem__).values()
    np.testing.assert_array_equal(ratio[0, 128:], 1.0)
    assert selected({"kernel": jnp.ones((64, 136))}, oad.block_matrices(split={"kernel$": 17})) == []


def test_sizes_must_add_up() -> None:
    with pytest.raises(ValueError, match=r"sizes \(64, 64\) of split for 'qkv' add up to 128, but .* has length 192"):
        selected({"qkv": jnp.ones((64, 192))}, oad.block_matrices(split={"qkv": (64, 64)}))
    with pytest.raises(ValueError, match=r"Axis 0 is so long: name it as the output axis in axes"):
        selected({"qkv": jnp.ones((192, 64))}, oad.block_matrices(split={"qkv": (96, 96)}))
    with pytest.raises(ValueError, match="5 equal parts of 'qkv', but it has 192 outputs"):
        selected({"qkv": jnp.ones((64, 192))}, oad.block_matrices(split={"qkv": 5}))
    two_axes = oad.block_matrices(axes={"qkv": MuonDimensionNumbers(0, (1, 2))}, split={"qkv": 3})
    with pytest.raises(ValueError, match=r"'qkv' .* has the output axes \(1, 2\), but split cuts along a single one"):
        selected({"qkv": jnp.ones((64, 4, 48))}, two_axes)
    torch_layout = oad.block_matrices(axes={"qkv": MuonDimensionNumbers(1, 0)}, split={"qkv": 3})
    assert selected({"qkv": jnp.ones((192, 64))}, torch_layout) == ["qkv[0:64]", "qkv[64:128]", "qkv[128:192]"]


def test_matrix_axes_by_hand() -> None:
    leaf = jnp.ones((2, 3, 50, 100))
    choice = oad.MatrixAxes(MuonDimensionNumbers(2, 3), stack=(1, 0), sizes=(50, 50), taken=(False, True))
    assert selected({"w": leaf}, {"w": choice}) == [f"w[50:100]/{i}/{j}" for i in range(3) for j in range(2)]
    with pytest.raises(ValueError, match=r"'w'.*stack=\(0,\) must name the axes \(0, 1\)"):
        selected({"w": leaf}, {"w": oad.MatrixAxes(MuonDimensionNumbers(2, 3), stack=(0,))})


# Errors


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("layers_0/attention/query/kernel", (64, 4, 16)),
        ("blocks/0/attention/out/kernel", (4, 16, 64)),
        ("h.3.conv.weight", (64, 64, 3, 3)),
        ("Conv_0/kernel", (3, 3, 64, 64)),
        ("moe/experts/wi", (8, 64, 96)),
        ("qkv/kernel", (64, 3, 4, 16)),
        ("layers/2/w", (2, 3, 4, 5, 64)),
    ],
)
@pytest.mark.parametrize("stacked", [[], ["layers"]])
def test_the_error_has_the_line_to_paste(path: str, shape: tuple[int, ...], stacked: list[str]) -> None:
    params = {path: jnp.ones(shape)}
    with pytest.raises(ValueError, match="cannot be guessed") as error:
        selected(params, oad.block_matrices(8, stacked=stacked))
    text = str(error.value)
    assert ("stacked=" in text) == (not stacked), "what was passed is not advised"
    assert ("which stacked names" in text) == (stacked == ["layers"] and not {"layers"} & set(path.split("/")))
    lines = [line.partition("#")[0] for line in text.splitlines() if line.startswith("  axes=")]
    assert lines
    for line in lines:
        arguments = eval(f"dict({line})", {"MuonDimensionNumbers": MuonDimensionNumbers})
        assert modules.resolve(params, oad.block_matrices(1, stacked=stacked, **arguments))


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("layers_0/attention/query/kernel", "query/kernel$"),
        ("h.3.conv.weight", r"conv/weight$"),
        ("layers/2/w", r"layers/\d+/w$"),
        ("layers/2/w/0", r"layers/\d+/w/\d+$"),
        ("w", "w$"),
    ],
)
def test_the_line_to_paste_names_the_like_of_a_leaf_and_no_more(path: str, pattern: str) -> None:
    """Its last two names, with any number for a number: other layers have the same axes."""
    with pytest.raises(ValueError, match="cannot be guessed") as error:
        selected({path: jnp.ones((64, 4, 16))}, oad.block_matrices(8))
    lines = [line for line in str(error.value).splitlines() if line.startswith("  axes=")]
    assert lines and all(line.startswith(f'  axes={{r"{pattern}": ') for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stacked": {"layers": "1"}}, ["stacked", "'1'", "'layers'"]),
        ({"stacked": 1}, ["stacked", "got 1", "['layers']"]),
        ({"axes": ["query"]}, ["axes", "['query']"]),
        ({"axes": {"query(": False}}, ["axes", "'query('"]),
        ({"axes": {"query": (0, 1)}}, ["axes", "(0, 1)", "'query'", "MuonDimensionNumbers"]),
        ({"split": {"qkv": (64, 0)}}, ["split", "(64, 0)", "'qkv'"]),
        ({"split": {"qkv": True}}, ["split", "True"]),
        ({"split": {"qkv": 2.0}}, ["split", "2.0"]),
        ({"split": {"qkv": 0}}, ["split", "says 0", "'qkv'"]),
        ({"split": {"qkv": (True, 2)}}, ["split", "(True, 2)", "'qkv'"]),
        ({"split": ["qkv"]}, ["split", "['qkv']"]),
        ({"stacked": {"layers": True}}, ["stacked", "True", "'layers'"]),
        ({"stacked": "blocks"}, ["stacked", "got 'blocks'", "['blocks'] or {'blocks': 0}"]),
        ({"axes": {1: False}}, ["axes", "pattern 1"]),
    ],
)
def test_bad_arguments_of_the_rule_are_named(arguments: dict[str, Any], words: list[str]) -> None:
    for rule in (oad.block_matrices, functools.partial(oad.modules_for, "flax")):
        with pytest.raises(ValueError, match=r"^(block_matrices|modules_for): ") as error:
            rule(**arguments)
        assert all(word in str(error.value) for word in words)


def test_the_least_arguments_of_the_rule() -> None:
    rule = oad.block_matrices(1, split={"one": 1, "two": (1, 2)}, axes={}, stacked=())
    assert selected({"one": jnp.ones((1, 2)), "two": jnp.ones((1, 3))}, rule) == ["one[0:2]", "two[0:1]", "two[1:3]"]


def test_layers_of_a_model_are_stacked_unless_said_otherwise() -> None:
    params = {"layers": {"up": jnp.ones((60, 2, 60))}}
    assert selected(params, oad.modules_for("gpt2", "maxtext")) == ["layers/up/0", "layers/up/1"]
    for stacked, names in ((["layers"], []), ({"layers": 1}, ["layers/up/0", "layers/up/1"])):
        assert selected(params, oad.modules_for("maxtext", stacked=stacked)) == names
    with pytest.raises(ValueError, match="'layers/up' has shape"):
        selected(params, oad.modules_for("maxtext", stacked=[]))


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match=r"no ready rule for \['llama'\]; there are \['flax', 'maxtext'"):
        oad.modules_for("llama")
    with pytest.raises(ValueError, match="no ready rule for no model"):
        oad.modules_for()


@pytest.mark.parametrize("argument", ["modules", "mask"])
def test_an_array_is_no_tree_of_choices(argument: str) -> None:
    optimizer = optax.inject_hyperparams(oad.alphadecay)(0.1, **{argument: lambda count: count == 0})
    with pytest.raises(ValueError, match=rf"{argument} is the array True.*static_args="):
        optimizer.init({"w": jnp.ones((64, 64))})


# Scion's balls


def test_balls_of_stacked_experts_and_dotted_names() -> None:
    rule = oad.block_matrices(1, stacked={"layers": 1}, axes={"moe": MuonDimensionNumbers(2, 3)})
    balls = oad.scion_norms(rule)({"layers.moe": jnp.ones((3, 2, 8, 16)), "transformer.wte.weight": jnp.ones((32, 8))})
    assert balls["layers.moe"] == oad.spectral_norm_ball(axes=MuonDimensionNumbers(2, 3))
    assert balls["transformer.wte.weight"] == oad.sign_ball(radius=60.0, axes=MuonDimensionNumbers(1, 0))
    split = oad.scion_norms(oad.block_matrices(1, split={"qkv": 3}))
    with pytest.raises(ValueError, match=r"'qkv' is split into outputs \(8, 8, 8\), and no ball is of a part"):
        split({"qkv": jnp.ones((8, 24))})
