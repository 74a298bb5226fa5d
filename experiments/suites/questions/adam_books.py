"""Adam on repeated data of a second corpus: does what held on the first one hold there?"""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_GRID = {"learning_rate": (1.5e-3, 3e-3, 6e-3, 1.2e-2), "weight_decay": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}
_ADAM = {"coupling": "adam", "learning_rate": 3e-3}
_ALPHADECAY = {**_ADAM, "weight_decay": 3e-4}

# Measured on the tuning seeds, in the runs of the tuned AlphaDecay: means over steps and seeds.
_NOT_QUERIES_AND_KEYS = (
    ("down_proj", 2.173),
    ("gate_proj", 2.3021),
    ("up_proj", 2.2935),
    ("o_proj", 1.9252),
    ("v_proj", 1.971),
)

QUESTION = Question(
    title="Adam, repeated data, books",
    hypothesis="On a second corpus, too, tuned AlphaDecay has a lower validation loss than tuned Uniform decay.",
    scale="nano",
    options=(
        "--data.corpus",
        "books",
        "--data.dir",
        "data/books/tfds",
        "--data.tokenizer",
        "data/books/books-1024.model",
    ),
    arms={
        "Uniform": Arm("One rate, tuned.", "uniform", {**_ADAM, "weight_decay": 3e-4}, _GRID),
        "AdaDecay": Arm(
            "Ratios by the gradient's norm, tuned.",
            "adadecay",
            {**_ADAM, "learning_rate": 6e-3, "weight_decay": 1e-3},
            _GRID,
        ),
        "AlphaDecay": Arm("Ratios by alpha, tuned.", "alphadecay", _ALPHADECAY, _GRID),
        "Gradient scale": Arm(
            "Ratios by rms(gradient) / rms(weights), tuned.", "gradient_scale", {**_ADAM, "weight_decay": 1e-3}, _GRID
        ),
        "Range 0.1 to 3": Arm(
            "AlphaDecay with a wider range, tuned.",
            "alphadecay",
            {**_ADAM, "weight_decay": 1e-3, "scale_range": (0.1, 3.0)},
            _GRID,
        ),
        "By type": Arm(
            "Each type of module at the mean ratio that AlphaDecay gives to that type, fixed.",
            "by_type",
            {**_ALPHADECAY, "ratios": (*_NOT_QUERIES_AND_KEYS, ("q_proj", 0.8301), ("k_proj", 0.8257))},
        ),
        "No decay of queries and keys": Arm(
            "The same, but for queries and keys at 0.",
            "by_type",
            {**_ALPHADECAY, "ratios": (*_NOT_QUERIES_AND_KEYS, ("q_proj", 0.0), ("k_proj", 0.0))},
        ),
    },
    primary=("AlphaDecay", "Uniform"),
    secondary=(
        ("AlphaDecay", "AdaDecay"),
        ("AlphaDecay", "By type"),
        ("No decay of queries and keys", "AlphaDecay"),
        ("Gradient scale", "AlphaDecay"),
        ("Gradient scale", "AdaDecay"),
        ("Range 0.1 to 3", "AlphaDecay"),
    ),
    tuning_seeds=(100, 101),
    test_seeds=tuple(range(200, 224)),
    effect=0.013,
    deviation=0.021,
    stopping="All 24 seeds of every arm are run; none is added, whatever they show.",
    norms_every=50,
)
