"""AdamW on repeated data: do caution, or a decay that follows the learning rate, help on top of two rates?"""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_GRID = {"learning_rate": (1.5e-3, 3e-3, 6e-3, 1.2e-2), "weight_decay": (0.3, 0.6, 1.2, 2.4, 4.8)}
_TYPES = ("down_proj", "gate_proj", "up_proj", "k_proj", "o_proj", "q_proj", "v_proj")
_TWO_RATES = {"coupling": "adamw", "ratios": tuple((name, 2.073) for name in _TYPES)}
"""As in the question on two rates, where they beat AlphaDecay."""

QUESTION = Question(
    title="AdamW, cautious and corrected decay, repeated data",
    hypothesis="Two rates that decay only what the step does not take from zero have a lower loss than two rates.",
    scale="nano",
    arms={
        "Two rates": Arm(
            "The tuned two rates of the question on them.",
            "by_type",
            {**_TWO_RATES, "learning_rate": 6e-3, "weight_decay": 0.6},
        ),
        "Two rates, cautious": Arm(
            "The same, cautious; tuned.",
            "by_type",
            {**_TWO_RATES, "cautious": True, "learning_rate": 3e-3, "weight_decay": 1.2},
            _GRID,
        ),
        "Two rates, corrected": Arm(
            "The same, following the learning rate but for the output layer's; tuned.",
            "by_type",
            {**_TWO_RATES, "corrected": True, "learning_rate": 6e-3, "weight_decay": 0.6},
            _GRID,
        ),
        "AlphaDecay, cautious": Arm(
            "Cautious AlphaDecay; tuned.",
            "alphadecay",
            {"coupling": "adamw", "cautious": True, "learning_rate": 3e-3, "weight_decay": 2.4},
            _GRID,
        ),
    },
    primary=("Two rates, cautious", "Two rates"),
    secondary=(("Two rates, corrected", "Two rates"), ("AlphaDecay, cautious", "Two rates, cautious")),
    tuning_seeds=(100, 101),
    test_seeds=tuple(range(348, 360)),
    effect=0.015,
    deviation=0.0167,
    stopping="All 12 seeds of every arm are run; none is added, whatever they show.",
    norms_every=50,
)
