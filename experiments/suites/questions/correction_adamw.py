"""AdamW with corrected decay, tuned against tuned; and AlphaDecay on top of both, at the same mean decay."""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_SHARED = {"learning_rate": 3e-3, "final_fraction": 0.0}
_ADAMW = {**_SHARED, "coupling": "adamw", "weight_decay": 0.5}
# Over the schedule, 10 % warm-up and a cosine to 0, a corrected coefficient takes as much as one 1.35 times smaller.
_ADAMC = {**_SHARED, "weight_decay": 0.675}

QUESTION = Question(
    title="Corrected decay, AdamW",
    hypothesis="Tuned AdamC has a lower validation loss than tuned AdamW.",
    scale="nano",
    arms={
        "AdamW": Arm(
            "One constant coefficient, tuned.", "uniform", _ADAMW, {"weight_decay": (0.125, 0.25, 0.5, 1.0, 2.0)}
        ),
        "AdamC": Arm(
            "A coefficient that follows the learning rate, but for the output layer's; its peak tuned.",
            "adamc",
            _ADAMC,
            {"weight_decay": (0.17, 0.34, 0.675, 1.35, 2.7)},
        ),
        "AlphaDecay": Arm(
            "AdamW's coefficient, shared out by alpha with a mean of 1 over modules.",
            "alphadecay",
            {**_ADAMW, "unit_mean": True},
        ),
        "AlphaDecay, corrected": Arm(
            "AdamC's peak coefficient, shared out by alpha with a mean of 1 over modules.",
            "alphadecay",
            {**_ADAMW, **_ADAMC, "unit_mean": True, "corrected": True},
        ),
    },
    primary=("AdamC", "AdamW"),
    secondary=(
        ("AlphaDecay", "AdamW"),
        ("AlphaDecay, corrected", "AdamC"),
        ("AlphaDecay, corrected", "AlphaDecay"),
    ),
    tuning_seeds=(100,),
    test_seeds=tuple(range(300, 305)),
    effect=0.03,
    deviation=0.015,
    stopping="All 5 seeds of every arm are run; none is added, whatever they show.",
    norms_every=20,
)
