"""The data in the page, number by number."""
# SPDX-License-Identifier: Apache-2.0

import json
import math
import re
from typing import Any

import numpy as np
import pytest

from optax_alphadecay.inspection.page import plain, render
from optax_alphadecay.inspection.records import Inspection
from optax_alphadecay.inspection.tensors import LeftOut
from tests.library.inspection.records_by_hand import module


def data_of(*inspections: Inspection) -> list[dict[str, Any]]:
    [text] = re.findall(r'id="data">(.*?)</script>', render(inspections), re.DOTALL)
    checkpoints: list[dict[str, Any]] = json.loads(text)["checkpoints"]
    return checkpoints


def spectrum_of(*eigenvalues: float) -> tuple[list[list[float]], list[list[float | None]]]:
    one = module("m", eigenvalues=np.array(eigenvalues))
    [data] = data_of(Inspection("m", (one,), (), 0.1))[0]["modules"]
    return data["spectrum"], data["fits"]


def test_small_spectra_are_drawn_whole_with_their_fits() -> None:
    """Each eigenvalue with the share of those as large; alpha, cutoff and share of the tail of each fit."""
    points, fits = spectrum_of(1, 2, 4, 8)
    assert points == [[8, 0.25], [4, 0.5], [2, 0.75], [1, 1]]
    of_first = [pytest.approx(1 + 2 / (3 * math.log(2)), rel=1e-5), 1, 1]
    assert fits == [[pytest.approx(1 + 2 / math.log(2), rel=1e-5), 4, 0.5], of_first, of_first]


def test_what_a_logarithm_does_not_have_is_not_drawn() -> None:
    points, fits = spectrum_of(-1e-3, 0, 1e-13, 2e-12, 1)
    assert points == [[1, 0.2], [2e-12, 0.4]] and fits[0] == [None, None, None]
    assert spectrum_of(math.nan, math.nan)[0] == [] and spectrum_of(0, 0, 0)[0] == []
    assert spectrum_of(3e-12, 4)[0] == [[4, 0.5]]


def test_numbers_have_six_digits() -> None:
    assert spectrum_of(1.23456789, 3e7 / 7)[0] == [[4285710.0, 0.5], [1.23457, 1]]


def test_large_spectra_are_thinned_out_from_the_largest_on() -> None:
    points, _ = spectrum_of(*np.arange(1.0, 1001))
    assert [value for value, _ in points[:4]] == [1000, 999, 998, 997]
    assert points[-1] == [1, 1] and 100 < len(points) <= 160
    assert all(share == pytest.approx((1001 - value) / 1000) for value, share in points)


def test_what_stands_beside_the_modules() -> None:
    left_out = (LeftOut("n", (3,), "float32", "a norm & <more>"),)
    first, second = data_of(
        Inspection("run/1/m", (module("a"),), left_out, 0.2), Inspection("run/2/m", (module("a"),), (), 0.1)
    )
    assert (first["label"], second["label"], first["source"], first["weight_decay"]) == ("1", "2", "run/1/m", 0.2)
    assert first["left_out"] == [["n", [3], "float32", "a norm & <more>"]] and second["left_out"] == []
    assert first["summary"][0] == "1 module was measured."
    assert first["modules"][0]["alpha"] is None and first["modules"][0]["shape"] == [4, 6]


def test_plain_values() -> None:
    assert [plain(value) for value in (math.nan, math.inf, 1.5, 0.0, (1, 2), "x", 3)] == [
        None, None, 1.5, 0.0, [1, 2], "x", 3
    ]  # fmt: skip
