"""Orthogonalisers on diagonal matrices, whose singular values follow the published polynomials one by one."""
# SPDX-License-Identifier: Apache-2.0

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_alphadecay.norms import orthogonalize as orthogonalize_lib
from optax_alphadecay.norms.orthogonalize import newton_schulz, orthogonalizer, polar_express, polar_factor

# Of the Polar Express paper, as published: for arguments that no safety factor divides.
POLAR_EXPRESS = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
]
VALUES = np.array([0.02, 0.3, 1.0, 1.7])


def diagonal(values: np.ndarray, rows: int, columns: int) -> jax.Array:
    entries = np.arange(len(values))
    return jnp.zeros((1, rows, columns)).at[0, entries, entries].set(values)


@pytest.mark.parametrize("shape", [(4, 4), (4, 6), (6, 4)])
@pytest.mark.parametrize("scale", [1.0, 1e-8])
def test_polar_express_evaluates_its_polynomials(shape: tuple[int, int], scale: float) -> None:
    values = scale * VALUES / (1.01 * scale * np.linalg.norm(VALUES) + 1e-8)
    for a, b, c in POLAR_EXPRESS:
        safe = values / 1.01
        values = a * safe + b * safe**3 + c * safe**5
    found = polar_express(diagonal(scale * VALUES, *shape))
    np.testing.assert_allclose(found, diagonal(values, *shape), rtol=2e-5)


@pytest.mark.parametrize("shape", [(4, 4), (4, 6), (6, 4)])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_newton_schulz_evaluates_its_polynomial(shape: tuple[int, int], scale: float) -> None:
    values = scale * VALUES / (scale * np.linalg.norm(VALUES) + 1e-7)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    found = newton_schulz(diagonal(scale * VALUES, *shape))
    np.testing.assert_allclose(found, diagonal(values, *shape), rtol=2e-5)


def test_each_matrix_of_a_stack_has_a_norm_and_a_polar_factor_of_its_own() -> None:
    stack = jnp.concatenate([diagonal(VALUES, 4, 5), jnp.zeros((1, 4, 5)), -1e-3 * diagonal(VALUES, 4, 5)])
    expected = np.stack([np.eye(4, 5), np.zeros((4, 5)), -np.eye(4, 5)])
    np.testing.assert_allclose(polar_factor(stack), expected, atol=1e-6)
    for method in (newton_schulz, polar_express):
        found = method(stack)
        np.testing.assert_allclose(found[2], -found[0], rtol=1e-3)
        np.testing.assert_array_equal(found[1], 0)


def test_half_precision_is_kept() -> None:
    stack = jnp.ones((2, 3, 200), jnp.bfloat16)
    for method in (newton_schulz, polar_express, polar_factor):
        assert method(stack).dtype == jnp.bfloat16


@pytest.mark.parametrize("elements", [24, 23, 16, 8, 5])
def test_stacks_beyond_the_bound_are_cut_up(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orthogonalize_lib, "_ELEMENTS_AT_ONCE", elements)
    stack = jnp.arange(24.0).reshape(3, 2, 4)
    lengths: list[int] = []

    def double(matrices: jax.Array) -> jax.Array:
        lengths.append(len(matrices))
        return 2 * matrices

    np.testing.assert_array_equal(orthogonalizer("scion", double)(stack), 2 * stack)
    assert set(lengths) == ({3} if elements == 24 else {1})  # one, of which as many as fit are mapped over


def test_a_matrix_with_nan_is_not_taken_for_zeros() -> None:
    matrices = jnp.stack([jnp.eye(3), jnp.zeros((3, 3)), jnp.eye(3).at[1, 2].set(jnp.nan)])
    found = np.asarray(polar_factor(matrices))
    np.testing.assert_allclose(found[:2], matrices[:2], atol=1e-6)
    assert np.isnan(found[2]).all()
