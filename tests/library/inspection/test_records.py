"""Records of small spectra against numbers by hand."""
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.inspection.records import Inspection, ModuleRecord, layer_and_type, record
from optax_alphadecay.inspection.spectra import Spectrum
from tests.library.inspection.records_by_hand import NUMBERS, module


def of(values: list[float], stddev: float = 1.0, *, is_product: bool = False) -> ModuleRecord:
    spectrum = Spectrum(np.array(values), 0.0, stddev, 7)
    return record("layers/3/up", (4, 10), "float32", spectrum, note="seen", is_product=is_product)


def test_what_is_read_off_the_eigenvalues() -> None:
    """The upper half of 1, 2, 4 and 100 has the alpha 1 + 2 / ln 25."""
    found = of([1.0, 2, 4, 100], stddev=0.5)
    alpha = 1 + 2 / math.log(25)
    assert found.alpha == pytest.approx(alpha)
    assert found.alpha_hat == pytest.approx(math.log(1 + math.exp(2 * alpha)))
    assert found.frobenius_norm == pytest.approx(math.sqrt(107)) and found.spectral_norm == 10
    assert found.stable_rank == pytest.approx(1.07)
    shares = [value / 107 for value in (1, 2, 4, 100)]
    assert found.entropy == pytest.approx(-sum(share * math.log(share) for share in shares) / math.log(4))
    assert found.mp_edge == pytest.approx(0.25 * (2 + math.sqrt(10)) ** 2)
    assert (found.beyond_edge, found.traps, found.note, found.layer, found.type) == (1, 7, "seen", 3, "up")
    assert (found.name, found.shape, found.dtype) == ("layers/3/up", (4, 10), "float32")


def test_the_three_fits_have_their_own_fields() -> None:
    """The best cutoff is 2; the peak of the density lies at 7.9 and 8, so that one near it is 7.9."""
    found = of([0.5, 2, 7.9, 8])
    assert found.alpha == found.alpha_fix_finger == pytest.approx(1 + 2 / math.log(8 / 7.9))
    assert found.xmin in (0.5, 2.0)
    tail = np.array([value for value in (0.5, 2, 7.9, 8) if value >= found.xmin])
    assert found.alpha_goodness_of_fit == pytest.approx(1 + len(tail) / np.log(tail / found.xmin).sum())
    assert 0 < found.ks_distance < 1


def test_entropy_leaves_out_zeros_and_round_off() -> None:
    assert of([1.0, 1]).entropy == pytest.approx(1)
    assert of([-1e-20, 0, 1, 1]).entropy == pytest.approx(1 / 2)
    assert of([0.0, 0, 5]).entropy == 0
    assert math.isnan(of([5.0]).entropy) and math.isnan(of([0.0, 0.0]).entropy)


def test_what_is_zero_or_negative_by_round_off() -> None:
    assert of([0.25, 0.5]).stable_rank == 1.5
    zero, negative = of([0.0, 0.0], 0.0), of([-1e-20, -1e-21], 0.0)
    assert (zero.frobenius_norm, zero.spectral_norm, zero.beyond_edge) == (0, 0, 0)
    assert all(map(math.isnan, (zero.stable_rank, negative.stable_rank, negative.frobenius_norm)))
    assert math.isnan(negative.spectral_norm)


def test_products_are_compared_to_no_random_matrix() -> None:
    found = of([1.0, 2], math.nan, is_product=True)
    assert found.is_product and found.beyond_edge == -1
    assert math.isnan(found.random_alpha) and math.isnan(found.mp_edge)
    own = of([1.0, 2])
    assert not own.is_product and math.isfinite(own.random_alpha) and own.beyond_edge == 0
    assert math.isnan(own.ratio) and math.isnan(own.decay)


def test_an_inspection_is_a_sequence_of_records() -> None:
    modules = (module("a"), module("b"))
    inspection = Inspection("m", modules, (), 0.1)
    assert list(inspection) == list(modules) and len(inspection) == 2
    frame = inspection.to_pandas()
    assert list(frame["name"]) == ["a", "b"] and list(frame.columns)[:3] == ["name", "type", "layer"]
    assert (module("a").note, module("a").is_product) == ("", False)


def test_records_are_shown_and_compared_without_their_spectra() -> None:
    one, other = (
        module("a", eigenvalues=np.ones(count), ratio=1.0, decay=0.1, **dict.fromkeys(NUMBERS, 1.0)) for count in (2, 3)
    )
    assert one == other != module("b") and "eigenvalues" not in repr(one)


def test_matrices_without_a_name_are_measured() -> None:
    """Such as in a list, or of layers that are one matrix each."""
    matrix = np.random.default_rng(0).standard_normal((60, 60))
    for params, expected in (([matrix], ("0", 0, "0")), ({"layers": [matrix]}, ("layers/0", 0, "layers"))):
        [found] = oad.inspect(params, shuffle=False)
        assert (found.name, found.layer, found.type) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder/layer/3/attention/self/query/weight", (3, "attention/self/query")),
        ("model/layers/11/mlp/up_proj/lora", (11, "mlp/up_proj/lora")),
        ("h_2/attn/kernel", (2, "attn")),
        ("layers/3/experts/w1/7", (3, "experts/w1")),
        ("layers/mlp/up/kernel/3", (3, "mlp/up")),
        ("pooler/dense/weight", (None, "pooler/dense")),
        ("weight", (None, "weight")),
        ("params/h_12/attn/kernel", (12, "attn")),
        ("decoder/layers2_block7/mlp/w", (7, "mlp")),
        ("params/layers/mlp/up/kernel/3", (3, "mlp/up")),
        ("params/layers/mlp/experts/kernel/3/5", (3, "mlp/experts")),
        ("layers/3", (3, "layers")),
        ("layers/3/weight", (3, "weight")),
        ("w/3", (3, "w")),
        ("5", (5, "5")),
        ("a/b/2", (2, "b")),
        ("scale", (None, "scale")),
    ],
)
def test_layer_and_type(name: str, expected: tuple[int | None, str]) -> None:
    assert layer_and_type(name) == expected
