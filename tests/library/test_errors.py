"""Every argument out of range and every tree that does not fit raises an error that names the value or the leaf."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad

NAN, INF = math.nan, math.inf
RATES = [-1.0, -1, NAN, INF, -INF, "0.1", None, np.array(-1.0)]
GAPS = [0, -3, 2.5, True, "500"]
STEEP = [0, -1.0, NAN, INF, np.array(0.0)]
given = functools.partial


@pytest.mark.parametrize(
    ("function", "argument", "values"),
    [
        (oad.alphadecay, "weight_decay", RATES),
        (given(oad.alphadecay, 0.1), "refresh_every", GAPS),
        (given(oad.alphadecay, 0.1), "mesh", ["fsdp", 8]),
        (given(oad.alphadecay, 0.1), "metric", ["alpha", 2.0, oad.stable_rank]),
        (given(oad.alphadecay, 0.1), "assign", ["linear", 2.0, oad.sqrt]),
        (given(oad.adam, 1e-3), "weight_decay", RATES),
        (given(oad.adam, 1e-3), "refresh_every", GAPS),
        (given(oad.adamw, 1e-3), "weight_decay", RATES),
        (given(oad.adamw, 1e-3), "refresh_every", GAPS),
        (given(oad.decoupled, optax.sgd(1.0), oad.alphadecay(0.1)), "learning_rate", RATES),
        (oad.awd, "lam_awd", RATES),
        (given(oad.awd, 0.1), "momentum", [1.0, 1, -0.1, NAN, INF]),
        (oad.adadecay, "weight_decay", RATES),
        (given(oad.adadecay, 0.1), "a", STEEP),
        (oad.modulewise_adadecay, "weight_decay", RATES),
        (given(oad.modulewise_adadecay, 0.1), "refresh_every", GAPS),
        (given(oad.modulewise_adadecay, 0.1), "a", STEEP),
        (oad.linear, "lo", [-0.1, 3.5, NAN, INF, -INF]),
        (oad.linear, "hi", [-0.1, 0.5, NAN, INF, "3", None]),
        (given(oad.linear, 0.0, mean=1.0), "hi", [0.0]),
        (oad.linear, "fence", [0.5, NAN, INF, "2"]),
        (oad.proportional, "power", [NAN, INF, "2", None]),
        (given(oad.adamc, 0.1), "decay", [oad.alphadecay(0.1)]),
        (given(oad.format_table, [oad.ModuleRow("w", (64, 64), 2.5, 1.25)]), "weight_decay", [abs]),
        (oad.linear, "mean", [0.0, -1.0, NAN, INF]),
        (given(oad.linear, mean=1.0), "by", ["layers"]),
        (oad.proportional, "by", ["layers"]),
        (oad.proportional, "fence", [0.5, INF]),
        (oad.sigmoid, "a", STEEP),
        (oad.block_matrices, "min_eigenvalues", [0, -1, 2.5, True]),
        (oad.block_matrices, "stacked", ["layers"]),
        (oad.pl_alpha_hill, "solver", ["qr", ""]),
        (oad.alpha_hat, "solver", ["qr"]),
        (given(oad.spectral, jnp.sum), "solver", ["qr"]),
        (oad.spectral, "score", ["alpha", 2.0]),
        (oad.spectral_norm, "solver", ["qr"]),
        (oad.stable_rank, "solver", ["qr"]),
        (oad.spectral_entropy, "solver", ["qr"]),
        (oad.stochastic, "probes", [0, -1, 8.0, "8", True, None]),
        (oad.stochastic, "steps", [0, 2.5]),
        (oad.stochastic, "seed", [-1, 0.5]),
        (given(oad.eigenvalues, jnp.ones((2, 3))), "solver", ["qr"]),
    ],
)
def test_a_value_out_of_range_is_named(function: Callable[..., Any], argument: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=re.escape(repr(value))) as error:
            function(**{argument: value})
        assert re.search(rf"\b{argument}\b", str(error.value))


@pytest.mark.parametrize("assign", [oad.linear(), oad.proportional()])
def test_an_assignment_taken_for_a_schedule_says_so(assign: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"called with a scalar.*static_args"):
        optax.inject_hyperparams(oad.alphadecay)(0.1, assign=assign).init({"w": jnp.ones((8, 12))})


@pytest.mark.parametrize("matrices", [jnp.ones(3), jnp.ones((2, 3), int), jnp.ones((2, 3), complex), jnp.ones(())])
def test_eigenvalues_need_real_matrices(matrices: jax.Array) -> None:
    with pytest.raises(ValueError, match=re.escape(f"got shape {matrices.shape} and dtype {matrices.dtype}")):
        oad.eigenvalues(matrices)


PARAMS = {
    "layer": {"w": jnp.ones((8, 12)), "b": jnp.ones(12), "cube": jnp.ones((2, 8, 12)), "n": jnp.ones((8, 8), int)}
}
NONE = {"w": False, "b": False, "cube": False, "n": False}


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ({"b": True}, ["'layer/b'", "(12,)", "set it to False"]),
        ({"n": True}, ["'layer/n'", "int32", "set it to False"]),
        ({"cube": True}, ["'layer/cube'", "(2, 8, 12)", "MuonDimensionNumbers", "block_matrices(stacked="]),
        ({"cube": MuonDimensionNumbers(0, 3)}, ["'layer/cube'", "(3,)", "out of range"]),
        ({"cube": MuonDimensionNumbers(1, -2)}, ["'layer/cube'", "distinct", "(1,) and (1,)"]),
        ({"cube": MuonDimensionNumbers((), 1)}, ["'layer/cube'", "non-empty", "() and (1,)"]),
        ({"cube": MuonDimensionNumbers(1.0, 2)}, ["'layer/cube'", "integers", "got 1.0"]),
        ({"cube": MuonDimensionNumbers("in", 2)}, ["'layer/cube'", "integers", "got 'in'"]),
        ({"cube": MuonDimensionNumbers(None, 2)}, ["'layer/cube'", "integers", "got None"]),
        ({"w": oad.MatrixAxes(sizes=(0, 12))}, ["'layer/w'", "at least 1", "(0, 12)"]),
        ({"w": oad.MatrixAxes(sizes=(-2, 14))}, ["'layer/w'", "at least 1", "(-2, 14)"]),
        ({"w": oad.MatrixAxes(sizes=12)}, ["'layer/w'", "at least 1", "got 12"]),  # type: ignore[arg-type]
        ({"w": oad.MatrixAxes(sizes=(6, 6), taken=(True,))}, ["'layer/w'", "(True,)", "2 parts"]),
        ({"w": "yes"}, ["'layer/w'", "'yes'", "True, False"]),
        ({"w": 1}, ["'layer/w'", "1", "True, False"]),
        ({"typo": True}, ["modules", "typo", "jax.tree.map"]),
    ],
)
def test_modules_that_do_not_fit_are_named(modules: dict[str, Any], words: list[str]) -> None:
    for rule in ({"layer": NONE | modules}, lambda params: {"layer": NONE | modules}):
        with pytest.raises(ValueError, match="alphadecay: ") as error:
            oad.alphadecay(0.1, modules=rule).init(PARAMS)
        assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("factory", [oad.alphadecay, oad.awd, oad.adadecay, oad.modulewise_adadecay])
def test_a_mask_that_does_not_fit_is_named(factory: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"(?s)mask does not have the structure of params.*typo.*jax\.tree\.map"):
        factory(0.1, mask={"layer": NONE | {"typo": True}}).init(PARAMS)


@pytest.mark.parametrize("mask", ["kernel", {"w": "kernel"}, {"w": 2}, {"w": abs}, {"w": np.ones(3, bool)}])
def test_a_mask_of_something_else_than_truth_is_named(mask: Any) -> None:
    for factory in (oad.alphadecay, oad.awd, oad.adadecay):
        with pytest.raises(
            ValueError, match=r"mask holds .* for 'w'; it takes True and False.* or a function of params"
        ):
            factory(0.1, mask=mask).init({"w": jnp.ones((50, 60))})
    optimizer = oad.adamc(0.1, correct="kernel")
    with pytest.raises(ValueError, match="correct holds 'kernel' for 'w'"):
        optimizer.init({"w": jnp.ones((50, 60))})


@pytest.mark.parametrize("mask", [False, np.bool_(False), jnp.array(False), 0, None])
def test_a_mask_says_no_in_several_ways(mask: Any) -> None:
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    optimizer = oad.adadecay(0.1, mask={"w": mask, "b": True})
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["w"], params["w"])
    assert (updates["b"] > 1).all()


@pytest.mark.parametrize("mask", [True, np.bool_(True), jnp.array(True), np.array(True), 1])
def test_a_mask_says_yes_in_several_ways(mask: Any) -> None:
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    optimizer = oad.adadecay(0.1, mask={"w": mask, "b": False})
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert (updates["w"] > 1).all()
    np.testing.assert_array_equal(updates["b"], 1)


@pytest.mark.parametrize("mask", [np.array(1), jnp.ones(1, bool), np.array(0.0), -1, 0.5, "yes"])
def test_a_mask_of_arrays_is_of_single_truths(mask: Any) -> None:
    with pytest.raises(ValueError, match=r"mask holds .* for 'w'; it takes True and False"):
        oad.adadecay(0.1, mask={"b": True, "w": mask}).init({"b": jnp.ones(2), "w": jnp.ones((2, 3))})


@pytest.mark.parametrize("factory", [oad.alphadecay, oad.awd, oad.adadecay, oad.modulewise_adadecay])
@pytest.mark.parametrize("argument", ["updates", "gradients"])
def test_gradients_that_do_not_fit_are_named(factory: Callable[..., Any], argument: str) -> None:
    name = "alphadecay" if factory is oad.modulewise_adadecay else factory.__name__
    optimizer, params = factory(0.1), {"w": jnp.ones((50, 60)), "b": jnp.ones(60)}
    state = optimizer.init(params)

    def update(gradients: Any) -> Any:
        given = {"updates": params, argument: gradients}
        return optimizer.update(given["updates"], state, params, gradients=given.get("gradients", gradients))

    with pytest.raises(ValueError, match=rf"{name}: {argument} .*'b'"):
        update({"w": jnp.ones((50, 60))})
    with pytest.raises(ValueError, match=rf"{name}: 'w' has shape \(50, 60\) in params and \(60, 50\) in {argument}"):
        update({"w": jnp.ones((60, 50)), "b": jnp.ones(60)})


@pytest.mark.parametrize("factory", [oad.alphadecay, oad.awd, oad.adadecay, oad.modulewise_adadecay])
def test_missing_params_are_asked_for(factory: Callable[..., Any]) -> None:
    params = {"w": jnp.ones((50, 60))}
    optimizer = factory(0.1)
    with pytest.raises(ValueError, match=r"needs the weights; call update\(gradients, state, params\)"):
        optimizer.update(params, optimizer.init(params))


def test_a_module_without_gradient_is_named() -> None:
    optimizer, params = (
        oad.alphadecay(0.1, modules={"w": True, "b": False}),
        {"w": jnp.ones((8, 12)), "b": jnp.ones(12)},
    )
    with pytest.raises(ValueError, match=r"'w' is a module but has no update \(None\)\. Set it to False in modules"):
        optimizer.update({"w": None, "b": jnp.ones(12)}, optimizer.init(params), params)
    uniform = oad.alphadecay(0.1, modules={"w": False, "b": False})
    updates, _ = uniform.update({"w": None, "b": jnp.ones(12)}, uniform.init(params), params)
    assert updates["w"] is None
    np.testing.assert_allclose(updates["b"], 1.1)


def test_a_state_of_other_params_is_named() -> None:
    optimizer = oad.alphadecay(0.1, modules=True)
    state = optimizer.init({"w": jnp.ones((8, 12))})
    params = {"w": jnp.ones((8, 12)), "v": jnp.ones((8, 12))}
    with pytest.raises(ValueError, match=r"the state holds 1 modules and params 2: v, w\..*update sees"):
        optimizer.update(params, state, params)
