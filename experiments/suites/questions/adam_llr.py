"""Adam on repeated data: is a learning rate by spectrum better than a decay by spectrum?"""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_ADAM = {"coupling": "adam"}
_GRID = {
    "learning_rate": (3.75e-4, 7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2),
    "weight_decay": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
}

QUESTION = Question(
    title="LLR, Adam, repeated data",
    hypothesis="Tuned LLR, a learning rate by alpha, has a lower loss than tuned AlphaDecay, a decay by alpha.",
    scale="nano",
    arms={
        "Uniform": Arm(
            "The tuned Uniform of the first question.",
            "uniform",
            {**_ADAM, "learning_rate": 3e-3, "weight_decay": 1e-4},
        ),
        "AdaDecay": Arm(
            "The tuned AdaDecay of the first question.",
            "adadecay",
            {**_ADAM, "learning_rate": 3e-3, "weight_decay": 1e-3},
        ),
        "AlphaDecay": Arm(
            "The tuned AlphaDecay of the first question.",
            "alphadecay",
            {**_ADAM, "learning_rate": 3e-3, "weight_decay": 3e-4},
        ),
        "LLR": Arm(
            "Uniform decay, and a learning rate per module of 1 to 5 times the base rate, by alpha; tuned.",
            "llr",
            {**_ADAM, "learning_rate": 1.2e-2, "weight_decay": 3e-3},
            _GRID,
        ),
    },
    primary=("LLR", "AlphaDecay"),
    secondary=(("LLR", "Uniform"), ("LLR", "AdaDecay")),
    tuning_seeds=(100, 101),
    test_seeds=tuple(range(360, 372)),
    effect=0.019,
    deviation=0.021,
    stopping="All 12 seeds of every arm are run; none is added, whatever they show.",
    norms_every=50,
)
