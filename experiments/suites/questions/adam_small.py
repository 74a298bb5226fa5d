"""Adam on repeated data, with a model four times as large and ten times the text."""
# SPDX-License-Identifier: Apache-2.0

from experiments.suites.questions import Arm, Question

_RATES = (1.5e-3, 3e-3, 6e-3)
_ADAM = {"coupling": "adam"}


def _grid(*decays: float) -> dict[str, tuple[float, ...]]:
    """Decays around those expected to be best; grids whose best cell is on an edge are widened."""
    return {"learning_rate": _RATES, "weight_decay": decays}


QUESTION = Question(
    title="Adam, repeated data, small",
    hypothesis="At the scale small, too, tuned AlphaDecay has a lower validation loss than tuned Uniform decay.",
    scale="small",
    arms={
        "No decay": Arm("Adam alone.", "none", {}, {"learning_rate": _RATES}),
        "Uniform": Arm("One rate, tuned.", "uniform", _ADAM, _grid(1e-5, 3e-5, 1e-4)),
        "AdaDecay": Arm("Ratios by the gradient's norm, tuned.", "adadecay", _ADAM, _grid(1e-4, 3e-4, 1e-3)),
        "AlphaDecay": Arm("Ratios by alpha, tuned.", "alphadecay", _ADAM, _grid(1e-5, 3e-5, 1e-4, 3e-4)),
        "Same mean": Arm(
            "All modules at the mean ratio that AlphaDecay gives to a weight, all else at the base rate.",
            "by_type",
            _ADAM,
            waits_for="the tuning runs of AlphaDecay",
        ),
        "Gradient scale": Arm(
            "Ratios by rms(gradient) / rms(weights), tuned.", "gradient_scale", _ADAM, _grid(1e-4, 3e-4, 1e-3)
        ),
        "Range 0.1 to 3": Arm(
            "AlphaDecay with a wider range, tuned.",
            "alphadecay",
            {**_ADAM, "scale_range": (0.1, 3.0)},
            _grid(1e-5, 3e-5, 1e-4, 3e-4),
        ),
        "By type": Arm(
            "Each type of module at the mean ratio that AlphaDecay gives to that type, fixed.",
            "by_type",
            _ADAM,
            waits_for="the tuning runs of AlphaDecay",
        ),
        "No decay of queries and keys": Arm(
            "The same, but for queries and keys at 0.",
            "by_type",
            _ADAM,
            waits_for="the tuning runs of AlphaDecay",
        ),
    },
    primary=("AlphaDecay", "Uniform"),
    secondary=(
        ("AlphaDecay", "AdaDecay"),
        ("AlphaDecay", "Same mean"),
        ("AlphaDecay", "By type"),
        ("No decay of queries and keys", "AlphaDecay"),
        ("Gradient scale", "AlphaDecay"),
        ("Gradient scale", "AdaDecay"),
        ("Range 0.1 to 3", "AlphaDecay"),
    ),
    tuning_seeds=(100,),
    test_seeds=tuple(range(200, 212)),
    effect=0.013,
    deviation=0.014,
    stopping="All 12 seeds of every arm are run; none is added, whatever they show.",
    norms_every=100,
)
