"""Scion with corrected decay, tuned against tuned, and against AdamW and AdamC at equal steps."""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question
from experiments.suites.questions.correction_adamw import QUESTION as ADAMW

# Found beforehand on seed 100, at peak decays of 4e-3 a step: 0.0023 is too low, 0.0046 and 0.0092 are as good.
# The radius keeps the official runs' ratio of entries in steps of the output layer and the blocks: 60 (64 / 768)^0.5.
_SHARED = {
    "learning_rate": 6.5e-3,
    "warmup_fraction": 0.0,
    "final_fraction": 0.0,
    "clip_norm": 0.0,
    "output_radius": 17.0,
    "dtype": "float32",
}

QUESTION = Question(
    title="Corrected decay, Scion",
    hypothesis="Tuned ScionC has a lower validation loss than tuned Scion.",
    scale="nano",
    arms={
        "Scion": Arm(
            "One constant coefficient, tuned.",
            "scion",
            {**_SHARED, "weight_decay": 0.8},
            {"weight_decay": (0.2, 0.4, 0.8, 1.6)},
        ),
        "ScionC": Arm(
            "A coefficient that follows the learning rate, for the matrices of the blocks; its peak tuned.",
            "scionc",
            {**_SHARED, "weight_decay": 0.533},
            {"weight_decay": (0.267, 0.533, 1.067, 2.133)},
        ),
        "AdamW": Arm("As in the question of AdamW.", "uniform", ADAMW.arms["AdamW"].settings),
        "AdamC": Arm("As in the question of AdamW.", "adamc", ADAMW.arms["AdamC"].settings),
    },
    primary=("ScionC", "Scion"),
    secondary=(("Scion", "AdamW"), ("ScionC", "AdamC")),
    tuning_seeds=(100,),
    test_seeds=ADAMW.test_seeds,
    effect=0.03,
    deviation=0.015,
    stopping="All 5 seeds of every arm are run; none is added, whatever they show.",
    norms_every=20,
)
