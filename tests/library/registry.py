"""Every public transformation with arguments for the tests, and the parameters they take."""
# SPDX-License-Identifier: Apache-2.0

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad
from optax_alphadecay.decay import ScalarOrSchedule

SHAPES = {"layers/0/down": (8, 12), "layers/up": (2, 8, 12), "table": (12, 8), "vector": (8,)}
MODULES = {"layers/0/down": True, "layers/up": MuonDimensionNumbers(1, 2), "table": False, "vector": False}
MASK = {"layers/0/down": True, "layers/up": False, "table": True, "vector": False}
SCHEDULE = optax.linear_schedule(0.1, 0.3, 3)


def restrict(value: Any, keys: Collection[str]) -> Any:
    return {key: value[key] for key in keys} if isinstance(value, dict) else value


class Entry(NamedTuple):
    """A factory and its arguments; the first one scales the updates."""

    factory: Callable[..., Any]
    kwargs: dict[str, Any]

    @property
    def rate(self) -> tuple[str, Any]:
        """Name and value of the argument that scales the updates."""
        return next(iter(self.kwargs.items()))

    def takes_schedule(self) -> bool:
        """Whether that argument may be a schedule, by its annotation."""
        return inspect.signature(self.factory).parameters[self.rate[0]].annotation == ScalarOrSchedule

    def build(self, keys: Collection[str] = SHAPES.keys(), **changes: Any) -> Any:
        """The transformation, for params that have only these keys."""
        return self.factory(**{name: restrict(value, keys) for name, value in (self.kwargs | changes).items()})

    def inject(self) -> Any:
        """The transformation with injected hyperparameters; callables that are no schedules have to be static."""
        return optax.inject_hyperparams(self.factory, self.kwargs.keys() & {"metric", "assign", "mask", "decay"})(
            **self.kwargs
        )


def modulewise(factory: Callable[..., Any] = oad.alphadecay, **kwargs: Any) -> Entry:
    rate = {} if "learning_rate" in kwargs else {"weight_decay": 0.1}
    return Entry(factory, {**rate, **kwargs, "refresh_every": 3, "modules": MODULES})


BALLS = {
    "layers/0/down": oad.spectral_norm_ball(),
    "layers/up": oad.spectral_norm_ball(axes=MuonDimensionNumbers(1, 2)),
    "table": oad.sign_ball(radius=3.0),
    "vector": oad.bias_ball(),
}
# Not in bfloat16, where programs that round at other places agree to three digits only.
IN_FLOAT32 = {"norms": BALLS, "dtype": "float32"}
SHARED_OUT = functools.partial(
    oad.alphadecay,
    refresh_every=3,
    metric=oad.frobenius_norm(),
    modules=lambda params: restrict(MODULES, params),
)

# Metrics share the solver that is the quickest to compile; test_defaults_can_be_injected has the default one.
REGISTRY = {
    "alphadecay": modulewise(metric=oad.pl_alpha_hill(solver="eigvalsh")),
    "adam": modulewise(oad.adam, learning_rate=0.1, metric=oad.pl_alpha_hill(solver="eigvalsh")),
    "adamw": modulewise(oad.adamw, learning_rate=0.1, metric=oad.pl_alpha_hill(solver="eigvalsh")),
    "adamw, gradients": modulewise(oad.adamw, learning_rate=0.1, metric=oad.grad_norm()),
    "scheduled": modulewise(oad.adam, learning_rate=0.1, weight_decay=SCHEDULE, metric=oad.frobenius_norm()),
    "masked": modulewise(mask=MASK, metric=oad.frobenius_norm()),
    "masked by rule": modulewise(mask=lambda params: restrict(MASK, params), metric=oad.frobenius_norm()),
    "goodness_of_fit": modulewise(metric=oad.pl_alpha_hill(oad.goodness_of_fit(), solver="eigvalsh")),
    "fix_finger": modulewise(metric=oad.pl_alpha_hill(oad.fix_finger(), solver="eigvalsh")),
    "alpha_hat": modulewise(metric=oad.alpha_hat(solver="eigvalsh")),
    "spectral_norm": modulewise(metric=oad.spectral_norm(solver="eigvalsh")),
    "stable_rank": modulewise(metric=oad.stable_rank(solver="eigvalsh")),
    "spectral_entropy": modulewise(metric=oad.spectral_entropy(solver="eigvalsh")),
    "frobenius_norm": modulewise(metric=oad.frobenius_norm()),
    "grad_norm": modulewise(metric=oad.grad_norm()),
    "sqrt": modulewise(metric=oad.grad_norm(), assign=oad.sqrt()),
    "log2": modulewise(metric=oad.grad_norm(), assign=oad.log2()),
    "sigmoid": modulewise(metric=oad.grad_norm(), assign=oad.sigmoid()),
    "modulewise_adadecay": modulewise(oad.modulewise_adadecay),
    "adadecay": Entry(oad.adadecay, {"weight_decay": 0.1, "mask": MASK}),
    "adamc": Entry(oad.adamc, {"learning_rate": 0.1, "mask": MASK}),
    "adamc, ratios": Entry(oad.adamc, {"learning_rate": 0.1, "decay": SHARED_OUT}),
    "scion": Entry(oad.scion, {"learning_rate": 0.1} | IN_FLOAT32),
    "scion, ratios": Entry(oad.scion, {"learning_rate": 0.1, "decay": SHARED_OUT} | IN_FLOAT32),
    "scionc": Entry(oad.scionc, {"learning_rate": 0.1, "weight_decay": 0.1} | IN_FLOAT32),
    "awd": Entry(oad.awd, {"lam_awd": 0.1, "mask": MASK}),
}


def normal(seed: int) -> dict[str, jax.Array]:
    random = np.random.default_rng(seed)
    return {key: jnp.asarray(random.standard_normal(shape), jnp.float32) for key, shape in SHAPES.items()}


PARAMS, *GRADIENTS = (normal(seed) for seed in range(5))  # with refresh_every=3, steps 0 and 2 refresh
