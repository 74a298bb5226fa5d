"""Groups come back in order."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optax_alphadecay as oad
from optax_alphadecay.grouping import in_rows, map_groups, part_of, split


@given(st.lists(st.integers(-9, 9)))
def test_results_are_in_the_order_of_the_items_and_groups_are_alike(items: list[int]) -> None:
    seen: list[list[int]] = []

    def double(groups: list[list[int]]) -> list[list[int]]:
        seen.extend(groups)
        return [[2 * item for item in group] for group in groups]

    assert map_groups(double, items, key=lambda item: item % 3) == [2 * item for item in items]
    assert sorted(group[0] % 3 for group in seen) == sorted({item % 3 for item in items})
    assert all(len({item % 3 for item in group}) == 1 for group in seen)


def test_every_item_needs_a_result() -> None:
    with pytest.raises(ValueError, match="zip"):
        map_groups(lambda groups: [group[1:] for group in groups], [1, 2], key=lambda item: 0)


def test_split_is_the_inverse_of_concatenation() -> None:
    parts = [np.arange(6).reshape(3, 2), np.zeros((0, 2), int), np.ones((1, 2), int)]
    for found, part in zip(split(jnp.concatenate(parts), [3, 0, 1]), parts, strict=True):
        np.testing.assert_array_equal(found, part)


@pytest.mark.parametrize("length", [0, 1, 64, 65, 300])
def test_parts_of_rows_are_parts_of_the_vector(length: int) -> None:
    vector = jnp.arange(length)
    rows = in_rows(vector)
    np.testing.assert_array_equal(jnp.concatenate([jnp.zeros(0, int), *rows]), vector)
    for start, stop in [(position, position + 1) for position in range(length)] + [(0, length)]:
        np.testing.assert_array_equal(part_of(vector, rows, slice(start, stop)), vector[start:stop])


def test_long_vectors_are_taken_apart_by_few_kinds_of_slices() -> None:
    rows = in_rows(jnp.arange(1000))
    assert len(rows) + len(rows[0]) < 70


def test_leaves_of_one_shape_are_solved_as_one() -> None:
    def operations(number: int) -> list[int]:
        params = {f"layer_{at}": jax.ShapeDtypeStruct((64, 64), jnp.float32) for at in range(number)}
        optimizer = oad.alphadecay(0.1, modules=dict.fromkeys(params, True))
        state = jax.eval_shape(optimizer.init, params)
        program = jax.jit(optimizer.update).lower(params, state, params).as_text()
        return [program.count(f"stablehlo.{name}") for name in ("while", "case", "custom_call")]

    few = operations(4)
    assert operations(40) == few and few[0] > 0
