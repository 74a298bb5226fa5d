"""Leaves seen as matrices: which axes go where, and back."""
# SPDX-License-Identifier: Apache-2.0

import jax.numpy as jnp
import numpy as np
import pytest

from optax_alphadecay.norms.matrix_view import view


def test_axes_count_from_either_end() -> None:
    assert view((4, 5), -2, -1) == view((4, 5), 0, 1)
    assert view((3, 4, 5), (-3, 1), -1) == view((3, 4, 5), (0, 1), 2)


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 2), (2, 1), (-3, 1), (0, -3), ((0, 5), 1)])
def test_axes_out_of_range_are_refused(inputs: object, outputs: object) -> None:
    with pytest.raises(ValueError, match=r"are out of range for the shape \(4, 5\)"):
        view((4, 5), inputs, outputs)


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs"),
    [((4, 5), 0, 0), ((4, 5), 1, -1), ((4, 5), (0, 0), 1), ((3,), 0, ()), ((3,), (), ()), ((4, 5), 0, ())],
)
def test_axes_named_twice_and_no_outputs_are_refused(shape: tuple[int, ...], inputs: object, outputs: object) -> None:
    with pytest.raises(ValueError, match="must be distinct, and some of them outputs"):
        view(shape, inputs, outputs)


def test_a_scalar_is_a_matrix_of_one_entry() -> None:
    seen = view((), (), ())
    assert seen.as_matrices(jnp.array(3.0)).tolist() == [[[3.0]]]
    assert seen.as_leaf(jnp.array([[[3.0]]])).shape == ()


def test_axes_are_taken_in_the_order_given() -> None:
    leaf = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    seen = view(leaf.shape, (3, 0), 2)
    assert seen.stacked == (1,) and seen.size(seen.inputs) == 10
    matrices = seen.as_matrices(leaf)
    assert matrices.shape == (3, 10, 4)
    assert matrices[2, 3 * 2 + 1, 1] == leaf[1, 2, 1, 3]
    np.testing.assert_array_equal(seen.as_leaf(matrices), leaf)
