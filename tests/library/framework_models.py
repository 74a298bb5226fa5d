"""The same small transformer in Flax linen, Flax NNX, Equinox, Haiku and plain JAX, layers scanned and unscanned."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad

LAYERS, WIDTH, HIDDEN, VOCABULARY, HEADS = 2, 64, 96, 80, 4
TOKENS = jnp.arange(12).reshape(2, 6) * 5 % VOCABULARY


class Model(NamedTuple):
    """One framework's model. Scanned or not, it has the same weights."""

    init: Callable[[int], Any]
    """Number of layers to params."""
    modules: Any
    """Which of them are modules."""
    train: Callable[[Any, Any], tuple[Any, Any]]
    """Params of two layers and an optimizer to the updates and the state of one compiled training step."""


def loss_of(logits: Any) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], TOKENS[:, 1:]).mean()


def layer(stack: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, stack)


def train_functional(loss: Callable[[Any], jax.Array], params: Any, optimizer: Any) -> tuple[Any, Any]:
    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        return optimizer.update(jax.grad(loss)(params), state, params)

    return step(params, optimizer.init(params))


def flax_kernels(scanned: bool) -> Callable[[Any], Any]:
    """The kernels of Flax's Dense and DenseGeneral, but for the output head."""
    first = int(scanned)
    inward = MuonDimensionNumbers(first, (first + 1, first + 2))
    outward = MuonDimensionNumbers((first, first + 1), first + 2)
    axes = {"key": inward, "out": outward, "query": inward, "value": inward}

    def choose(path: Any, leaf: Any) -> Any:
        components = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if "kernel" not in components or "head" in components:
            return False
        return axes.get(components[components.index("kernel") - 1], MuonDimensionNumbers(first, first + 1))

    return functools.partial(jax.tree_util.tree_map_with_path, choose)


class LinenBlock(linen.Module):
    """Attention and an MLP, each on a normalised copy of the residual stream."""

    @linen.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        """Maps ``[B, L, D]`` to the same, in the form that scan wants."""
        x += linen.MultiHeadDotProductAttention(num_heads=HEADS)(linen.LayerNorm()(x))
        hidden = jax.nn.gelu(linen.Dense(HIDDEN)(linen.LayerNorm()(x)))
        return x + linen.Dense(WIDTH)(hidden), None


class LinenTransformer(linen.Module):
    """Embedding, blocks and head."""

    layers: int
    scanned: bool

    @linen.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens ``[B, L]`` to logits ``[B, L, V]``."""
        x = linen.Embed(VOCABULARY, WIDTH)(tokens)
        if self.scanned:
            scan = linen.scan(LinenBlock, {"params": 0}, split_rngs={"params": True}, length=self.layers)
            x, _ = scan(name="layers")(x, None)
        else:
            for index in range(self.layers):
                x, _ = LinenBlock(name=f"layers_{index}")(x)
        return linen.Dense(VOCABULARY, name="head")(linen.LayerNorm(name="final_norm")(x))


def in_linen(scanned: bool) -> Model:
    def init(layers: int) -> Any:
        params = jax.jit(LinenTransformer(layers, True).init)(jax.random.key(0), TOKENS)["params"]
        stack = params.pop("layers")
        blocks = {"layers": stack} if scanned else {f"layers_{index}": layer(stack, index) for index in range(layers)}
        return {"params": params | blocks}

    def loss(params: Any) -> jax.Array:
        return loss_of(LinenTransformer(LAYERS, scanned).apply(params, TOKENS))

    return Model(init, flax_kernels(scanned), functools.partial(train_functional, loss))


class NnxBlock(nnx.Module):
    """Attention and an MLP, each on a normalised copy of the residual stream."""

    def __init__(self, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)])
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, L, D]`` to the same."""
        x += self.attention(self.norms[0](x))
        return x + self.down(jax.nn.gelu(self.up(self.norms[1](x))))


class NnxTransformer(nnx.Module):
    """Embedding, blocks and head."""

    def __init__(self, layers: int, scanned: bool):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)
        stack = nnx.vmap(NnxBlock)(rngs.split(layers))
        graph, state = nnx.split(stack)
        self.layers = stack if scanned else nnx.List([nnx.merge(graph, layer(state, i)) for i in range(layers)])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens ``[B, L]`` to logits ``[B, L, V]``."""
        x = self.embed(tokens)
        if isinstance(self.layers, NnxBlock):
            graph, state = nnx.split(self.layers)
            x, _ = jax.lax.scan(lambda x, block: (nnx.merge(graph, block)(x), None), x, state)
        else:
            for block in self.layers:
                x = block(x)
        return self.head(x)


def in_nnx(scanned: bool) -> Model:
    def init(layers: int) -> Any:
        return nnx.state(NnxTransformer(layers, scanned), nnx.Param)

    def train(params: Any, transformation: Any) -> tuple[Any, Any]:
        model = NnxTransformer(LAYERS, scanned)
        nnx.update(model, params)
        optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)

        @nnx.jit
        def step(model: Any, optimizer: Any) -> Any:
            return optimizer.update(model, nnx.grad(lambda model: loss_of(model(TOKENS)))(model))

        return step(model, optimizer), optimizer.opt_state

    return Model(init, flax_kernels(scanned), train)


class EquinoxBlock(eqx.Module):
    """Attention without biases, which are None, and an MLP, scaled by a static field."""

    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    scale: float = eqx.field(static=True)

    def __init__(self, key: jax.Array):
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=jax.random.fold_in(key, 0))
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, HIDDEN, 1, key=jax.random.fold_in(key, 1))
        self.scale = 0.5

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[L, D]`` to the same."""
        x += self.attention(x, x, x)
        return x + self.scale * jax.vmap(self.mlp)(jax.vmap(self.norm)(x))


