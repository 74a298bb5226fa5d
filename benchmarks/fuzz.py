"""Searches for inputs that the library mishandles: `python -m benchmarks.fuzz --examples N --seed S`."""
# SPDX-License-Identifier: Apache-2.0

import collections
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import optax_alphadecay as oad
from benchmarks.report import conditions
from experiments.command_line import ends_in_a_line

RATE = 0.1
UPDATES = 3
"""Updates of an example; weights and gradients are drawn anew for each."""
SIZES = (1, 2, 3, 5, 8, 13)
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
METRICS: dict[str, Callable[[], oad.Metric]] = {
    **{metric.__name__: metric for metric in (
        oad.pl_alpha_hill, oad.alpha_hat, oad.frobenius_norm, oad.grad_norm, oad.spectral_entropy, oad.spectral_norm,
        oad.stable_rank,
    )},
    "goodness_of_fit": lambda: oad.pl_alpha_hill(oad.goodness_of_fit()),
    "fix_finger": lambda: oad.pl_alpha_hill(oad.fix_finger()),
}  # fmt: skip
RANGES = {oad.linear: (2 / 3, 3.0), oad.sqrt: (0.0, np.inf), oad.log2: (-np.inf, np.inf), oad.sigmoid: (0.0, 2.0)}
"""What each assignment may give."""
WRAPPERS: dict[str, Callable[[optax.GradientTransformationExtraArgs], Any]] = {
    "alone": lambda inner: inner,
    "chain": lambda inner: optax.chain(inner, optax.scale(-1.0)),
    "masked": lambda inner: optax.masked(inner, lambda params: jax.tree.map(lambda leaf: True, params)),
    "MultiSteps": lambda inner: optax.MultiSteps(inner, 1),
    "apply_if_finite": lambda inner: optax.apply_if_finite(inner, 2),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Makes random trees of params, and on each random weights and gradients, broken ones among them."""

    examples: int = 10_000
    """Examples in all, of three updates each."""
    examples_of_a_tree: int = 100
    """Examples that share a tree, its transformation and so a compiled program."""
    seed: int = 0
    """Draws everything."""


class Tree(NamedTuple):
    """What examples have in common."""

    shapes: dict[str, jax.ShapeDtypeStruct]
    modules: dict[str, Any]
    metric: str
    assign: Callable[[], oad.Assignment]
    wrapper: str
    init: Callable[..., Any]
    update: Callable[..., Any]


def draw_tree(rng: np.random.Generator) -> Tree:
    """Draws leaves, which of them are modules, a metric, an assignment, a gap and a wrapper."""
    shapes, modules = dict[str, jax.ShapeDtypeStruct](), dict[str, Any]()
    for name in "abcde"[: rng.integers(1, 6)]:
        shape = tuple(int(size) for size in rng.choice(SIZES, rng.integers(1, 4)))
        shapes[name] = jax.ShapeDtypeStruct(shape, DTYPES[rng.integers(len(DTYPES))])
        is_module = len(shape) > 1 and rng.random() < 0.8
        modules[name] = optax.contrib.MuonDimensionNumbers(1, 2) if is_module and len(shape) == 3 else is_module
    assign = list(RANGES)[rng.integers(len(RANGES))]
    wrapper = list(WRAPPERS)[rng.integers(len(WRAPPERS))]
    metric = list(METRICS)[rng.integers(len(METRICS))]
    inner = oad.alphadecay(
        RATE, refresh_every=int(rng.integers(1, 4)), metric=METRICS[metric](), assign=assign(), modules=modules
    )
    transformation = WRAPPERS[wrapper](inner)
    return Tree(shapes, modules, metric, assign, wrapper, jax.jit(transformation.init), jax.jit(transformation.update))


def draw_leaf(rng: np.random.Generator, shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Draws a leaf: mostly Gaussian of any scale that the dtype holds, else one that is broken or degenerate."""
    kind = rng.choice(["gaussian"] * 12 + ["heavy", "zero", "constant", "rank one", "nan", "inf", "tiny"])
    values = rng.normal(size=shape.shape)
    if kind == "gaussian":
        values = values * 2.0 ** rng.uniform(-12, 6)
    elif kind == "heavy":
        values = np.sign(values) * rng.pareto(1.0, shape.shape)
    elif kind == "rank one":
        values = np.broadcast_to(
            values.reshape(-1, shape.shape[-1])[:1], (values.size // shape.shape[-1], shape.shape[-1])
        )
    elif kind in ("nan", "inf"):
        values.flat[rng.integers(values.size)] = float(kind)
    else:
        values = np.full(shape.shape, {"zero": 0.0, "constant": 0.7, "tiny": 1e-40}[kind])
    largest = float(jnp.finfo(shape.dtype).max) / 64
    clipped = np.where(np.isinf(values), values, np.clip(values, -largest, largest))
    return jnp.asarray(clipped.reshape(shape.shape), shape.dtype)


def violations(tree: Tree, rng: np.random.Generator) -> Iterator[str]:
    """Makes one example, and says what does not hold."""
    state = tree.init({name: jnp.zeros(shape.shape, shape.dtype) for name, shape in tree.shapes.items()})
    kept = {name: np.zeros(shape.shape, bool) for name, shape in tree.shapes.items()}
    for _ in range(UPDATES):
        params, gradients = ({name: draw_leaf(rng, leaf) for name, leaf in tree.shapes.items()} for _ in range(2))
        updates, state = tree.update(gradients, state, params)
        rows = oad.module_table(state, params, modules=tree.modules)
        ratios = np.array([row.ratio for row in rows])
        low, high = RANGES[tree.assign]
        if not ((ratios == 1) | ((ratios >= low - 1e-5) & (ratios <= high + 1e-5))).all():
            yield f"ratios {ratios} are not between {low} and {high}"
        finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((params, gradients)))
        if tree.wrapper == "apply_if_finite" and not finite:
            continue
        sign = -1.0 if tree.wrapper == "chain" else 1.0
        for name, shape in tree.shapes.items():
            if (updates[name].shape, updates[name].dtype) != (shape.shape, shape.dtype):
                yield f"the update of {name} is {updates[name].shape} {updates[name].dtype}, not {shape}"
            of_leaf = np.array([row.ratio for row in rows if row.name.partition("/")[0] == name] or [1.0])
            ratio = of_leaf.reshape(-1, *([1] * (len(shape.shape) - 1)))
            wide = [np.asarray(leaf[name], np.float64) for leaf in (gradients, params)]
            expected = sign * (wide[0] + RATE * ratio * wide[1])
            found, epsilon = np.asarray(updates[name], np.float64), float(jnp.finfo(shape.dtype).eps)
            room = 4 * epsilon * (np.abs(wide[0]) + np.abs(RATE * ratio * wide[1])) + float(jnp.finfo(shape.dtype).tiny)
            with np.errstate(invalid="ignore"):  # inf - inf, where both are
                close = np.abs(found - expected) <= room
            if not (close | (found == expected) | (np.isnan(found) & np.isnan(expected)) | kept[name]).all():
                yield f"the update of {name} is not its gradient and {RATE} x {of_leaf} of it"
            if tree.wrapper == "MultiSteps":  # it keeps what is not finite, as 0 x NaN, whatever it wraps
                kept[name] |= ~np.isfinite(wide[0])


def all_violations(tree: Tree, rng: np.random.Generator) -> Iterator[str]:
    """Makes one example, and says what does not hold; an error that is raised is one."""
    try:
        yield from violations(tree, rng)
    except Exception as error:
        yield f"raises {type(error).__name__}: {error}"


@ends_in_a_line
def main(args: Sequence[str] | None = None) -> int:
    """Fuzzes.

    Args:
        args: The command line; None takes the process's.

    Returns:
        The exit code: 0; 1 if something did not hold.
    """
    options = tyro.cli(Options, args=args, prog="python -m benchmarks.fuzz")
    found, trees, kinds = 0, 0, collections.Counter[str]()
    for start in range(0, options.examples, options.examples_of_a_tree):
        tree, trees = draw_tree(np.random.default_rng([options.seed, start])), trees + 1
        of_tree = range(start, min(start + options.examples_of_a_tree, options.examples))
        dtypes = {str(leaf.dtype) for leaf in tree.shapes.values()}
        kinds.update(dict.fromkeys((tree.metric, tree.assign.__name__, tree.wrapper, *dtypes), len(of_tree)))
        for example in of_tree:
            for violation in all_violations(tree, np.random.default_rng([options.seed, start, example])):
                found += 1
                print(f"error: example {example} of seed {options.seed}: {violation}\n  {tree}", file=sys.stderr)
    where = conditions(sys.argv[1:] if args is None else args, module="benchmarks.fuzz")
    counts = {"examples": options.examples, "trees": trees, "violations": found, "examples of": kinds}
    print(json.dumps({**where, **counts}, indent=1))
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
