"""AdamW on repeated data, tuned against tuned: does AlphaDecay lower the loss, and is it the shares that do it?"""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_GRID = {"learning_rate": (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2), "weight_decay": (0.3, 0.6, 1.0, 2.0)}
_ALPHADECAY = {"coupling": "adamw", "learning_rate": 3e-3, "weight_decay": 0.6}

# Measured on the tuning seeds, in the runs of the tuned AlphaDecay: means over steps and seeds.
_MEAN_OVER_WEIGHTS = 2.073
_MEAN_BY_TYPE = (
    ("down_proj", 2.4115),
    ("gate_proj", 2.6632),
    ("up_proj", 2.6868),
    ("k_proj", 0.7724),
    ("o_proj", 1.2788),
    ("q_proj", 0.8031),
    ("v_proj", 1.2978),
)

QUESTION = Question(
    title="AdamW, repeated data",
    hypothesis="Tuned AlphaDecay has a lower validation loss than tuned Uniform decay.",
    scale="nano",
    arms={
        "No decay": Arm("Adam alone.", "none", {"learning_rate": 3e-3}, {"learning_rate": (1.5e-3, 3e-3, 6e-3)}),
        "Uniform": Arm(
            "One rate, tuned.", "uniform", {"coupling": "adamw", "learning_rate": 1.2e-2, "weight_decay": 0.6}, _GRID
        ),
        "AdaDecay": Arm(
            "Ratios by the gradient's norm, tuned.",
            "adadecay",
            {"coupling": "adamw", "learning_rate": 6e-3, "weight_decay": 1.0},
            _GRID,
        ),
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
    },
    primary=("AlphaDecay", "Uniform"),
    secondary=(("AlphaDecay", "AdaDecay"), ("AlphaDecay", "Same mean"), ("AlphaDecay", "By type")),
    tuning_seeds=(100, 101),
    test_seeds=tuple(range(300, 324)),
    effect=0.017,
    deviation=0.027,
    stopping="All 24 seeds of every arm are run; none is added, whatever they show.",
    norms_every=50,
)
