"""Assignments against their formulas, with refused modules left out."""
# SPDX-License-Identifier: Apache-2.0

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

SCORES = np.array([2.0, 5.0, 3.5, 2.5])


@pytest.mark.parametrize(
    ("assign", "expected"),
    [
        (oad.linear(0.5, 4.0), (SCORES - 2) / 3 * 3.5 + 0.5),
        (oad.sqrt(), np.sqrt(SCORES) / np.sqrt(SCORES).mean()),
        (oad.log2(), np.log2(SCORES) / np.log2(SCORES).mean()),
        (oad.sigmoid(0.5), 2 / (1 + np.exp(-0.5 * (SCORES - SCORES.mean()) / SCORES.std()))),
    ],
    ids=["linear", "sqrt", "log2", "sigmoid"],
)
class TestBuiltIn:
    """What holds for all four."""

    def test_formula(self, assign: oad.Assignment, expected: np.ndarray) -> None:
        np.testing.assert_allclose(assign(jnp.asarray(SCORES, jnp.float32)), expected, rtol=1e-5)

    def test_refused_modules_do_not_count(self, assign: oad.Assignment, expected: np.ndarray) -> None:
        with_refused = jnp.array([2.0, jnp.nan, 5.0, 3.5, jnp.nan, 2.5])
        ratios = np.asarray(assign(with_refused))
        np.testing.assert_allclose(ratios[[0, 2, 3, 5]], expected, rtol=1e-5)
        assert np.isnan(ratios[[1, 4]]).all()

    def test_equal_scores_change_nothing(self, assign: oad.Assignment, expected: np.ndarray) -> None:
        for n, score in ((5, 1.7), (11, 2.3), (7, 3.7)):
            np.testing.assert_allclose(assign(jnp.full(n, score)), 1, rtol=1e-6)
        np.testing.assert_allclose(assign(jnp.array([1.7])), 1, rtol=1e-6)
        np.testing.assert_allclose(assign(jnp.array([jnp.nan, 1.7])), [np.nan, 1], rtol=1e-6)
        assert np.isnan(assign(jnp.full(3, jnp.nan))).all()


def test_sigmoid_keeps_to_the_block() -> None:
    names = [f"layers/{block}/{module}" for block in (0, 1) for module in ("q", "k", "v")]
    scores = jnp.array([1.0, 2.0, 3.0, 100.0, 300.0, 200.0])
    assign = oad.sigmoid()
    ratios = np.asarray(assign(scores, names))
    np.testing.assert_allclose(ratios[:3], oad.sigmoid()(scores[:3]), rtol=1e-5)
    np.testing.assert_allclose(ratios[[0, 1, 2]], ratios[[3, 5, 4]], rtol=1e-5)
    everything = oad.sigmoid(block_of=lambda name: "one block")
    np.testing.assert_allclose(everything(scores, names), oad.sigmoid()(scores), rtol=1e-5)


class WithNames:
    """An assignment that is an object."""

    def __call__(self, scores: jax.Array, *, names: Sequence[str]) -> jax.Array:
        """Give ``b`` twice the decay."""
        return jnp.array([2.0 if name == "b" else 1.0 for name in names])


def by_name(factor: float, scores: jax.Array, names: Sequence[str] = ("b", "b")) -> jax.Array:
    return jnp.array([factor if name == "b" else 1.0 for name in names])


