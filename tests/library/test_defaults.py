"""What a user gets who passes nothing: every default of the public functions, from the papers and the design.

A changed default changes training silently, so each is written down here once more.
"""
# SPDX-License-Identifier: Apache-2.0

import functools
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad

# arXiv 2506.14562: lo = 2/3 and hi = 3, alpha at every 500th step, base rate 1e-5 with Adam and 0.1 with AdamW.
LINEAR = {"lo": 2 / 3, "hi": 3.0, "mean": None, "by": "modules", "fence": 2.0}
# optax.adam and optax.adamw.
ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0, "mu_dtype": None, "nesterov": False}
ALPHADECAY = {
    "refresh_every": 500,
    "metric": None,
    "assign": None,
    "modules": None,
    "mask": None,
    "expire_after": 10,
    "cautious": False,
    "mesh": None,
}
CHOSEN: dict[str, Any] = {"modules": None, "mask": None}
BALL: dict[str, Any] = {"radius": 1.0, "axes": None}

DEFAULTS: dict[str, dict[str, Any]] = {
    "alphadecay": ALPHADECAY,
    "adam": {**ADAM, "weight_decay": 1e-5, **ALPHADECAY},
    "adamw": {**ADAM, "weight_decay": 0.1, **ALPHADECAY, "corrected": False},
    "adamc": {
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.1,
        "exact": False,
        "peak": None,
        "correct": None,
        "mask": None,
        "decay": None,
    },
    # Ghiasi et al. take momentum 0.1 for AWD; Nakamura and Hong a = 4 for AdaDecay.
    "awd": {"momentum": 0.1, "mask": None, "cautious": False},
    "adadecay": {"a": 4.0, "mask": None, "cautious": False},
    "modulewise_adadecay": {"refresh_every": 500, "a": 4.0, **CHOSEN, "cautious": False},
    "corrected": {"exact": False, "peak": None},
    "linear": LINEAR,
    "log2": {},
    "sqrt": {},
    "proportional": {"power": 1.0, "by": "modules", "fence": 2.0},
    "sigmoid": {"a": 4.0, "block_of": oad.transformer_block},
    "pl_alpha_hill": {"fit": None, "solver": "auto"},
    "alpha_hat": {"fit": None, "solver": "auto"},
    "spectral": {"solver": "auto"},
    "spectral_norm": {"solver": "auto"},
    "spectral_entropy": {"solver": "auto"},
    "stable_rank": {"solver": "auto"},
    "eigenvalues": {"solver": "auto"},
    "stochastic": {"probes": 32, "steps": 30, "seed": 0},
    "median": {},
    "goodness_of_fit": {},
    "fix_finger": {"authors_bound": False},
    "marchenko_pastur_edges": {"stddev": 1.0},
    "block_matrices": {"min_eigenvalues": 50, "stacked": (), "axes": None, "split": None},
    "modules_for": {"min_eigenvalues": 50, "stacked": None, "axes": None, "split": None},
    "explain": CHOSEN,
    "leaf_records": CHOSEN,
    "module_table": CHOSEN,
    "format_table": {"weight_decay": None, "learning_rate": None},
    "scalars": {**CHOSEN, "prefix": "alphadecay", "weight_decay": None, "learning_rate": None, "norms": None},
    "module_norms": {"momentum": 1.0, "averages": None, **CHOSEN},
    "norm_scalars": {**CHOSEN, "prefix": "norms"},
    "inspect": {
        "modules": None,
        "exclude": (),
        "weight_decay": 0.1,
        "assign": None,
        "shuffle": True,
        "seed": 0,
        "resume": None,
        "on_progress": None,
    },
    # arXiv 2512.08217: momentum 0.1 in the convention of Scion.
    "scale_by_scion": {
        "momentum": 0.1,
        "norms": None,
        "orthogonalize": "newton_schulz",
        "dtype": "bfloat16",
        "mesh": None,
    },
    "scion": {
        "momentum": 0.1,
        "norms": None,
        "scale": 1.0,
        "constrained": True,
        "orthogonalize": "newton_schulz",
        "dtype": "bfloat16",
        "decay": None,
        "mesh": None,
    },
    "scionc": {
        "momentum": 0.1,
        "norms": None,
        "exact": False,
        "orthogonalize": "polar_express",
        "dtype": "bfloat16",
        "peak": None,
        "correct": None,
        "mask": None,
        "decay": None,
        "mesh": None,
    },
    "scion_norms": {"modules": None, "output_radius": 60.0},
    "project_onto_ball": {"norms": None, "scale": 1.0},
    "bias_ball": BALL,
    "column_ball": {"normalized": False, **BALL},
    "convolution_ball": BALL,
    "row_ball": {"normalized": True, **BALL},
    "sign_ball": {"normalized": True, **BALL},
    "spectral_norm_ball": {"max": False, "normalized": True, **BALL},
    "steady_state_norm": {"momentum": 1.0, "update_norm": 1.0},
    "finite_step_norm": {"momentum": 1.0, "update_norm": 1.0},
    "sign_steady_state_norm": {"momentum": 1.0, "update_norm": 1.0},
    "ModuleRow": {"age": 0, "fenced": False, "norm": math.nan},
    "ModuleRecord": {"ratio": math.nan, "decay": math.nan, "note": "", "is_product": False},
}


