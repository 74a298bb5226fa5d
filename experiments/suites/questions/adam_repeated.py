"""Adam on repeated data, tuned against tuned: does AlphaDecay lower the loss, and is it the shares that do it?"""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_GRID = {"learning_rate": (1.5e-3, 3e-3, 6e-3), "weight_decay": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}
_TUNED = {"coupling": "adam", "learning_rate": 3e-3}
_ALPHADECAY = {**_TUNED, "weight_decay": 3e-4}

# Measured on the tuning seeds, in the runs of the tuned AlphaDecay: means over steps and seeds.
_MEAN_OVER_WEIGHTS = 2.016
_MEAN_BY_TYPE = (
    ("down_proj", 2.3175),
    ("gate_proj", 2.4103),
    ("up_proj", 2.4091),
    ("k_proj", 0.8192),
    ("o_proj", 1.7241),
    ("q_proj", 0.8140),
    ("v_proj", 1.7830),
)

QUESTION = Question(
    title="Adam, repeated data",
    hypothesis="Tuned AlphaDecay has a lower validation loss than tuned Uniform decay.",
    scale="nano",
    arms={
        "No decay": Arm("Adam alone.", "none", {"learning_rate": 3e-3}, {"learning_rate": _GRID["learning_rate"]}),
        "Uniform": Arm("One rate, tuned.", "uniform", {**_TUNED, "weight_decay": 1e-4}, _GRID),
        "AdaDecay": Arm("Ratios by the gradient's norm, tuned.", "adadecay", {**_TUNED, "weight_decay": 1e-3}, _GRID),
        "AlphaDecay": Arm("Ratios by alpha, tuned.", "alphadecay", _ALPHADECAY, _GRID),
        "Same mean": Arm(
            "All modules at the mean ratio that AlphaDecay gives to a weight, all else at the base rate.",
            "by_type",
            {**_ALPHADECAY, "ratios": tuple((name, _MEAN_OVER_WEIGHTS) for name, _ in _MEAN_BY_TYPE)},
        ),
        "By type": Arm(
            "Each type of module at the mean ratio that AlphaDecay gives to that type, fixed.",
            "by_type",
            {**_ALPHADECAY, "ratios": _MEAN_BY_TYPE},
        ),
        "First step only": Arm(
            "AlphaDecay that reads the spectra of the initial weights, and never again.",
            "alphadecay",
            {**_ALPHADECAY, "refresh_every": 1_000_000},
        ),
        "Reversed": Arm("The lowest alpha gets the highest ratio.", "alphadecay", {**_ALPHADECAY, "reverse": True}),
    },
    primary=("AlphaDecay", "Uniform"),
    secondary=(
        ("AlphaDecay", "AdaDecay"),
        ("AlphaDecay", "Same mean"),
        ("AlphaDecay", "By type"),
        ("AlphaDecay", "First step only"),
        ("AlphaDecay", "Reversed"),
    ),
    tuning_seeds=(100, 101),
    test_seeds=tuple(range(200, 224)),
    effect=0.013,
    deviation=0.021,
    stopping="All 24 seeds of every arm are run; none is added, whatever they show.",
)
