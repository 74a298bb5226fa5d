"""Adam on repeated data: does it matter how often spectra are read?"""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_ALPHADECAY = {"coupling": "adam", "learning_rate": 3e-3, "weight_decay": 3e-4}

QUESTION = Question(
    title="How often spectra are read, Adam, repeated data",
    hypothesis="AlphaDecay that reads spectra every 50 steps has a lower loss than with the initial spectra alone.",
    scale="nano",
    arms={
        "Every 50": Arm("The tuned AlphaDecay of the first question.", "alphadecay", _ALPHADECAY),
        "Every 250": Arm("Read twice.", "alphadecay", {**_ALPHADECAY, "refresh_every": 250}),
        "First step only": Arm(
            "The spectra of the initial weights.", "alphadecay", {**_ALPHADECAY, "refresh_every": 1_000_000}
        ),
    },
    primary=("Every 50", "First step only"),
    secondary=(("Every 50", "Every 250"),),
    tuning_seeds=(),
    test_seeds=tuple(range(300, 336)),
    effect=0.005,
    deviation=0.01,
    stopping="All 36 seeds of every arm are run; none is added, whatever they show.",
    norms_every=50,
)
