"""Each sentence of an inspection, word for word, at the numbers where it turns."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import numpy as np
import pytest

from optax_alphadecay.inspection.records import Inspection, ModuleRecord
from optax_alphadecay.inspection.summary import sentences
from optax_alphadecay.inspection.tensors import LeftOut
from tests.library.inspection.records_by_hand import module


def said_of(*modules: ModuleRecord, left_out: tuple[LeftOut, ...] = (), weight_decay: float = 0.1) -> list[str]:
    return sentences(Inspection("m", modules, left_out, weight_decay))


def test_alphas_go_from_the_lowest_to_the_highest() -> None:
    assert said_of(module("b", alpha=2.5), module("c", alpha=3.25), module("a", alpha=1.5)) == [
        "3 modules were measured.",
        "Alpha goes from 1.50 (a, the heaviest tail) to 3.25 (c, the lightest).",
    ]
    assert said_of(module("x")) == [
        "1 module was measured.",
        "x has no alpha: the spectrum is constant, nearly of low rank, or not finite.",
    ]


@pytest.mark.parametrize(
    ("count", "names"), [(2, "m0, m1"), (3, "m0, m1, m2"), (4, "m0, m1, m2 and 1 more"), (6, "m0, m1, m2 and 3 more")]
)
def test_at_most_three_are_named(count: int, names: str) -> None:
    _, said = said_of(*(module(f"m{at}") for at in range(count)))
    assert said == f"{names} have no alpha: the spectrum is constant, nearly of low rank, or not finite."


@pytest.mark.parametrize(("eigenvalues", "limit"), [(4, 3 - 4 * 2 / 2), (9, 3 - 4 * 2 / 5), (101, 3 - 4 * 2 / 51)])
def test_a_tail_is_heavy_from_four_units_below_a_random_one(eigenvalues: int, limit: float) -> None:
    """A unit is random_alpha - 1 over the size of the tail, which is the larger half."""
    known: dict[str, Any] = {"random_alpha": 3.0, "eigenvalues": np.ones(eigenvalues)}
    heavy, light = module("heavy", alpha=limit - 1e-3, **known), module("light", alpha=limit + 1e-3, **known)
    assert said_of(heavy)[2] == "Every tail is heavy: heavier than in 999 of 1,000 random matrices of the same shape."
    is_light = "a light tail, no heavier than a random matrix of the same shape can have"
    assert (
        said_of(heavy, light, module("other"))[3] == f"1 of 2 modules has {is_light}: light. The other has a heavy one."
    )
    assert said_of(light)[2] == f"1 of 1 module has {is_light}: light."
    assert said_of(light, light)[2] == f"2 of 2 modules have {is_light}: light, light."


def test_traps_are_told_where_they_were_measured() -> None:
    what = (
        "correlation traps, large eigenvalues that stay when the entries are shuffled: they come from single large"
        " entries, or from a mean that is not 0"
    )
    not_measured, none, one, two = (module(f"m{traps}", alpha=2.0, traps=traps) for traps in (-1, 0, 1, 2))
    assert len(said_of(not_measured)) == 2
    assert said_of(not_measured, none)[2:] == ["No module has correlation traps."]
    assert said_of(not_measured, none, one)[2:] == [f"1 has {what}: m1."]
    assert said_of(one, two, none)[2:] == [f"2 have {what}: m1, m2."]


def test_decays_go_from_the_least_to_the_most() -> None:
    ratios = {"b": 1.0, "c": 4.0, "a": 0.5}
    modules = [module(name, ratio=ratio, decay=0.02 * ratio) for name, ratio in ratios.items()]
    assert said_of(*modules, module("none"), weight_decay=0.02)[2:] == [
        "At a base rate of 0.02, AlphaDecay would give c the most decay (0.08) and a the least (0.01); the mean over"
        " modules is 1.83 times the base rate."
    ]


def test_what_was_left_out_is_counted_by_its_reason() -> None:
    tensors = [LeftOut("n", (3,), "bfloat16", reason) for reason in ("a norm", "its axes", "a norm")]
    files = [LeftOut("f", (), "file", "a state")]
    counted = "3 tensors were left out: 2 (a norm); 1 (its axes)."
    hint = (
        "To measure tensors whose axes are not known: --stacked layers, with the name of the part of the model whose"
        " tensors hold all layers; or --axes REGEX=IN:OUT (in Python stacked= and axes= of block_matrices)."
    )
    nothing = "No module was found."
    assert said_of(left_out=(*tensors, *files)) == [nothing, counted, "1 file was left out: 1 (a state).", hint]
    assert said_of(left_out=tuple(2 * files)) == [nothing, "2 files were left out: 2 (a state)."]
    assert said_of(left_out=tuple(tensors[:1])) == [nothing, "1 tensor was left out: 1 (a norm)."]
    assert said_of(module("m", alpha=2.0), left_out=tuple(tensors))[2:] == [counted, hint]
