"""A step between refreshes runs no decomposition: read off the compiled program, and counted while it runs."""
# SPDX-License-Identifier: Apache-2.0

import collections
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import optax_alphadecay as oad
from benchmarks.hlo import Instruction, anywhere, heavy_work, in_branches, in_loops_of_branches, run_each_time, trips
from optax_alphadecay.spectra.eigenvalues import Solver
from tests import compiler

PLAIN = {"embed": (64, 100), "up": (64, 96), "query": (64, 64)}
SCANNED = {"embed": (64, 100), "layers": {"up": (3, 64, 96), "query": (3, 64, 64)}}
STACKED = oad.block_matrices(stacked=["layers"])
UNIFORM = optax.add_decayed_weights(1e-3)
# As LAPACK and cuSOLVER call them: reduction to tridiagonal form, eigenvalues, singular values.
DECOMPOSITION = re.compile("sytrd|syevd|gesdd|gesvd")


def program(decay: optax.GradientTransformation, shapes: Any, *, steps: int = 1) -> str:
    """The compiled text of training steps: forward, backward and update, in a scan if there are several."""
    optimizer = optax.chain(decay, optax.adam(1e-3))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for leaf in jax.tree.leaves(params):
            for matrix in leaf.reshape(-1, *leaf.shape[-2:]):
                x = jnp.tanh(x @ matrix @ matrix.T)
        return jnp.sum(x**2)

    def step(carry: Any, x: jax.Array) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, x), state, params)
        return (optax.apply_updates(params, updates), state), None

    def train(carry: Any, xs: jax.Array) -> Any:
        return step(carry, xs[0])[0] if steps == 1 else jax.lax.scan(step, carry, xs)[0]

    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=lambda node: isinstance(node, tuple)
    )
    carry = params, jax.eval_shape(optimizer.init, params)
    xs = jax.ShapeDtypeStruct((steps, 4, 64), jnp.float32)
    return jax.jit(train, donate_argnums=0).lower(carry, xs).compile(compiler.USERS_OPTIONS).as_text() or ""


def decompositions(instructions: list[Instruction]) -> list[str]:
    return [instruction.target for instruction in instructions if DECOMPOSITION.search(instruction.target)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shapes", "solver", "steps"),
    [
        (PLAIN, "auto", 1),
        (SCANNED, "auto", 1),
        (SCANNED, "auto", 5),
        (SCANNED, "eigvalsh", 1),
        (SCANNED, "svd", 1),
    ],
)
def test_an_idle_step_works_as_little_as_with_uniform_decay(shapes: Any, solver: Solver, steps: int) -> None:
    metric = oad.pl_alpha_hill(solver=solver)
    modules = STACKED if shapes is SCANNED else None
    ours = program(oad.alphadecay(1e-3, metric=metric, modules=modules), shapes, steps=steps)
    uniform = program(UNIFORM, shapes, steps=steps)

    assert decompositions(anywhere(ours))
    assert not decompositions(run_each_time(ours))
    # Beyond names: no loop (the bisection), matrix product (the Gram matrix) or sort is left outside the branch.
    assert not heavy_work(run_each_time(ours)) - heavy_work(run_each_time(uniform))


def test_an_idle_step_computes_no_more_than_before_fences() -> None:
    """Nor before fingerprints: what computed, beyond uniform decay, in a step of PLAIN at commit 3ef406a."""
    before = collections.Counter(
        {
            "add": 13,
            "and": 17,
            "broadcast": 32,
            "compare": 25,
            "conditional": 1,
            "convert": 3,
            "divide": 1,
            "fusion": 12,
        }
        | {"is-finite": 13, "maximum": 1, "minimum": 1, "multiply": 12, "not": 2, "or": 4, "reduce": 4, "remainder": 1}
        | {"select": 26, "slice": 4, "subtract": 5}
    )
    ours, uniform = (
        collections.Counter(instruction.opcode for instruction in run_each_time(program(decay, PLAIN)))
        for decay in (oad.alphadecay(1e-3), UNIFORM)
    )
    for names_only in ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy"):
        del ours[names_only]
    assert ours - uniform <= before, ours - uniform
    assert "conditional" in ours - uniform


