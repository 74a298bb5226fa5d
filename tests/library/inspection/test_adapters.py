"""Which factors make an adapter, in which order, and what remains."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.inspection.adapters import find_adapters
from optax_alphadecay.inspection.tensors import Tensor


def tensor(name: str, *shape: int) -> Tensor:
    shape = tuple(np.array(shape, int).tolist())  # integers of its own, as of a file
    return Tensor(name, shape, np.dtype(np.float32), lambda: np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("a", "b", "shape", "rank"),
    [
        ((4, 6), (8, 4), (8, 6), 4),  # PyTorch: [r, inputs] and [outputs, r]
        ((6, 4), (4, 8), (6, 8), 4),  # Flax: [inputs, r] and [r, outputs]
        ((4, 6), (6, 4), (6, 6), 4),  # both fit, and the rank is the smaller side
        ((6, 4), (4, 6), (6, 6), 4),
        ((1, 1), (1, 1), (1, 1), 1),
        ((300, 310), (320, 300), (320, 310), 300),
        ((310, 300), (300, 320), (310, 320), 300),
        ((1, 5), (7, 1), (7, 5), 1),
    ],
)
def test_factors_are_taken_in_the_order_that_fits(
    a: tuple[int, ...], b: tuple[int, ...], shape: tuple[int, int], rank: int
) -> None:
    [adapter], rest, left_out = find_adapters([tensor("q/lora_A/weight", *a), tensor("q/lora_B/weight", *b)])
    assert (adapter.name, adapter.shape, adapter.rank, adapter.scale) == ("q/lora", shape, rank, None)
    assert (rest, left_out) == ([], [])


def test_square_factors_are_taken_as_pytorch_stores_them() -> None:
    """The product is B A, not A B."""
    a, b = np.array([[1.0, 2], [0, 1]]), np.array([[1.0, 0], [0, 5]])
    [module] = oad.inspect({"lora_A": a, "lora_B": b})
    assert module.frobenius_norm == pytest.approx(np.linalg.norm(b @ a))
    assert np.linalg.norm(b @ a) != pytest.approx(np.linalg.norm(a @ b))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((4, 6), (8, 5)),
        ((4, 6), (8, 3)),
        ((6, 5), (4, 8)),
        ((4, 6, 1), (8, 4)),
        ((4, 6), (8, 4, 1)),
        ((4,), (8, 4)),
        ((4, 6), (4,)),
        ((0, 6), (8, 0)),
        ((4, 0), (8, 4)),
        ((4, 6), (0, 4)),
    ],
)
def test_factors_that_do_not_fit_are_left_out(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    tensors = [tensor("q_lora_a", *a), tensor("other", 3, 3), tensor("q_lora_b", *b), tensor("q_alpha")]
    adapters, rest, left_out = find_adapters(tensors)
    assert adapters == [] and [one.name for one in rest] == ["other", "q_alpha"]
    reason = "a factor of an adapter without a partner that fits"
    assert [(left.name, left.shape, left.dtype, left.reason) for left in left_out] == [
        ("q_lora_a", a, "float32", reason),
        ("q_lora_b", b, "float32", reason),
    ]


def test_each_factor_finds_its_own_partner_and_scale() -> None:
    """By what stands before and behind `lora_down`; the scale is a part of the adapter then."""
    names = ["p/lora_down/w", "q/lora_down/w", "q/lora_up/w", "p/lora_up/w"]
    shapes = [(2, 5), (3, 5), (7, 3), (7, 2)]
    tensors = [tensor(name, *shape) for name, shape in zip(names, shapes, strict=True)]
    adapters, rest, left_out = find_adapters([*tensors, tensor("q/alpha"), tensor("alpha")])
    assert [(one.name, one.rank, one.left.name) for one in adapters] == [
        ("p/lora", 2, "p/lora_up/w"),
        ("q/lora", 3, "q/lora_up/w"),
    ]
    assert adapters[0].scale is None and adapters[1].scale is not None and adapters[1].scale.name == "q/alpha"
    assert [one.name for one in rest] == ["alpha"] and left_out == []


def test_a_factor_alone_is_left_out() -> None:
    adapters, rest, left_out = find_adapters([tensor("x", 2, 2), tensor("q/lora_A", 4, 6), tensor("p/lora_B", 6, 4)])
    assert adapters == [] and [one.name for one in rest] == ["x", "p/lora_B"]
    assert [left.name for left in left_out] == ["q/lora_A"]


def test_a_stored_scale_goes_over_the_rank() -> None:
    """The mean of it, where it has several values."""
    down, up = np.ones((2, 5)), np.ones((7, 2))
    for alpha in (np.float32(8), np.array([6.0, 10])):
        params = {"lora_down": down, "lora_up": up, "alpha": alpha}
        [module] = oad.inspect(params)
        assert module.spectral_norm == pytest.approx(8 / 2 * np.linalg.norm(up @ down, 2))
        assert module.note == "LoRA of rank 2"
    [module] = oad.inspect({"lora_down": down, "lora_up": up})
    assert module.note == "LoRA of rank 2; its scale is not stored and taken for 1"
    assert module.spectral_norm == pytest.approx(np.linalg.norm(up @ down, 2))
