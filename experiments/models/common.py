"""What the networks share: how weights are drawn, counted and cut over devices."""
# SPDX-License-Identifier: Apache-2.0

import math
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx


class Network(Protocol):
    """A class of networks."""

    def __call__(self, config: Any, *, rngs: nnx.Rngs) -> nnx.Module:
        """Draws the weights of one; its method `loss` takes a batch and returns what a training step lowers."""

    def spec_of(self, path: tuple[Any, ...], leaf: Any) -> jax.P:
        """Where a parameter lies on the mesh, or a leaf of the optimizer's state that has the same name.

        Args:
            path: Where the leaf is in the tree, as JAX gives it; the last two keys are the layer and the parameter.
            leaf: Anything with a rank.

        Returns:
            Its partition over the mesh axis `fsdp`.
        """


def normal(stddev: float) -> nnx.Initializer:
    """Draws a weight matrix; the bits are the same inside and outside of jit."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        # The compiler would otherwise multiply the standard deviation into a factor of the normal distribution.
        return jax.lax.optimization_barrier(jax.random.normal(key, shape, dtype)) * stddev

    return init


def cut_on_width(path: tuple[Any, ...], leaf: Any, *, writers: Sequence[str]) -> jax.P:
    """Cuts kernels and embeddings on the axis of the model's width, which all of them have, and copies all else.

    Sizes of other axes need not divide.

    Args:
        path: As for `Network.spec_of`.
        leaf: The same.
        writers: Layers whose output, and not input, is as wide as the model.
    """
    names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    if names[-1] not in ("kernel", "embedding"):
        return jax.P()
    axis = leaf.ndim - (1 if names[-2] in writers else 2)
    return jax.P(*[None] * axis, "fsdp")


def abstract_model(config: Any, network: Network) -> tuple[nnx.GraphDef[Any], Any]:
    """The model without its parameters, and the tree of their `jax.ShapeDtypeStruct`; draws nothing."""
    graphdef, weights = nnx.split(nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(weights)


def num_parameters(params: Any) -> int:
    """Number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