@pytest.mark.parametrize(
    ("assign", "expected"),
    [
        (WithNames(), [1, 2]),
        (functools.partial(by_name, 2.0), [1, 2]),
        (functools.partial(functools.partial(by_name, 2.0), names=["b", "a"]), [2, 1]),
        (lambda scores: jnp.full(2, 3.0), [3, 3]),
        (lambda scores, **options: jnp.full(2, 3.0 + len(options)), [3, 3]),
        (operator.itemgetter(slice(None)), [1, 2]),
    ],
)
def test_assignments_get_names_if_they_have_a_parameter_for_them(assign: oad.Assignment, expected: list[float]) -> None:
    options: Any = {"modules": True, "metric": lambda weights, gradients: weights[:, 0, 0]}
    params = {"a": jnp.ones((2, 2)), "b": 2 * jnp.ones((2, 2))}
    plain = oad.alphadecay(0.1, assign=assign, **options)
    injected = optax.inject_hyperparams(oad.alphadecay, static_args=("assign", "metric", "modules"))(
        0.1, assign=assign, **options
    )
    for optimizer in (plain, injected):
        _, state = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_array_equal(optax.tree.get(state, "ratios"), expected)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layers/3/attention/query/kernel", ("layers", "3")),
        ("params/h_11/mlp/w", ("params", "h_11")),
        ("model.layers.2.self_attn.q_proj.weight", ("model", "layers", "2")),
        ("layers/mlp/up/kernel/7", ("layers", "7")),
        ("layers/attention/query/kernel/7", ("layers", "7")),
        ("layers/mlp/w2/7", ("layers", "7")),
        ("layers/conv1/kernel/7", ("layers", "7")),
        ("params/encoder/mlp/up/kernel/7", ("params", "encoder", "7")),
        ("params/decoder/mlp/up/kernel/7", ("params", "decoder", "7")),
        ("layers/3/qkv/1", ("layers", "3")),
        ("attention/kernel", ()),
        ("Encoder_0/EncoderBlock_3/MlpBlock_0/Dense_1/kernel", ("Encoder_0", "EncoderBlock_3")),
        ("blocks/stacked/q/weight/0/2", ("blocks", "2")),  # 0 is the array in Haliax's named array
        ("blocks/layers/0/weight/2", ("blocks", "2")),  # layer 0 of an MLP in block 2
        ("layers/0/moe/wi/kernel/5", ("layers", "0")),  # expert 5 of layer 0
        ("transformer.h.3.attn.c_attn.weight[0:64]", ("transformer", "h", "3")),
        ("encoder.block.0.layer.1.DenseReluDense.wi.weight", ("encoder", "block", "0")),
        ("params/decoder/layers/moe/wi/3/5", ("params", "decoder", "layers", "3")),
        ("mlp/linear_2/w", ("mlp", "linear_2")),
        ("layers/3", ("layers", "3")),
        ("params/layers", ()),
        ("stacked/q/weight/2", ("stacked", "2")),
        ("encoder/mlp/up/7/5", ("encoder", "7")),
        ("params/7", ("params", "7")),
        ("3/4", ("3",)),
        ("7", ("7",)),
        ("a/0/b", ("a", "0")),
        ("a/b_2", ()),  # the leaf itself
    ],
)
def test_transformer_block(name: str, block: tuple[str, ...]) -> None:
    assert oad.transformer_block(name) == block


