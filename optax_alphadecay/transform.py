"""The transformation: when scores are refreshed, what the state keeps, and how decay is applied."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from optax_alphadecay import modules as modules_lib
from optax_alphadecay.assignment import Assignment, assign_by_name, linear
from optax_alphadecay.distribution import AnyMesh, check_mesh, left_to_compiler, mesh_of, vary, varying
from optax_alphadecay.metrics import Metric, measure, pl_alpha_hill
from optax_alphadecay.modules import ModuleRule, ModuleStack, PyTree

ScalarOrSchedule = jax.typing.ArrayLike | Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike]
Mask = PyTree | Callable[[PyTree], PyTree] | None


class AlphaDecayState(NamedTuple):
    """State of :func:`alphadecay`. The vectors hold the modules in leaf order, then in the order of a stack."""

    count: jax.Array  # type: ignore[assignment] # shape=(), dtype=int32
    scores: jax.Array  # shape=(n_modules,), dtype=float32; each module's last good one, 0 before
    ratios: jax.Array  # shape=(n_modules,), dtype=float32; decay / weight_decay, 1 before the first good score
    rejected: jax.Array  # shape=(), dtype=int32; scores and ratios refused so far because they were not finite


def alphadecay(
    weight_decay: ScalarOrSchedule,
    *,
    refresh_every: int = 500,
    metric: Metric | None = None,
    assign: Assignment | None = None,
    modules: ModuleRule = None,
    mask: Mask = None,
    mesh: Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds weight decay, to every module in its own measure: more where the spectrum is light-tailed, less where heavy.

    Every module (a weight matrix) gets ``g + weight_decay * ratio * w``. The ratios come from all modules' scores, by
    default the power-law exponents alpha of their spectra, and are refreshed at the first update and then every
    ``refresh_every``; in between the transformation costs what :func:`optax.add_decayed_weights` does. All other
    parameters get ``g + weight_decay * w``.

    Before :func:`optax.adam` in a chain the decay is coupled, as the paper's Adam runs; between
    :func:`optax.scale_by_adam` and the learning rate it is decoupled, as :func:`optax_alphadecay.adamw`.

    A module whose score is not finite keeps its last good ratio (1 before there is one). It moves no other module's:
    the others are shared out with its last good score, or as if it were not there if it never had one.

    Args:
      weight_decay: base decay rate, a scalar or an optax schedule of the number of updates so far. The ratios stay
        between refreshes; a schedule moves at every update.
      refresh_every: updates from one refresh to the next, at least 1.
      metric: measures the modules, ``(weights[k, m, n], gradients[k, m, n]) -> scores[k]``; :func:`pl_alpha_hill`
        if None. Gradients are the updates that reach this transformation, unless ``update`` is given the extra
        argument ``gradients``, which a chain passes on.
      assign: shares out the decay, ``scores[n] -> ratios[n]``; :func:`linear` if None.
      modules: which leaves are modules. A tree like params, a prefix of one, or a function of params that gives it;
        its leaves are True (a matrix), False or :class:`optax.contrib.MuonDimensionNumbers` (any rank; axes it does
        not name are stacked modules). None: :func:`block_matrices`.
      mask: which leaves are decayed at all, as in :func:`optax.add_decayed_weights`; None: all of them.
      mesh: devices to spread a refresh over, each measuring its share of the modules. It need not be given for params
        that live on a mesh, since their types name it under ``jax.jit`` too, nor where there is an ambient one; these
        go first.

    Returns:
      A transformation with state :class:`AlphaDecayState`. Updates keep their dtype.

    Raises:
      ValueError: for arguments out of range when the transformation is built; for leaves that cannot be modules and
        trees that do not match when it is initialised or first traced; names the leaf and the fix.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import optax_alphadecay as oad
      >>> keys = jax.random.split(jax.random.key(0))
      >>> params = {"up": jax.random.normal(keys[0], (64, 256)), "down": jax.random.t(keys[1], 2.0, (256, 64))}
      >>> optimizer = optax.chain(oad.alphadecay(1e-5), optax.adam(1e-3))
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
      >>> print(oad.format_table(oad.module_table(state, params)))
      module  shape     score  ratio
      down    256 x 64  ...    0.667
      up      64 x 256  ...    3.000

    References:
      He et al., `AlphaDecay: Module-wise Weight Decay for Heavy-Tailed Balancing in LLMs
      <https://arxiv.org/abs/2506.14562>`_, 2025.
    """
    check_nonnegative("alphadecay", "weight_decay", weight_decay)
    _check_refresh_every(refresh_every)
    check_mesh("alphadecay", mesh)
    metric = pl_alpha_hill() if metric is None else metric
    assign = linear() if assign is None else assign

    def init(params: optax.Params) -> AlphaDecayState:
        n_modules = len(modules_lib.names(modules_lib.resolve(params, modules, mask)))
        return AlphaDecayState(
            count=jnp.zeros((), jnp.int32),
            scores=jnp.zeros((n_modules,), jnp.float32),
            ratios=jnp.ones((n_modules,), jnp.float32),
            rejected=jnp.zeros((), jnp.int32),
        )

    # Jitted apart from the update, so that an update outside of jit does not compile it anew.
    @functools.partial(jax.jit, static_argnames=("stacks", "mesh"))
    def refresh(
        due: jax.Array,
        stacks: tuple[ModuleStack, ...],
        mesh: AnyMesh | None,
        weights: list[jax.Array],
        gradients: list[jax.Array],
        scores: jax.Array,
    ) -> jax.Array:
        def measure_all(weights: list[jax.Array], gradients: list[jax.Array]) -> jax.Array:
            return measure(metric, _as_matrices(stacks, weights), _as_matrices(stacks, gradients), mesh)

        measured = left_to_compiler(measure_all, mesh)
        axes = varying([*weights, *gradients, scores])
        return jax.lax.cond(due, lambda: vary(measured(weights, gradients), axes), lambda: vary(scores, axes))

    def update(
        updates: optax.Updates, state: AlphaDecayState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, AlphaDecayState]:
        param_leaves, update_leaves, gradients, structure = flatten_together("alphadecay", updates, params, extra_args)
        stacks = modules_lib.resolve(params, modules, mask)
        names = modules_lib.names(stacks)
        _check_modules(stacks, names, state, gradients)

        due = (state.count == 0) | ((state.count + 1) % refresh_every == 0)
        looked_at = _of_modules(stacks, param_leaves), _of_modules(stacks, gradients)
        devices = mesh_of(mesh, [*looked_at[0], *looked_at[1]])
        measured = refresh(due, stacks, devices, *looked_at, state.scores)
        good = jnp.isfinite(measured)
        # A module that breaks counts with its last good score, so that it moves no other; NaN if it never had one.
        last_good = jnp.where(state.scores == 0, jnp.nan, state.scores)
        assigned = assign_by_name(assign, jnp.where(good, measured, last_good), names).astype(jnp.float32)
        accepted = good & jnp.isfinite(assigned)
        ratios = jnp.where(due & accepted, assigned, state.ratios)

        ratio_of_leaf = {stack.leaf: stack.spread(ratios[part]) for stack, part in modules_lib.slices(stacks)}
        is_decayed = modules_lib.leaf_mask(params, mask)
        rate = current(weight_decay, state.count)
        decayed = [
            add_decay(update, param, rate, ratio_of_leaf.get(leaf, 1.0)) if is_decayed[leaf] else update
            for leaf, (update, param) in enumerate(zip(update_leaves, param_leaves, strict=True))
        ]
        return jax.tree.unflatten(structure, decayed), AlphaDecayState(
            count=optax.safe_increment(state.count),
            scores=jnp.where(accepted, measured, state.scores),
            ratios=ratios,
            rejected=state.rejected + jnp.where(due, (~accepted).sum(dtype=jnp.int32), 0),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def current(rate: ScalarOrSchedule, count: jax.Array) -> jax.typing.ArrayLike:
    """The rate at an update: the schedule's value there, or the constant."""
    return rate(count) if callable(rate) else rate


def add_decay(
    update: jax.Array | None, param: jax.Array, rate: jax.typing.ArrayLike, ratio: jax.typing.ArrayLike
) -> jax.Array | None:
    """``g + rate * ratio * w`` of one leaf, in the dtype of ``g``; no update stays no update."""
    if update is None:
        return None
    # In bfloat16, the product of rate and ratio would lose most of the difference between modules.
    dtype = jnp.promote_types(jnp.result_type(param), jnp.float32)
    decay = jnp.asarray(rate, dtype) * jnp.asarray(ratio, dtype)
    return (update + decay * jnp.asarray(param, dtype)).astype(jnp.result_type(update))


def flatten_together(
    name: str, updates: optax.Updates, params: optax.Params | None, extra_args: dict[str, Any]
) -> tuple[list[Any], list[Any], list[Any], Any]:
    """Leaves of ``params``, the update and the gradient of each (or None), and their structure.

    The gradients are the extra argument of that name, or else the updates.

    Raises:
      ValueError: if there are no params, or an update or gradient does not match its parameter; names the leaf.
    """
    if params is None:
        raise ValueError(f"{name}: decay needs the weights; call update(gradients, state, params).")
    with_path: list[tuple[Any, Any]]
    structure: Any
    with_path, structure = jax.tree_util.tree_flatten_with_path(params)

    def matching(argument: str, tree: PyTree) -> list[Any]:
        try:
            leaves: list[Any] = structure.flatten_up_to(tree)
        except ValueError as error:
            raise ValueError(f"{name}: {argument} do not have the structure of params: {error}") from error
        for (path, param), leaf in zip(with_path, leaves, strict=True):
            if leaf is not None and jnp.shape(param) != jnp.shape(leaf):
                key = jax.tree_util.keystr(path, simple=True, separator="/")
                raise ValueError(
                    f"{name}: {key!r} has shape {jnp.shape(param)} in params and {jnp.shape(leaf)} in {argument}; pass"
                    " the params that the gradients were taken of."
                )
        return leaves

    update_leaves = matching("updates", updates)
    gradients = update_leaves
    if "gradients" in extra_args:
        gradients = matching("gradients", _masked_like(params, extra_args["gradients"]))
    return [param for _, param in with_path], update_leaves, gradients, structure


def _masked_like(params: optax.Params, gradients: optax.Updates) -> optax.Updates:
    """Gradients masked where ``params`` are: ``optax.masked`` masks updates and params, but no extra arguments."""

    def is_masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(params, is_leaf=is_masked)
    try:
        of_leaves = structure.flatten_up_to(gradients)
    except ValueError:
        return gradients  # the caller says what does not fit
    pairs = zip(leaves, of_leaves, strict=True)
    return jax.tree.unflatten(structure, [leaf if is_masked(leaf) else gradient for leaf, gradient in pairs])


def _of_modules(stacks: tuple[ModuleStack, ...], leaves: list[Any]) -> list[jax.Array]:
    return [leaves[stack.leaf] for stack in stacks]


def _as_matrices(stacks: tuple[ModuleStack, ...], leaves: list[jax.Array]) -> list[jax.Array]:
    return [stack.as_matrices(leaf) for stack, leaf in zip(stacks, leaves, strict=True)]


def _check_modules(
    stacks: tuple[ModuleStack, ...], names: tuple[str, ...], state: AlphaDecayState, gradients: list[Any]
) -> None:
    if state.scores.shape != (len(names),):
        raise ValueError(
            f"alphadecay: the state holds {state.scores.shape[0]} modules and params {len(names)}: {', '.join(names)}."
            " Initialise with the params, modules and mask that update sees."
        )
    for stack in stacks:
        if gradients[stack.leaf] is None:
            raise ValueError(
                f"alphadecay: {stack.name!r} is a module but has no update (None). Set it to False in modules, or give"
                " it a gradient."
            )


def check_nonnegative(name: str, argument: str, value: Any) -> None:
    """Raises a ValueError if ``value`` is a number, not an array or a schedule, and negative or not finite."""
    if isinstance(value, numbers.Real) and not 0 <= float(value) < math.inf:
        raise ValueError(f"{name}: {argument} must be finite and at least 0, got {value!r}.")


def check_positive(name: str, argument: str, value: Any) -> None:
    """Raises a ValueError if ``value`` is a number, not an array or a schedule, and not both finite and positive."""
    if isinstance(value, numbers.Real) and not 0 < float(value) < math.inf:
        raise ValueError(f"{name}: {argument} must be finite and positive, got {value!r}.")


def _check_refresh_every(refresh_every: Any) -> None:
    # inject_hyperparams passes an array, whose value is not known here.
    if isinstance(refresh_every, jax.Array) and jnp.issubdtype(refresh_every.dtype, jnp.integer):
        return
    if isinstance(refresh_every, bool) or not isinstance(refresh_every, numbers.Integral) or refresh_every < 1:
        raise ValueError(f"alphadecay: refresh_every must be an integer of at least 1, got {refresh_every!r}.")
