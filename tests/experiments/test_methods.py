"""Settings of methods: what one would ignore is refused, and another method gets what it has."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
from typing import Any

import pytest

from experiments.methods import AlphaDecay, GradientScale, NoDecay, Uniform, with_settings

BASE = AlphaDecay(learning_rate=0.01, weight_decay=0.1, refresh_every=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assign": "sqrt", "unit_mean": True}, r"optimizer\.unit_mean=True is a setting of optimizer\.assign=linear"),
        ({"mean_over": "weights"}, r"optimizer\.mean_over=weights is a setting of optimizer\.unit_mean=True"),
        ({"assign": "log2", "scale_range": (1.0, 2.0)}, r"optimizer\.scale_range=\(1\.0, 2\.0\) .*which is log2"),
        ({"corrected": True}, r"optimizer\.corrected=True is a setting of optimizer\.coupling=adamw, which is adam"),
        ({"metric": "grad_norm", "fit": "fix_finger"}, r"optimizer\.fit=fix_finger .*metric=pl_alpha_hill"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlphaDecay(**settings)


def test_a_range_of_gradient_scale_has_two_ends() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.alpha_range=\(1\.0,\) must be two numbers, or none"):
        GradientScale(alpha_range=(1.0,))


def test_another_method_gets_what_it_has_and_no_more() -> None:
    assert with_settings(BASE, "uniform") == Uniform(learning_rate=0.01, weight_decay=0.1)
    assert with_settings(BASE, "none", coupling="adamw") == NoDecay(learning_rate=0.01)
    assert with_settings(Uniform(weight_decay=0.3), "alphadecay", reverse=True) == AlphaDecay(
        weight_decay=0.3, reverse=True
    )
    assert with_settings(BASE, assign="sqrt", reverse=True) == dataclasses.replace(BASE, assign="sqrt")
    by_weights = with_settings(BASE, unit_mean=True, mean_over="weights")
    assert (
        with_settings(by_weights, unit_mean=False)
        == with_settings(by_weights, assign="linear", unit_mean=False)
        == BASE
    )
    with pytest.raises(ValueError, match=r"optimizer\.method=magic is none of none, uniform"):
        with_settings(BASE, "magic")
    with pytest.raises(ValueError, match="no optimizer has a setting 'speed'"):
        with_settings(BASE, speed=9)