@pytest.mark.parametrize("bounds", [(-0.1, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_linear_bounds_out_of_range(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=f"lo={bounds[0]!r} and hi={bounds[1]!r}"):
        oad.linear(*bounds)


@pytest.mark.parametrize("a", [0.0, -4.0, float("nan")])
def test_sigmoid_steepness_out_of_range(a: float) -> None:
    with pytest.raises(ValueError, match=f"got {a!r}"):
        oad.sigmoid(a)


def test_sigmoid_of_scores_that_are_all_but_equal() -> None:
    """The paper's 1e-8 in the denominator: a standard deviation of 1e-8 counts half."""
    np.testing.assert_allclose(oad.sigmoid(4.0)(jnp.array([0.0, 2e-8])), 2 / (1 + np.exp([2.0, -2.0])), rtol=1e-5)


def test_a_block_without_a_good_score_breaks_no_other() -> None:
    names = ["layers/0/q", "layers/0/k", "layers/1/q", "layers/1/k"]
    ratios = oad.sigmoid()(jnp.array([jnp.nan, jnp.nan, 1.0, 3.0]), names)
    np.testing.assert_allclose(ratios, [np.nan, np.nan, *(2 / (1 + np.exp([4.0, -4.0])))], rtol=1e-5)


@pytest.mark.parametrize(
    ("assign", "scores", "expected"),
    [
        # The authors' 1e-8 in the mean.
        (oad.sqrt(), [1e-16, 9e-16], [1 / 3, 1]),
        (oad.log2(), [0.5, 8.0, jnp.inf], [-1, 3, jnp.nan]),
        (oad.sqrt(), [1.0, 9.0, jnp.inf, -4.0], [0.5, 1.5, jnp.nan, jnp.nan]),
        (oad.proportional(), [0.0, 1.0, 3.0, -2.0], [jnp.nan, 0.5, 1.5, jnp.nan]),
        (oad.proportional(-1.0), [1.0, 3.0], [1.5, 0.5]),
        (oad.proportional(2.0), [1.0, 3.0], [0.2, 1.8]),
        (oad.proportional(0), [1.0, 3.0], [1.0, 1.0]),
        (oad.proportional(), [1.0, 2.0, 3.0, 501.0], [4 / 9, 8 / 9, 12 / 9, 12 / 9]),
        (oad.proportional(fence=None), [1.0, 2.0, 3.0, 594.0], [1 / 150, 2 / 150, 3 / 150, 594 / 150]),
        (oad.linear(1.0, 1.0), [1.0, 3.0], [1.0, 1.0]),
        (oad.linear(0, 0.5), [1.0, 2.0, 3.0], [0, 0.25, 0.5]),
        (oad.linear(0, 2, mean=0.5), [1.0, 2.0, 3.0], [0, 0.5, 1.0]),
        (oad.linear(fence=1), [2.0, 2.5, 3.5, 8.0], [2 / 3, 2 / 3 + 7 / 9, 3, 3]),
        (oad.linear(0.5, 3), [2.0, 2.0, 2.0, 501.0], [1, 1, 1, 3]),
        (oad.linear(0.5, 3), [-2.0, -2.0, -2.0, -501.0], [1, 1, 1, 0.5]),
        (oad.linear(0.5, 3), [501.0, 2.0, 4.0], [3, 0.5, 3]),
        (oad.linear(0.5, 3), [1.0, 501.0], [0.5, 3]),
    ],
)
def test_ratios_by_hand(assign: oad.Assignment, scores: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(assign(jnp.array(scores)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("assign", "expected"),
    [
        # Over weights, 1 and 3 of them: ratios in proportion 1 to 2, or 0.5 to 2.
        (oad.proportional(by="weights"), [4 / 7, 8 / 7]),
        (oad.linear(0.5, 2.0, mean=1.0, by="weights"), [4 / 13, 16 / 13]),
        (oad.linear(0.5, 2.0, mean=1.5, by="modules"), [0.6, 2.4]),
    ],
)
def test_means_over_weights_and_over_modules(assign: Any, expected: list[float]) -> None:
    np.testing.assert_allclose(assign(jnp.array([1.0, 2.0]), sizes=(1, 3)), expected, rtol=1e-6)
    with_refused = assign(jnp.array([1.0, jnp.nan, 2.0]), sizes=(1, 100, 3))
    np.testing.assert_allclose(with_refused, [expected[0], np.nan, expected[1]], rtol=1e-6)


def test_an_assignment_gets_the_number_of_weights_of_each_module() -> None:
    sizes_seen: list[Any] = []

    def assign(scores: jax.Array, sizes: Sequence[int]) -> jax.Array:
        sizes_seen.append(sizes)
        return scores

    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 4, 5))}
    optimizer = oad.alphadecay(
        0.1,
        assign=assign,
        metric=oad.frobenius_norm(),
        modules={"a": True, "b": optax.contrib.MuonDimensionNumbers(1, 2)},
    )
    optimizer.update(params, optimizer.init(params), params)
    assert set(sizes_seen) == {(6, 20, 20)}


def test_by_weights_needs_a_mean_and_sizes() -> None:
    with pytest.raises(ValueError, match="by='weights' says what a mean is over"):
        oad.linear(by="weights")
    with pytest.raises(ValueError, match="needs the sizes of the modules"):
        oad.proportional(by="weights")(jnp.array([1.0, 2.0]))


def test_proportional_marks_what_is_beyond_its_fence() -> None:
    scores = jnp.array([1.0, -2.0, 2.0, 501.0, 3.0, jnp.nan])
    assert oad.proportional().fenced(scores).tolist() == [False, False, False, True, False, False]  # type: ignore[attr-defined]


def test_equal_scores_are_shared_without_a_nan_on_the_way() -> None:
    with jax.debug_nans(True):
        np.testing.assert_array_equal(oad.linear()(jnp.full(3, 2.0)), 1)
