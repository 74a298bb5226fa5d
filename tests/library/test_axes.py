"""How the axes of a leaf are read: what a rule may say of it, and what an error proposes."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers as Numbers

import optax_alphadecay as oad
from optax_alphadecay import modules
from optax_alphadecay.modules import axes
from tests.library.test_modules import selected

INWARD = Numbers(0, (1, 2)), "[inputs, heads, head size]"
OUTWARD = Numbers((0, 1), 2), "[heads, head size, outputs]"
STACKED = Numbers(1, 2), "[stack, inputs, outputs]"
WINDOW = Numbers((0, 1, 2), 3), "[taps, taps, inputs, outputs]"


@pytest.mark.parametrize(
    ("name", "shape", "stack", "expected"),
    [
        ("attention/query/kernel", (64, 4, 16), (), [INWARD, OUTWARD, STACKED]),
        ("attention/key/kernel", (3, 64, 64), (), [INWARD, OUTWARD, STACKED]),
        ("Attention/out/kernel", (4, 16, 64), (), [OUTWARD, INWARD, STACKED]),
        ("attention/o_proj/kernel", (4, 16, 64), (), [OUTWARD, INWARD, STACKED]),
        # A first axis that is shorter than both others runs over a stack, unless attention has it.
        ("mlp/up", (3, 64, 32), (), [STACKED, INWARD, OUTWARD]),
        ("mlp/wo", (3, 64, 32), (), [STACKED, OUTWARD, INWARD]),
        ("mlp/up", (32, 3, 64), (), [INWARD, OUTWARD, STACKED]),
        ("mlp/up", (32, 64, 32), (), [INWARD, OUTWARD, STACKED]),
        ("moe/wi", (8, 64, 96), (), [STACKED]),
        ("Experts/0/w", (8, 64, 96), (), [STACKED]),
        ("Conv_0/kernel", (3, 3, 64, 96), (), [WINDOW, (Numbers((1, 2, 3), 0), "[outputs, inputs, taps, taps]")]),
        (
            "qkv/kernel",
            (64, 3, 4, 16),
            (),
            [
                WINDOW,
                (Numbers(0, (2, 3)), "[inputs, parts, heads, head size]"),
                (Numbers(2, 3), "[stack, stack, inputs, outputs]"),
            ],
        ),
        (
            "w",
            (2, 3, 4, 5, 6),
            (),
            [
                (Numbers((0, 1, 2, 3), 4), "[taps, taps, taps, inputs, outputs]"),
                (Numbers(3, 4), "[stack, stack, stack, inputs, outputs]"),
            ],
        ),
        (
            "mlp/up",
            (64, 2, 4, 16),
            (1,),
            [
                (Numbers(0, (2, 3)), "[inputs, layers, heads, head size]"),
                (Numbers((0, 2), 3), "[heads, layers, head size, outputs]"),
                (Numbers(2, 3), "[stack, layers, inputs, outputs]"),
            ],
        ),
    ],
)
def test_axes_that_cannot_be_guessed_are_read_the_likeliest_way_first(
    name: str, shape: tuple[int, ...], stack: tuple[int, ...], expected: Any
) -> None:
    assert axes.readings(name, shape, stack) == expected


@pytest.mark.parametrize(
    ("shape", "most"), [((5,), 0), ((7, 9), 7), ((2, 3, 4), 4), ((5, 10, 50), 50), ((1, 1, 512), 1), ((3, 3, 1, 49), 9)]
)
def test_the_most_eigenvalues_of_any_reading(shape: tuple[int, ...], most: int) -> None:
    """By hand: of all ways to cut the axes in two, the largest smaller side."""
    assert axes.most_eigenvalues(shape) == most


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("0/attention/w", r"attention/w$"),
        ("0/w", r"\d+/w$"),
        ("0/1", r"\d+/\d+$"),
        ("a/b/c.d", r"c/d$"),
        ("a/w/value", r"a/w$"),
    ],
)
def test_the_line_to_paste_has_the_last_two_names(name: str, pattern: str) -> None:
    text = axes.cannot_guess(name, (4, 5, 6))
    assert f'axes={{r"{pattern}": ' in text and "which of its 3 axes" in text
    assert "stacked=" in text, "layers may be scanned, for all that is known"


def test_axes_count_from_either_end_and_no_further() -> None:
    leaf = {"w": jnp.ones((2, 3))}
    assert [stack.axes for stack in modules.resolve(leaf, {"w": Numbers(-2, -1)})] == [((), (0,), (1,))]
    for numbers in (Numbers(-3, 1), Numbers(-4, 1), Numbers(0, 2), Numbers(0, 3), Numbers(0, ())):
        with pytest.raises(ValueError, match=r"out of range for 'w'|distinct, non-empty .* got \(0,\) and \(\)"):
            modules.resolve(leaf, {"w": numbers})


@pytest.mark.parametrize("stack", [(0,), (0, 0), (1, 1), (0, 1, 1), (0, 3)])
def test_stacked_axes_are_all_that_are_neither_inputs_nor_outputs(stack: tuple[int, ...]) -> None:
    choice = oad.MatrixAxes(Numbers(2, 3), stack=stack)
    with pytest.raises(ValueError, match=r"must name the axes \(0, 1\)"):
        modules.resolve({"w": jnp.ones((2, 2, 3, 4))}, {"w": choice})


def test_parts_need_one_output_axis_their_length_and_a_choice_each() -> None:
    def fails(shape: tuple[int, ...], numbers: Numbers, message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            modules.resolve({"w": jnp.ones(shape)}, {"w": oad.MatrixAxes(numbers, **options)})

    for sizes in ((2, 2), (4, 4)):
        fails((9, 7, 5), Numbers((0, 1), 2), rf"add up to {sum(sizes)}, but .* length 5\.$", sizes=sizes)
    fails((6, 6, 5), Numbers((0, 1), 2), r"length 5\. Axis 0 is so long: name it as the output", sizes=(3, 3))
    for taken in ((True,), (True, True, False)):
        fails((4, 5), Numbers(), "must say of each of the 2 parts", sizes=(1, 4), taken=taken)
    assert selected({"w": jnp.ones((4, 5))}, {"w": oad.MatrixAxes(sizes=(1, 4))}) == ["w[0:1]", "w[1:5]"]


def test_parts_and_stacks_in_any_order_are_matrices_and_back() -> None:
    leaf = jnp.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    choice = oad.MatrixAxes(Numbers(2, 3), stack=(1, 0), sizes=(3, 1, 1), taken=(True, False, True))
    first, last = modules.resolve({"w": leaf}, {"w": choice})
    assert (first.shape, last.shape) == ((6, 4, 3), (6, 4, 1))
    [ratios] = modules.broadcast_to_leaves((first, last), jnp.arange(1.0, 13).__getitem__).values()
    expected = np.ones((2, 3, 1, 5))
    for number, (i, j) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]):
        np.testing.assert_array_equal(first.as_matrices(leaf)[number], leaf[i, j, :, :3])
        np.testing.assert_array_equal(last.as_matrices(leaf)[number], leaf[i, j, :, 4:])
        expected[i, j, 0, :3], expected[i, j, 0, 4] = number + 1, number + 7
    np.testing.assert_array_equal(ratios, expected)


@pytest.mark.parametrize("leaf", [jnp.ones((0, 5)), jnp.ones(5), jnp.ones((4, 5), int), jnp.ones((4, 5), complex)])
def test_what_holds_no_real_matrix_is_no_module(leaf: jax.Array) -> None:
    with pytest.raises(ValueError, match="it holds no real matrix"):
        modules.resolve({"w": leaf}, {"w": True})
