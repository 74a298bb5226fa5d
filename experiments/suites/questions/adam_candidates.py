"""Adam on repeated data: what could do better than AlphaDecay, screened at the small scale."""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_GRID = {"learning_rate": (1.5e-3, 3e-3, 6e-3), "weight_decay": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}
_TUNED = {"coupling": "adam", "learning_rate": 3e-3}
_DECAYS = {"weight_decay": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}
"""Of the candidates, which get fewer tries than what they are compared with."""

QUESTION = Question(
    title="Candidates, Adam, repeated data",
    hypothesis="Decay in proportion to rms(gradient) / rms(weights) has a lower loss than AlphaDecay.",
    scale="nano",
    arms={
        "Uniform": Arm("One rate, tuned.", "uniform", {**_TUNED, "weight_decay": 1e-4}, _GRID),
        "AdaDecay": Arm("Ratios by the gradient's norm, tuned.", "adadecay", {**_TUNED, "weight_decay": 1e-3}, _GRID),
        "AlphaDecay": Arm("Ratios by alpha, tuned.", "alphadecay", {**_TUNED, "weight_decay": 3e-4}, _GRID),
        "Gradient scale": Arm(
            "Ratios by rms(gradient) / rms(weights).", "gradient_scale", {**_TUNED, "weight_decay": 1e-3}, _DECAYS
        ),
        "Gradient scale x alpha": Arm(
            "The same times AlphaDecay's ratios.",
            "gradient_scale",
            {**_TUNED, "weight_decay": 1e-3, "alpha_range": (2 / 3, 3.0)},
            _DECAYS,
        ),
        "Alpha over random": Arm(
            "Alpha - 1 over that of a random matrix of the shape.",
            "alphadecay",
            {**_TUNED, "weight_decay": 1e-4, "metric": "alpha_over_random"},
            _DECAYS,
        ),
        "FARMS": Arm(
            "Alpha of square sub-matrices.", "alphadecay", {**_TUNED, "weight_decay": 1e-4, "metric": "farms"}, _DECAYS
        ),
        "Range 0.1 to 3": Arm(
            "AlphaDecay with a wider range.",
            "alphadecay",
            {**_TUNED, "weight_decay": 3e-4, "scale_range": (0.1, 3.0)},
            _DECAYS,
        ),
    },
    primary=("Gradient scale", "AlphaDecay"),
    secondary=(
        ("Gradient scale", "AdaDecay"),
        ("Gradient scale x alpha", "Gradient scale"),
        ("Alpha over random", "AlphaDecay"),
        ("FARMS", "AlphaDecay"),
        ("Range 0.1 to 3", "AlphaDecay"),
    ),
    tuning_seeds=(100, 101),
    test_seeds=tuple(range(300, 312)),
    effect=0.019,
    deviation=0.021,
    stopping="All 12 seeds of every arm are run. The best two go on to the scale small, on seeds of their own.",
    norms_every=50,
)
