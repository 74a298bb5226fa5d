"""AdamW on fresh data at the paper's own amount of decay: does AlphaDecay lower the loss?"""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_GRID = {"learning_rate": (1.5e-3, 3e-3, 6e-3, 1.2e-2), "weight_decay": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.083, 0.25)}


def _tuned(decay: float) -> dict[str, str | float]:
    return {"coupling": "adamw", "learning_rate": 6e-3, "weight_decay": decay}


QUESTION = Question(
    title="AdamW, fresh data",
    hypothesis="On fresh text, tuned AlphaDecay has a lower validation loss than tuned Uniform decay.",
    scale="nano-long",
    arms={
        "No decay": Arm("Adam alone.", "none", {"learning_rate": 6e-3}, {"learning_rate": _GRID["learning_rate"]}),
        "Uniform": Arm("One rate, tuned.", "uniform", _tuned(1e-3), _GRID),
        "AdaDecay": Arm("Ratios by the gradient's norm, tuned.", "adadecay", _tuned(1e-3), _GRID),
        "AlphaDecay": Arm("Ratios by alpha, tuned.", "alphadecay", _tuned(3e-3), _GRID),
    },
    primary=("AlphaDecay", "Uniform"),
    secondary=(("AlphaDecay", "AdaDecay"), ("Uniform", "No decay")),
    tuning_seeds=(100,),
    test_seeds=tuple(range(380, 392)),
    effect=0.009,
    deviation=0.01,
    stopping="All 12 seeds of every arm are run; none is added, whatever they show.",
    norms_every=500,
)
