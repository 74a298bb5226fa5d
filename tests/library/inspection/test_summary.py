"""The sentences under the table, held to what was measured."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import numpy as np

import optax_alphadecay as oad
from optax_alphadecay.inspection.summary import sentences


def test_summary_is_true_of_what_was_measured() -> None:
    rng = np.random.default_rng(0)
    params: dict[str, Any] = {
        "heavy": rng.standard_normal((64, 64)) * np.geomspace(1, 30, 64),
        "trap": rng.standard_normal((64, 64)),
        "ones": np.ones((64, 64)),
    }
    params["trap"][0, 0] = 80
    said = sentences(oad.inspect(params))
    assert said[0] == "3 modules were measured."
    assert said[2] == "ones has no alpha: the spectrum is constant, nearly of low rank, or not finite."
    assert any(
        sentence.startswith("2 have correlation traps") and sentence.endswith(": ones, trap.") for sentence in said
    )
    assert any("give trap the most decay (" in sentence and " and heavy the least (" in sentence for sentence in said)
    one = sentences(oad.inspect({"heavy": params["heavy"]}, shuffle=False))
    assert one[0] == "1 module was measured." and not any("traps" in sentence for sentence in one)
    assert one[2] == "Every tail is heavy: heavier than in 999 of 1,000 random matrices of the same shape."
    assert one[1].startswith("The alpha of heavy is ")
    assert one[3] == "heavy keeps the base rate: AlphaDecay compares alphas, and no other module has one."
    twice = sentences(oad.inspect({"heavy": params["heavy"]}, assign=lambda scores: 0 * scores + 2.0))
    assert any("AlphaDecay would give heavy the most decay (0.2)" in sentence for sentence in twice)
    many = sentences(oad.inspect({f"m{i}": rng.standard_normal((64, 64)) for i in range(9)}))
    assert any("and" in sentence and "more" in sentence and "light tail" in sentence for sentence in many)
    assert any(sentence == "No module has correlation traps." for sentence in many)
    assert sentences(oad.inspect({})) == ["No module was found."]
    *_, hint = sentences(oad.inspect({"layers": {"up": np.ones((2, 64, 64), np.float32)}}))
    assert "--stacked layers" in hint and "--axes REGEX=IN:OUT" in hint
    names: dict[str, Any] = {
        "exclude": ("^up$", "bias"),
        "modules": oad.block_matrices(stacked=("blocks",), axes={"conv": True}),
    }
    *_, unmatched = sentences(oad.inspect({"up": np.ones((64, 64)), "down": np.ones((64, 64))}, **names))
    assert unmatched.startswith("No tensor has a name that fits axes: 'conv', stacked: 'blocks', exclude: 'bias';")
    product = oad.inspect({"lora_a": rng.standard_normal((64, 4)), "lora_b": rng.standard_normal((4, 64))})
    assert len(sentences(product)) == 2


def test_a_random_matrix_is_not_called_heavy() -> None:
    """Half of the random matrices have an alpha below the limit for large ones; that says nothing of them."""
    matrices = {f"m{at}": np.random.default_rng(at).standard_normal((64, 96)) for at in range(40)}
    inspection = oad.inspect(matrices, shuffle=False)
    below = [module for module in inspection if module.alpha < module.random_alpha]
    assert len(below) >= 5
    for module in below:
        said = sentences(oad.inspect({module.name: matrices[module.name]}, shuffle=False))
        assert any(sentence.startswith("1 of 1 module has a light tail") for sentence in said), said