class EquinoxTransformer(eqx.Module):
    """Embedding, blocks and head."""

    embedding: eqx.nn.Embedding
    layers: Any
    head: eqx.nn.Linear

    def __init__(self, layers: int, scanned: bool):
        keys = jax.random.split(jax.random.key(0), layers + 2)
        self.embedding = eqx.nn.Embedding(VOCABULARY, WIDTH, key=keys[0])
        self.head = eqx.nn.Linear(WIDTH, VOCABULARY, key=keys[1])
        stack = eqx.filter_vmap(EquinoxBlock)(keys[2:])
        self.layers = stack if scanned else [layer(stack, index) for index in range(layers)]

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens ``[L]`` to logits ``[L, V]``."""
        x = jax.vmap(self.embedding)(tokens)
        if isinstance(self.layers, list):
            for block in self.layers:
                x = block(x)
        else:
            arrays, rest = eqx.partition(self.layers, eqx.is_array)
            x, _ = jax.lax.scan(lambda x, block: (eqx.combine(block, rest)(x), None), x, arrays)
        return jax.vmap(self.head)(x)


def in_equinox(scanned: bool) -> Model:
    def init(layers: int) -> Any:
        return eqx.filter(EquinoxTransformer(layers, scanned), eqx.is_inexact_array)

    def train(params: Any, optimizer: Any) -> tuple[Any, Any]:
        @eqx.filter_jit
        def step(model: Any, state: Any) -> tuple[Any, Any]:
            gradients = eqx.filter_grad(lambda model: loss_of(jax.vmap(model)(TOKENS)))(model)
            return optimizer.update(gradients, state, eqx.filter(model, eqx.is_inexact_array))

        return step(eqx.combine(params, EquinoxTransformer(LAYERS, scanned)), optimizer.init(params))

    return Model(init, oad.block_matrices(stacked=["layers"] if scanned else []), train)


class HaikuBlock(hk.Module):
    """Attention and an MLP, each on a normalised copy of the residual stream."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, L, D]`` to the same."""
        normed = hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)
        attention = hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=hk.initializers.VarianceScaling())
        return hk.nets.MLP([HIDDEN, WIDTH])(x + attention(normed, normed, normed))


def in_haiku(scanned: bool) -> Model:
    def transformer(layers: int, scanned: bool) -> Any:
        def apply(tokens: jax.Array) -> jax.Array:
            x = hk.Embed(VOCABULARY, WIDTH)(tokens)
            if scanned:
                x = hk.experimental.layer_stack(layers, name="layers")(lambda x: HaikuBlock(name="block")(x))(x)
            else:
                for index in range(layers):
                    x = HaikuBlock(name=f"layer_{index}")(x)
            return hk.Linear(VOCABULARY, name="head")(x)

        return hk.without_apply_rng(hk.transform(apply))

    def init(layers: int) -> Any:
        params = jax.jit(transformer(layers, True).init)(jax.random.key(0), TOKENS)
        if scanned:
            return params
        stacked = {name: params.pop(name) for name in list(params) if "/block/" in name}
        unstacked = {
            f"layer_{index}/{name.partition('/block/')[2]}": layer(leaves, index)
            for name, leaves in stacked.items()
            for index in range(layers)
        }
        return params | unstacked

    def loss(params: Any) -> jax.Array:
        return loss_of(transformer(LAYERS, scanned).apply(params, TOKENS))

    modules = oad.block_matrices(stacked=["layers"] if scanned else [])
    return Model(init, modules, functools.partial(train_functional, loss))


def in_plain_jax(scanned: bool) -> Model:
    def init(layers: int) -> Any:
        keys = iter(jax.random.split(jax.random.key(0), 4))
        stack = {
            "up": jax.random.normal(next(keys), (layers, WIDTH, HIDDEN)) / 8,
            "down": jax.random.normal(next(keys), (layers, HIDDEN, WIDTH)) / 8,
            "scale": jnp.ones((layers, WIDTH)),
        }
        blocks = stack if scanned else [layer(stack, index) for index in range(layers)]
        table = jax.random.normal(next(keys), (VOCABULARY, WIDTH)) / 8
        return {"wte": table, "layers": blocks, "head": table.T}

    def apply_block(x: jax.Array, block: Any) -> tuple[jax.Array, None]:
        return x + jnp.tanh(x * block["scale"][None, None] @ block["up"]) @ block["down"], None

    def loss(params: Any) -> jax.Array:
        x = params["wte"][TOKENS]
        if scanned:
            x, _ = jax.lax.scan(apply_block, x, params["layers"])
        else:
            for block in params["layers"]:
                x, _ = apply_block(x, block)
        return loss_of(x @ params["head"])

    modules = oad.block_matrices(stacked=["layers"] if scanned else [])
    return Model(init, modules, functools.partial(train_functional, loss))
