"""Adam on repeated data: if queries and keys are kept from shrinking, does the gain go?"""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_UNIFORM = {"coupling": "adam", "learning_rate": 3e-3, "weight_decay": 1e-4}
_ALPHADECAY = {"coupling": "adam", "learning_rate": 3e-3, "weight_decay": 3e-4}
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = (("down_proj", 2.3175), ("gate_proj", 2.4103), ("up_proj", 2.4091))
"""The mean ratios that the tuned AlphaDecay of the first question gives to the MLP."""

QUESTION = Question(
    title="Where the gain comes from, Adam, repeated data",
    hypothesis="The gain over Uniform decay is there without any decay of queries and keys.",
    scale="nano",
    arms={
        "Uniform": Arm("The tuned Uniform of the first question.", "uniform", _UNIFORM),
        "AlphaDecay": Arm("The tuned AlphaDecay of the first question.", "alphadecay", _ALPHADECAY),
        "No decay of queries and keys": Arm(
            "AlphaDecay's mean ratios in the MLP, values and outputs at 1.75, queries and keys at 0.",
            "by_type",
            {
                **_ALPHADECAY,
                "ratios": (*_MLP, ("v_proj", 1.783), ("o_proj", 1.7241), ("q_proj", 0.0), ("k_proj", 0.0)),
            },
        ),
        "MLP only": Arm(
            "AlphaDecay's mean ratios in the MLP, attention at 0.",
            "by_type",
            {**_ALPHADECAY, "ratios": (*_MLP, *((name, 0.0) for name in _ATTENTION))},
        ),
        "Attention only": Arm(
            "AlphaDecay's mean ratios in attention, the MLP at 0.",
            "by_type",
            {
                **_ALPHADECAY,
                "ratios": (
                    ("v_proj", 1.783),
                    ("o_proj", 1.7241),
                    ("q_proj", 0.814),
                    ("k_proj", 0.8192),
                    *((name, 0.0) for name, _ in _MLP),
                ),
            },
        ),
    },
    primary=("No decay of queries and keys", "Uniform"),
    secondary=(
        ("AlphaDecay", "No decay of queries and keys"),
        ("MLP only", "Uniform"),
        ("Attention only", "Uniform"),
    ),
    tuning_seeds=(),
    test_seeds=tuple(range(300, 324)),
    effect=0.013,
    deviation=0.021,
    stopping="All 24 seeds of every arm are run; none is added, whatever they show.",
    norms_every=50,
)
