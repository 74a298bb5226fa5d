"""Decoupled decay around optax's optimizers, against loops that decay by hand."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import optax_alphadecay as oad

STEPS, RATE, RATIO = 4, 0.7, 1.5
SCHEDULE = optax.linear_schedule(0.1, 0.02, STEPS)
PARAMS = {"w": jnp.linspace(-1, 1, 30).reshape(5, 6), "b": jnp.linspace(-0.5, 0.5, 6)}


def gradients_at(step: int, params: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.sin(3 * leaf + step), params)


def decay(**options: Any) -> optax.GradientTransformationExtraArgs:
    """Decay of one ratio for all modules, none for the vector."""
    return oad.alphadecay(
        RATE,
        metric=oad.frobenius_norm(),
        assign=lambda scores: jnp.full_like(scores, RATIO),
        modules={"w": True, "b": False},
        mask={"w": True, "b": False},
        **options,
    )


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9),
    "adam": optax.adam,
    "lion": lambda rate: optax.lion(rate, weight_decay=0.0),
    "adafactor": lambda rate: optax.adafactor(rate, min_dim_size_to_factor=4),
    "lamb": optax.lamb,
    "muon": contrib.muon,
    "sophia": lambda rate: contrib.sophia(rate, weight_decay=0.0, update_interval=2),
}


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_by_hand(name: str, cautious: bool) -> None:
    """By hand, the optimizer has the learning rate itself, and the decay is subtracted from the weights before."""
    extra: dict[str, Any] = {"obj_fn": lambda params: sum(jnp.sum(leaf**4) for leaf in params.values())}
    ours = oad.decoupled(OPTIMIZERS[name](1.0), decay(cautious=cautious), SCHEDULE)
    theirs = optax.with_extra_args_support(OPTIMIZERS[name](SCHEDULE))
    params = wanted = PARAMS
    state, their_state = ours.init(params), theirs.init(params)
    update, their_update = (jax.jit(lambda g, s, p, o=o: o.update(g, s, p, **extra)) for o in (ours, theirs))
    for step in range(STEPS):
        updates, state = update(gradients_at(step, params), state, params)
        params = optax.apply_updates(params, updates)
        their_updates, their_state = their_update(gradients_at(step, wanted), their_state, wanted)
        lost = SCHEDULE(step) * RATE * RATIO * np.asarray(wanted["w"])
        if cautious:  # both towards zero, or the optimizer rests
            lost = np.where(np.sign(their_updates["w"]) * np.sign(wanted["w"]) <= 0, lost, 0)
        wanted = optax.apply_updates(wanted, their_updates)
        wanted |= {"w": wanted["w"] - lost}
    assert np.abs(params["w"] - PARAMS["w"]).max() > 0.05
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), params, wanted)


def test_inside_of_schedule_free() -> None:
    """Against the paper's three sequences."""
    rate, b1 = 0.1, 0.9
    optimizer = contrib.schedule_free(oad.decoupled(optax.sgd(1.0), decay(), rate), rate, b1=b1)
    params = PARAMS
    state = optimizer.init(params)
    x = z = y = {name: np.asarray(leaf, np.float64) for name, leaf in PARAMS.items()}
    for step in range(STEPS):
        updates, state = optimizer.update(gradients_at(step, params), state, params)
        params = optax.apply_updates(params, updates)
        gradients = {name: np.sin(3 * leaf + step) for name, leaf in y.items()}
        z = {name: z[name] - rate * (gradients[name] + RATE * RATIO * y[name] * (name == "w")) for name in z}
        x = {name: x[name] + (z[name] - x[name]) / (step + 1) for name in x}
        y = {name: (1 - b1) * z[name] + b1 * x[name] for name in x}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params, y)
    averages = contrib.schedule_free_eval_params(state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), averages, x)


def test_around_adam_it_is_adamw() -> None:
    ours = oad.decoupled(optax.adam(1.0), decay(), SCHEDULE)
    adamw = optax.adamw(SCHEDULE, weight_decay=RATE * RATIO, mask={"w": True, "b": False})
    found, wanted = (optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)[0] for optimizer in (ours, adamw))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)


def test_metrics_of_gradients_see_the_gradients() -> None:
    measured = oad.alphadecay(RATE, metric=oad.grad_norm(), modules={"w": True, "b": False})
    optimizer = oad.decoupled(optax.lion(1.0, weight_decay=0.0), measured, 0.1)
    _, state = optimizer.update(gradients_at(0, PARAMS), optimizer.init(PARAMS), PARAMS)
    wanted = np.linalg.norm(gradients_at(0, PARAMS)["w"])
    np.testing.assert_allclose(optax.tree.get(state, "scores"), [wanted], rtol=1e-6)


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match=r"decay must be an optax transformation, got 0\.1"):
        oad.decoupled(optax.adam(1.0), 0.1, 1e-3)
    with pytest.raises(ValueError, match=r"learning_rate must be finite and at least 0, got -1\.0"):
        oad.decoupled(optax.adam(1.0), decay(), -1.0)
    around = oad.decoupled(contrib.schedule_free(optax.sgd(0.1), 0.1), decay(), 0.1)
    with pytest.raises(ValueError, match=r"Put it outside: optax\.contrib\.schedule_free\(oad\.decoupled"):
        around.init(PARAMS)
