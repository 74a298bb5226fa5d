"""The transformation: refresh the scores when due, keep the last good ones, decay each module by its ratio."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from optax_alphadecay import distribution
from optax_alphadecay import modules as modules_lib
from optax_alphadecay.assignment.linear import linear
from optax_alphadecay.assignment.protocol import Assignment
from optax_alphadecay.decay import (
    Mask,
    ScalarOrSchedule,
    add_decay,
    check_count,
    check_function,
    check_nonnegative,
    current_rate,
    flatten_like_params,
)
from optax_alphadecay.grouping import in_rows, part_of
from optax_alphadecay.measurement import measure
from optax_alphadecay.metrics import Metric, pl_alpha_hill
from optax_alphadecay.modules import ModuleRule, ModuleStack
from optax_alphadecay.state import AlphaDecayState, check_modules, fingerprint, first_state, next_vectors


def alphadecay(
    weight_decay: ScalarOrSchedule,
    *,
    refresh_every: int = 500,
    metric: Metric | None = None,
    assign: Assignment | None = None,
    modules: ModuleRule = None,
    mask: Mask = None,
    expire_after: int | None = 10,
    cautious: bool = False,
    mesh: Mesh | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Add weight decay, more to modules with light-tailed spectra and less to heavy-tailed ones.

    Every module (a weight matrix) gets ``g + weight_decay * ratio * w``. The ratios come from all modules' scores, by
    default the power-law exponents alpha of their spectra, and are refreshed at the first update and then every
    ``refresh_every``; in between the transformation costs what :func:`optax.add_decayed_weights` does. All other
    parameters get ``g + weight_decay * w``.

    Before :func:`optax.adam` in a chain the decay is coupled, as the paper's Adam runs; between
    :func:`optax.scale_by_adam` and the learning rate it is decoupled, as :func:`optax_alphadecay.adamw`.

    A module whose score is not finite is refused: it keeps its last good ratio (1 before there is one). It moves no
    other module's ratio: it counts with its last good score, or not at all if it has none. The score expires, and the
    ratio becomes 1, when more than ``expire_after`` refreshes in a row have refused the module.

    The state knows which modules it is of. With others, as after a change of ``modules``, the next update measures all
    of them, and outside of ``jax.jit`` warns. :func:`request_refresh` asks for a refresh at the next update.

    Args:
      weight_decay: base decay rate, a scalar or an optax schedule of the number of updates so far. The ratios stay
        between refreshes; a schedule moves at every update.
      refresh_every: updates from one refresh to the next, at least 1.
      metric: measures the modules, ``(weights[k, m, n], gradients[k, m, n]) -> scores[k]``; :func:`pl_alpha_hill`
        if None. Gradients are the updates that reach this transformation, unless ``update`` is given the extra
        argument ``gradients``, which a chain passes on.
      assign: turns scores into shares of the decay, ``scores[n] -> ratios[n]``; :func:`linear` if None.
      modules: which leaves are modules. A tree like params, a prefix of one, or a function of params that gives it;
        its leaves are True (a matrix), False, :class:`optax.contrib.MuonDimensionNumbers` (any rank; axes it does
        not name are stacked modules) or :class:`MatrixAxes`. None: :func:`block_matrices`. See :func:`explain`.
      mask: which leaves are decayed at all, as in :func:`optax.add_decayed_weights`; None: all of them.
      expire_after: refreshes in a row that a module's last good score survives; None: any number.
      cautious: decay a weight only if the update that reaches this transformation has its sign, or is zero, so that
        decay and update pull it in the same direction. Behind the moments, as in :func:`adamw`, this is cautious weight
        decay as published; in front of them the sign is the gradient's.
      mesh: devices that measure at a refresh, each its share of the modules. Params that live on a mesh, and an
        ambient mesh, go first; with either, ``mesh`` need not be given.

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
      module  shape     score  ratio  norm
      down    256 x 64  ...    0.667  ...
      up      64 x 256  ...    3.000  ...

    References:
      He et al., `AlphaDecay: Module-wise Weight Decay for Heavy-Tailed Balancing in LLMs
      <https://arxiv.org/abs/2506.14562>`_, 2025; Chen et al., `Cautious Weight Decay
      <https://arxiv.org/abs/2510.12402>`_, 2025.
    """
    check_nonnegative("alphadecay", "weight_decay", weight_decay)
    check_count("alphadecay", "refresh_every", refresh_every)
    if expire_after is not None:
        check_count("alphadecay", "expire_after", expire_after)
    distribution.check_mesh("alphadecay", mesh)
    metric = pl_alpha_hill() if metric is None else metric
    assign = linear() if assign is None else assign

    check_function("alphadecay", "metric", metric, "(weights, gradients)", 2)
    check_function("alphadecay", "assign", assign, "(scores)", 1)
    refresh = _refresh_with(metric, assign)

    def init(params: optax.Params) -> AlphaDecayState:
        return first_state(modules_lib.resolve_and_warn(params, modules, mask))

    def update(
        updates: optax.Updates, state: AlphaDecayState, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, AlphaDecayState]:
        leaves = flatten_like_params("alphadecay", updates, params, extra_args)
        stacks = modules_lib.resolve(params, modules, mask)
        check_modules(stacks, state, leaves.gradients)

        own = fingerprint(stacks)
        due = (state.count == 0) | ((state.count + 1) % refresh_every == 0) | (state.fingerprint != own)
        weights, gradients = _leaves_of(stacks, leaves.params), _leaves_of(stacks, leaves.gradients)
        devices = distribution.mesh_of(mesh, [*weights, *gradients])
        vectors, rows = refresh(due, stacks, devices, weights, gradients, state, expire_after)
        new_state = vectors._replace(count=optax.safe_increment(state.count), fingerprint=jnp.asarray(own))

        take = functools.partial(part_of, new_state.ratios, rows)
        ratio_of_leaf = modules_lib.broadcast_to_leaves(stacks, take)
        is_decayed = modules_lib.leaf_mask(params, mask)
        rate = current_rate(weight_decay, state.count)
        decayed = [
            add_decay(update, param, rate, ratio_of_leaf.get(leaf, 1.0), cautious) if is_decayed[leaf] else update
            for leaf, (update, param) in enumerate(zip(leaves.updates, leaves.params, strict=True))
        ]
        return jax.tree.unflatten(leaves.structure, decayed), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def _refresh_with(metric: Metric, assign: Assignment) -> Callable[..., tuple[AlphaDecayState, list[jax.Array]]]:
    """Make the function that measures the modules where a refresh is due, and keeps the state elsewhere.

    Beside the state it gives the rows of its ratios, see :func:`in_rows`. Scores are constants to differentiation.
    """

    # Jitted apart from the update, so that an update outside of jit does not compile it anew.
    @functools.partial(jax.jit, static_argnames=("stacks", "mesh"))
    def refresh(
        due: jax.Array,
        stacks: tuple[ModuleStack, ...],
        mesh: distribution.AnyMesh | None,
        weights: list[jax.Array],
        gradients: list[jax.Array],
        state: AlphaDecayState,
        expire_after: jax.Array | None,
    ) -> tuple[AlphaDecayState, list[jax.Array]]:
        def measure_all(
            weights: list[jax.Array], gradients: list[jax.Array], state: AlphaDecayState, expire_after: jax.Array | None
        ) -> tuple[AlphaDecayState, list[jax.Array]]:
            measured = measure(metric, _as_matrices(stacks, weights), _as_matrices(stacks, gradients), mesh)
            new_state = next_vectors(state, stacks, measured, assign, expire_after)
            return new_state, in_rows(new_state.ratios)

        arguments = jax.lax.stop_gradient((weights, gradients, state, expire_after))
        return distribution.cond(due, measure_all, arguments, (arguments[2], in_rows(arguments[2].ratios)), mesh)

    return refresh


def _leaves_of(stacks: tuple[ModuleStack, ...], leaves: list[Any]) -> list[jax.Array]:
    return [leaves[stack.leaf] for stack in stacks]


def _as_matrices(stacks: tuple[ModuleStack, ...], leaves: Sequence[jax.Array]) -> list[jax.Array]:
    return [stack.as_matrices(leaf) for stack, leaf in zip(stacks, leaves, strict=True)]
