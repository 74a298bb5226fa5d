"""Cautious decay: only where the update to be subtracted has the weight's sign, or is zero."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad
from benchmarks.hlo import heavy_work, run_each_time
from tests.library import test_idle_step as idle_step

OPTIONS: dict[str, Any] = {"metric": oad.frobenius_norm(), "modules": True}
DECAYS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "alphadecay": functools.partial(oad.alphadecay, 0.5, **OPTIONS),
    "awd": functools.partial(oad.awd, 0.5),
    "adadecay": functools.partial(oad.adadecay, 0.5),
    "modulewise_adadecay": functools.partial(oad.modulewise_adadecay, 0.5, modules=True),
}
PARAMS = {"w": jnp.array([[1.0, -1.0, 2.0, -2.0], [0.0, 1e-30, 3.0, -3.0]])}
# Where it agrees, disagrees, is zero, and is so small that the product with the weight underflows.
UPDATES = {"w": jnp.array([[0.5, 0.5, -0.5, -0.5], [-0.5, -1e-30, 0.0, 1e-30]])}
AGREE = np.array([[True, False, False, True], [True, False, True, False]])


@pytest.mark.parametrize("name", DECAYS)
def test_only_weights_that_agree_decay(name: str) -> None:
    cautious, plain = DECAYS[name](cautious=True), DECAYS[name]()
    found, _ = cautious.update(UPDATES, cautious.init(PARAMS), PARAMS)
    everywhere, _ = plain.update(UPDATES, plain.init(PARAMS), PARAMS)
    assert (everywhere["w"] != UPDATES["w"]).sum() >= 6
    np.testing.assert_array_equal(found["w"], np.where(AGREE, everywhere["w"], UPDATES["w"]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtypes_stay(dtype: Any) -> None:
    decay = oad.alphadecay(0.5, cautious=True, **OPTIONS)
    params, updates = optax.tree.cast((PARAMS, UPDATES), dtype)
    found, _ = decay.update(updates, decay.init(params), params)
    assert found["w"].dtype == dtype


def test_adamw_as_the_paper_has_it() -> None:
    """``x <- x - lr (u + rate 1[u x >= 0] x)`` with Adam's ``u``, in float64."""
    rate, weight_decay, steps = 0.1, 0.5, 5
    optimizer = oad.adamw(rate, weight_decay=weight_decay, cautious=True, assign=jnp.ones_like, **OPTIONS)
    params = {"w": jnp.linspace(-1, 1, 12).reshape(3, 4)}
    state = optimizer.init(params)
    x = np.asarray(params["w"], np.float64)
    m = v = np.zeros_like(x)
    skipped = 0
    for step in range(1, steps + 1):
        updates, state = optimizer.update(jax.tree.map(lambda w, k=step: jnp.sin(5 * w + k), params), state, params)
        params = optax.apply_updates(params, updates)
        gradient = np.sin(5 * x + step)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        u = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        skipped += (u * x < 0).sum()
        x = x - rate * (u + weight_decay * (u * x >= 0) * x)
    assert 10 < skipped < 50
    np.testing.assert_allclose(params["w"], x, rtol=1e-4, atol=1e-5)


def test_coupled_decay_goes_by_the_gradient() -> None:
    cautious = oad.adam(0.1, weight_decay=0.5, cautious=True, **OPTIONS)
    chain = optax.chain(oad.alphadecay(0.5, cautious=True, **OPTIONS), optax.adam(0.1))
    found, wanted = (each.update(UPDATES, each.init(PARAMS), PARAMS)[0] for each in (cautious, chain))
    np.testing.assert_array_equal(found["w"], wanted["w"])


def test_a_step_adds_the_comparison_only() -> None:
    """Comparisons, what joins them and the choice; of the size of the weights nothing else, and no other pass."""
    shapes = {"up": (64, 96), "query": (64, 64)}
    plain, cautious = (
        run_each_time(idle_step.program(oad.alphadecay(1e-3, cautious=cautious), shapes)) for cautious in (False, True)
    )
    assert heavy_work(cautious) == heavy_work(plain)

    def arrays(instructions: list[Any]) -> dict[str, int]:
        opcodes = [each.opcode for each in instructions if each.num_bytes >= 64 * 64]
        return {opcode: opcodes.count(opcode) for opcode in set(opcodes)}

    before, after = arrays(plain), arrays(cautious)
    added = {opcode: after[opcode] - before.get(opcode, 0) for opcode in after if after[opcode] > before.get(opcode, 0)}
    assert {"compare", "select"} <= added.keys()
    assert added.keys() <= {"compare", "and", "or", "select", "broadcast", "constant"}, added