def defaults_of(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name: str) -> None:
    found, expected = defaults_of(getattr(oad, name)), DEFAULTS[name]
    assert {key: repr(value) for key, value in found.items()} == {key: repr(value) for key, value in expected.items()}


def test_every_function_with_a_default_is_listed() -> None:
    functions = {name for name in oad.__all__ if inspect.isfunction(getattr(oad, name))}
    assert {name for name in functions if defaults_of(getattr(oad, name))} <= set(DEFAULTS)


PARAMS = {"w": jax.random.normal(jax.random.key(0), (50, 60))}
STATE = oad.AlphaDecayState(*[jnp.zeros(shape) for shape in [(), (1,), (1,), (), (1,), (1,), ()]])
GRADIENTS = {"w": jax.random.normal(jax.random.key(1), (50, 60))}
STEP = optax.sgd(0.1)
NEED_A_RATE = ["alphadecay", "adam", "adamw", "adamc", "awd", "adadecay", "modulewise_adadecay", "scion"]
NEED_TWO_RATES = ["corrected", "scionc", "steady_state_norm", "finite_step_norm", "sign_steady_state_norm"]
# What each must be given. The other functions need nothing.
NEEDED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(NEED_A_RATE, (0.1,)),
    **dict.fromkeys(NEED_TWO_RATES, (0.1, 0.1)),
    **dict.fromkeys(["explain", "leaf_records", "project_onto_ball", "inspect"], (PARAMS,)),
    **dict.fromkeys(["module_table", "scalars"], (STATE, PARAMS)),
    "spectral": (jnp.sum,),
    "eigenvalues": (PARAMS["w"],),
    "marchenko_pastur_edges": (50, 60),
    "modules_for": ("flax",),
    "format_table": ([],),
    "module_norms": (STEP, PARAMS, STEP.init(PARAMS), PARAMS),
    "ModuleRow": ("w", (50, 60), 2.0, 1.0),
    "ModuleRecord": tuple(range(20)),
}


@pytest.mark.parametrize("name", sorted(DEFAULTS.keys() - {"norm_scalars"}))
def test_a_default_may_be_left_out_or_written_out(name: str) -> None:
    """Both ways a transformation gives the same update, bit for bit."""
    function, needed = getattr(oad, name), NEEDED.get(name, ())
    if name == "module_norms":
        function = functools.partial(function, learning_rate=0.1)
    left_out, written_out = function(*needed), function(*needed, **DEFAULTS[name])
    assert type(left_out) is type(written_out)
    if isinstance(left_out, optax.GradientTransformation):
        left_out, written_out = (
            jax.tree.map(np.asarray, each.update(GRADIENTS, each.init(PARAMS), PARAMS)[0])
            for each in (left_out, written_out)
        )
    if isinstance(left_out, str | dict | jax.Array):
        jax.tree.map(np.testing.assert_array_equal, left_out, written_out)


def test_what_follows_the_params_of_module_norms_is_named() -> None:
    """A learning rate and a momentum are easily taken for each other."""
    kinds = [each.kind for each in inspect.signature(oad.module_norms).parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 4 + [inspect.Parameter.KEYWORD_ONLY] * (len(kinds) - 4)