def test_measuring_at_every_step_is_noticed() -> None:
    def update(updates: Any, params: Any) -> Any:
        scores = [oad.pl_alpha_hill()(leaf[None], leaf[None])[0] for leaf in jax.tree.leaves(params)]
        return jax.tree.map(lambda update, param: update + sum(scores) * param, updates, params)

    always = program(optax.stateless(update), PLAIN)
    assert len(decompositions(run_each_time(always))) == 3
    added = heavy_work(run_each_time(always)) - heavy_work(run_each_time(program(UNIFORM, PLAIN)))
    assert {"while", "dot", "sort"} <= added.keys()


def test_modules_are_measured_at_refreshes_only() -> None:
    runs: list[int] = []

    def metric(weights: jax.Array, gradients: jax.Array) -> jax.Array:
        jax.debug.callback(runs.append, 1)
        return jnp.arange(weights.shape[0], dtype=jnp.float32)

    params = {"w": jnp.ones((64, 64))}
    decay = oad.alphadecay(1e-3, refresh_every=4, metric=metric)
    state, update = decay.init(params), jax.jit(decay.update)
    measured_at = []
    for step in range(1, 14):
        before = len(runs)
        _, state = update(params, state, params)
        jax.effects_barrier()
        measured_at += [step] * (len(runs) - before)
    assert measured_at == [1, 4, 8, 12]


HLO = """
HloModule jit_step

%idle (p.1: (f32[2])) -> f32[2] {
  %p.1 = (f32[2]{0}) parameter(0)
  ROOT %same = f32[2]{0} get-tuple-element(%p.1), index=0
}

%gram (a: f32[2,2]) -> f32[2,2] {
  ROOT %dot.1 = f32[2,2]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

%refresh (p.2: (f32[2,2])) -> f32[2] {
  %fusion.1 = f32[2,2]{1,0} fusion(%w), kind=kOutput, calls=%gram
  ROOT %eigh = (f32[2]{0}, s32[]) custom-call(%fusion.1), custom_call_target="lapack_ssyevd_ffi"
}

%body (c: (s32[], f32[2,2])) -> (s32[], f32[2,2]) {
  %cond.1 = f32[2]{0} conditional(%due, %tuple.1, %tuple.2), branch_computations={%idle, %refresh}
  ROOT %sort.1 = (f32[2]{0}, s32[2]{0}, /*index=5*/f32[2]{0}) sort(%cond.1), to_apply=%less
}

%less (x: f32[], y: f32[]) -> pred[] {
  ROOT %compare = pred[] compare(%x, %y), direction=LT
}

ENTRY %main (w: f32[2,2]) -> f32[2] {
  ROOT %w.1 = (s32[], f32[2,2]{1,0}) while(%s), condition=%less, body=%body, config={"known_trip_count":{"n":"5"}}
}
"""


def test_branches_are_told_from_what_always_runs() -> None:
    assert heavy_work(run_each_time(HLO)) == {"while": 1, "sort": 1}
    assert heavy_work(anywhere(HLO)) == {"while": 1, "sort": 1, "dot": 1, "lapack_ssyevd_ffi": 1}
    assert {instruction.opcode for instruction in run_each_time(HLO)} == {"while", "sort", "conditional", "compare"}


def test_what_runs_in_branches_and_loops_and_how_often() -> None:
    assert heavy_work(in_branches(HLO)) == {"dot": 1, "lapack_ssyevd_ffi": 1}
    assert not in_loops_of_branches(HLO), "the branch is in a loop, and not the other way round"
    assert trips(HLO, lambda instruction: instruction.opcode in ("dot", "while")) == [1, 5]
    started = "ENTRY %m (w: f32[8]) -> f32[64] {\n  %s = (f32[8]{0}, f32[64]{0}, u32[]) all-gather-start(%w)\n}"
    assert [(each.opcode, each.num_bytes) for each in anywhere(started)] == [("all-gather", 256)]
    sizes = {instruction.opcode: instruction.num_bytes for instruction in anywhere(HLO)}
    assert (sizes["dot"], sizes["while"], sizes["sort"], sizes["compare"]) == (16, 4 + 16, 8 + 8 + 8, 1)


@pytest.mark.parametrize(
    ("hlo", "message"), [("", "no ENTRY"), (HLO.replace("%less (", "%more ("), "calls .'less'. but")]
)
def test_text_that_is_not_a_whole_program_is_refused(hlo: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_each_time(hlo)
