"""AdamW on repeated data: is AlphaDecay better than one rate for all modules and another for everything else?"""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_GRID = {"learning_rate": (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2), "weight_decay": (0.3, 0.6, 1.0, 2.0)}
_TYPES = ("down_proj", "gate_proj", "up_proj", "k_proj", "o_proj", "q_proj", "v_proj")
_MEAN_OVER_WEIGHTS = 2.073
"""The mean ratio that the tuned AlphaDecay of the question on AdamW gives to a weight."""

QUESTION = Question(
    title="AdamW, two rates, repeated data",
    hypothesis="Tuned AlphaDecay has a lower loss than a tuned rate with one fixed ratio for all modules.",
    scale="nano",
    arms={
        "Uniform": Arm(
            "The tuned Uniform of the question on AdamW.",
            "uniform",
            {"coupling": "adamw", "learning_rate": 1.2e-2, "weight_decay": 0.6},
        ),
        "AlphaDecay": Arm(
            "The tuned AlphaDecay of the question on AdamW.",
            "alphadecay",
            {"coupling": "adamw", "learning_rate": 3e-3, "weight_decay": 0.6},
        ),
        "Two rates": Arm(
            "All modules at AlphaDecay's mean ratio, 2.073, and all else at the base rate; tuned.",
            "by_type",
            {
                "coupling": "adamw",
                "learning_rate": 6e-3,
                "weight_decay": 0.6,
                "ratios": tuple((name, _MEAN_OVER_WEIGHTS) for name in _TYPES),
            },
            _GRID,
        ),
    },
    primary=("AlphaDecay", "Two rates"),
    secondary=(("Two rates", "Uniform"), ("AlphaDecay", "Uniform")),
    tuning_seeds=(100, 101),
    test_seeds=tuple(range(324, 348)),
    effect=0.0105,
    deviation=0.0167,
    stopping="All 24 seeds of every arm are run; none is added, whatever they show.",
    norms_every=50,
)
