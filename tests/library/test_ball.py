"""Balls on small matrices by hand: what eps does, sides of one and none, and which axes are guessed."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad

TINY = jnp.array([[3e-8, 4e-8, 0.0, 0.0], [0.0, 0.0, -3e-8, 4e-8]])


@pytest.mark.parametrize(
    ("ball", "root_mean_squares", "axis", "size"),
    [
        # Of an input over all outputs, 5e-8 / sqrt(4) here.
        (oad.column_ball(), [2.5e-8, 2.5e-8], 1, 1.0),
        (oad.column_ball(normalized=True), [2.5e-8, 2.5e-8], 1, 0.5),
        (oad.bias_ball(axes=MuonDimensionNumbers((), 1)), [2.5e-8, 2.5e-8], 1, 1.0),
    ],
)
def test_eps_is_added_to_the_root_mean_square(ball: Any, root_mean_squares: Any, axis: int, size: float) -> None:
    """As in the official code: vectors of a root mean square near 1e-8 come out shorter than others."""
    rms = np.array(root_mean_squares)
    eps = 1e-8 * size  # what the vectors are multiplied by multiplies it, too
    found = np.sqrt((np.asarray(ball.extreme_point(TINY)) ** 2).mean(axis=axis))
    np.testing.assert_allclose(found, size * rms / (rms + eps), rtol=1e-5)


def test_rows_have_an_eps_of_their_own_size() -> None:
    """Two inputs: steps are divided by the root of 2, and so is eps."""
    length = np.array([3e-8, 4e-8, 3e-8, 4e-8])
    found = np.linalg.norm(oad.row_ball().extreme_point(TINY), axis=0)
    np.testing.assert_allclose(found, length / (length + 1e-8 / np.sqrt(2)) / np.sqrt(2), rtol=1e-5)
    found = np.linalg.norm(oad.row_ball(normalized=False).extreme_point(TINY), axis=0)
    np.testing.assert_allclose(found, length / (length + 1e-8), rtol=1e-5)


def test_signs_of_one_input_and_of_none() -> None:
    np.testing.assert_array_equal(oad.sign_ball().extreme_point(jnp.array([[2.0, -3.0, 0.0]])), [[1, -1, 0]])
    np.testing.assert_array_equal(oad.sign_ball().norm(jnp.array([[2.0, -3.0, 0.0]])), [3])
    assert oad.sign_ball().extreme_point(jnp.zeros((0, 4))).shape == (0, 4)


def test_a_bias_of_rank_two_is_seen_as_inputs_and_outputs() -> None:
    """Unless its axes say otherwise, each input has a vector of its own."""
    leaf = jnp.array([[3.0, 4.0], [0.6, 0.8]])
    np.testing.assert_allclose(oad.bias_ball().extreme_point(leaf), np.sqrt(2) * np.array([[0.6, 0.8]] * 2), rtol=1e-6)
    with pytest.raises(ValueError, match=r"the shape \(2, 3, 4\) are inputs, outputs and stacked is not known"):
        oad.bias_ball().view((2, 3, 4))


def test_guessed_axes() -> None:
    for ball in (oad.sign_ball(), oad.spectral_norm_ball(), oad.convolution_ball()):
        for shape in ((5,), (2, 2, 2, 2, 2)):
            with pytest.raises(ValueError, match="is not known; give the ball axes"):
                ball.view(shape)
        assert (ball.view((4, 6)).inputs, ball.view((4, 6)).outputs) == ((0,), (1,))
    assert oad.convolution_ball().view((3, 4, 6)).inputs == (0, 1)
    assert oad.convolution_ball().view((3, 5, 4, 6)).inputs == (0, 1, 2)


def test_an_orthogonalised_leaf_is_scaled_and_nothing_else() -> None:
    orthogonal = jnp.full((2, 8), 0.5)
    for ball, size in ((oad.spectral_norm_ball(), 2.0), (oad.spectral_norm_ball(normalized=False), np.sqrt(8))):
        np.testing.assert_allclose(ball.extreme_point(jnp.ones((2, 8)), orthogonal), 0.5 * size, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1e-4, 1.0, 300.0])
def test_balls_of_vectors_keep_short_dtypes_in_range(size: float, dtype: Any) -> None:
    leaf = jnp.full((64, 64), size, dtype)
    for ball in (oad.column_ball(), oad.row_ball(), oad.bias_ball(axes=MuonDimensionNumbers((), 1))):
        found = ball.extreme_point(leaf)
        exact = ball.extreme_point(leaf.astype(jnp.float32))
        assert found.dtype == dtype
        np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=1e-2)


def test_which_balls_are_spectral() -> None:
    assert oad.spectral_norm_ball().is_spectral and oad.convolution_ball().is_spectral
    for ball in (oad.sign_ball(), oad.column_ball(), oad.row_ball(), oad.bias_ball()):
        assert not ball.is_spectral


@pytest.mark.parametrize("settled", [oad.stochastic(), oad.median(), oad.stable_rank(), oad.grad_norm()])
def test_settings_cannot_be_changed(settled: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settled, dataclasses.fields(settled)[0].name, 1)


def test_a_stacked_table_is_not_taken_for_a_tied_embedding() -> None:
    params = {"embed": jnp.ones((2, 3, 4))}
    assert oad.scion_norms(False)(params) == {"embed": oad.sign_ball(radius=60.0)}
    with pytest.raises(ValueError, match=r"Sign ball of 'embed'.*\(2, 3, 4\)"):
        oad.scion(0.1, norms=oad.scion_norms(False)).init(params)


def test_stacks_of_vectors_are_known_by_name_at_any_rank() -> None:
    params = {"norm": jnp.ones((2, 3, 8)), "b": jnp.ones((4, 8)), "scale": jnp.ones(8)}
    assert oad.scion_norms(False)(params) == {
        "norm": oad.bias_ball(axes=MuonDimensionNumbers((), 2)),
        "b": oad.bias_ball(axes=MuonDimensionNumbers((), 1)),
        "scale": oad.bias_ball(),
    }
