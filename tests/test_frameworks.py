"""The default rule and a training step on the parameters of Flax linen, Flax NNX, Equinox, Haiku and plain dicts."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad
from experiments.config import ModelConfig
from experiments.llama import Llama, next_token_loss

VOCABULARY, WIDTH, HIDDEN, LENGTH = 96, 16, 24, 6
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (2, LENGTH)), jnp.int32)
# A cheap metric: what is tested here is the way in and out of the frameworks, not the spectrum.
CHEAP = {"metric": oad.frobenius_norm(), "refresh_every": 2}
RULE = oad.block_matrices(8)
STACKED = oad.block_matrices(8, stacked=["layers"])


class LinenBlock(nn.Module):
    """Pre-norm attention and feed-forward; its attention kernels have rank 3."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm()(x))
        hidden = nn.gelu(nn.Dense(HIDDEN, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(WIDTH, name="down")(hidden), None


class LinenTransformer(nn.Module):
    """Two blocks, one after the other or scanned."""

    scanned: bool

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(VOCABULARY, WIDTH)(tokens)
        if self.scanned:
            stack = nn.scan(LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            x, _ = stack(name="layers")(x, None)
        else:
            for index in range(2):
                x, _ = LinenBlock(name=f"block_{index}")(x)
        return nn.Dense(VOCABULARY, name="lm_head")(nn.LayerNorm(name="final_norm")(x))


class EquinoxBlock(eqx.Module):
    """A feed-forward block with a static field and a parameter that may be None."""

    up: eqx.nn.Linear
    down: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    activation: Callable[[jax.Array], jax.Array] = eqx.field(static=True)

    def __init__(self, key: jax.Array):
        up, down = jax.random.split(key)
        self.up = eqx.nn.Linear(WIDTH, HIDDEN, use_bias=False, key=up)
        self.down = eqx.nn.Linear(HIDDEN, WIDTH, key=down)
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.activation = jax.nn.gelu

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.down(self.activation(self.up(self.norm(x))))


class EquinoxModel(eqx.Module):
    """An embedding, two blocks and a head."""

    embedding: eqx.nn.Embedding
    blocks: list[EquinoxBlock]
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.embedding = eqx.nn.Embedding(VOCABULARY, WIDTH, key=keys[0])
        self.blocks = [EquinoxBlock(keys[1]), EquinoxBlock(keys[2])]
        self.head = eqx.nn.Linear(WIDTH, VOCABULARY, key=keys[3])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = jax.vmap(self.embedding)(tokens)
        for block in self.blocks:
            x = jax.vmap(block)(x)
        return jax.vmap(self.head)(x)


def haiku_model(tokens: jax.Array) -> jax.Array:
    x = hk.Embed(VOCABULARY, WIDTH)(tokens)
    for index in range(2):
        normed = hk.LayerNorm(-1, True, True, name=f"h{index}_ln")(x)
        x = x + hk.Linear(WIDTH, name=f"h{index}_down")(jax.nn.gelu(hk.Linear(HIDDEN, name=f"h{index}_up")(normed)))
    return hk.Linear(VOCABULARY, name="lm_head")(x)


def cross_entropy(logits: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS).mean()


def table(params: Any, modules: Any) -> list[tuple[str, tuple[int, int]]]:
    optimizer = oad.alphadecay(0.1, modules=modules)
    return [(row.name, row.shape) for row in oad.module_table(optimizer.init(params), params, modules=modules)]


def train(params: Any, loss: Callable[[Any], jax.Array], modules: Any, steps: int = 3) -> Any:
    """A few jitted steps; checks that ratios move, updates are finite, and nothing changes structure."""
    optimizer = oad.adam(1e-3, weight_decay=0.1, modules=modules, **CHEAP)

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        new_params, new_state = step(params, state)
        assert jax.tree.structure((new_params, new_state)) == jax.tree.structure((params, state))
        params, state = new_params, new_state
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))
    ratios = [row.ratio for row in oad.module_table(state, params, modules=modules)]
    assert min(ratios) == pytest.approx(2 / 3) and max(ratios) == pytest.approx(3.0)
    return optax.tree.get(state, "ratios")


def linen_numbers(params: Any, stack_axes: int) -> Any:
    """What a user with rank-3 attention kernels writes: dimension numbers for them, the default rule for the rest."""

    def choose(path: Any, leaf: jax.Array) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith("kernel") or "lm_head" in name:
            return False
        if "/attention/out/" in name:
            return MuonDimensionNumbers((stack_axes, stack_axes + 1), stack_axes + 2)
        if "/attention/" in name:
            return MuonDimensionNumbers(stack_axes, (stack_axes + 1, stack_axes + 2))
        return MuonDimensionNumbers(stack_axes, stack_axes + 1)

    return jax.tree.map_with_path(choose, params)


LINEN_BLOCK = [
    ("attention/key/kernel", (16, 16)),
    ("attention/out/kernel", (16, 16)),
    ("attention/query/kernel", (16, 16)),
    ("attention/value/kernel", (16, 16)),
    ("down/kernel", (24, 16)),
    ("up/kernel", (16, 24)),
]


def test_linen() -> None:
    model = LinenTransformer(scanned=False)
    params = model.init(jax.random.key(0), TOKENS)
    numbers = linen_numbers(params, 0)
    assert table(params, numbers) == [
        (f"params/block_{block}/{name}", shape) for block in range(2) for name, shape in LINEN_BLOCK
    ]
    train(params, lambda params: cross_entropy(model.apply(params, TOKENS)), numbers)


def test_linen_scanned_layers_get_the_ratios_of_separate_ones() -> None:
    separate, scanned = LinenTransformer(scanned=False), LinenTransformer(scanned=True)
    params = separate.init(jax.random.key(0), TOKENS)
    blocks = [params["params"][f"block_{index}"] for index in range(2)]
    rest = {name: leaf for name, leaf in params["params"].items() if not name.startswith("block_")}
    stacked = {"params": rest | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}}
    numbers = linen_numbers(stacked, 1)
    numbers["params"]["lm_head"]["kernel"] = False
    assert table(stacked, numbers) == [
        (f"params/layers/{name}/{layer}", shape) for name, shape in LINEN_BLOCK for layer in range(2)
    ]
    apart = train(params, lambda params: cross_entropy(separate.apply(params, TOKENS)), linen_numbers(params, 0))
    together = train(stacked, lambda params: cross_entropy(scanned.apply(params, TOKENS)), numbers)
    np.testing.assert_allclose(together.reshape(6, 2).T.ravel(), apart, rtol=1e-4)


def test_linen_kernels_of_rank_three_are_not_guessed() -> None:
    params = LinenTransformer(scanned=False).init(jax.random.key(0), TOKENS)
    with pytest.raises(ValueError, match=r"'params/block_0/attention/key/kernel' has shape \(16, 2, 8\).*MuonDim"):
        oad.alphadecay(0.1, modules=RULE).init(params)


LLAMA = ModelConfig(16, 24, 2, 2, vocab_size=VOCABULARY, compute_dtype="float32")
LLAMA_MODULES = [
    (f"layers/{name}/kernel/value/{layer}", shape)
    for name, shape in [
        ("mlp/down_proj", (24, 16)),
        ("mlp/gate_proj", (16, 24)),
        ("mlp/up_proj", (16, 24)),
        ("self_attn/k_proj", (16, 16)),
        ("self_attn/o_proj", (16, 16)),
        ("self_attn/q_proj", (16, 16)),
        ("self_attn/v_proj", (16, 16)),
    ]
    for layer in range(2)
]


def test_nnx_optimizer_on_scanned_layers() -> None:
    model = Llama(LLAMA, rngs=nnx.Rngs(0))
    decay = oad.adam(1e-3, weight_decay=0.1, modules=STACKED, **CHEAP)
    optimizer = nnx.Optimizer(model, decay, wrt=nnx.Param)

    @nnx.jit
    def step(model: Llama, optimizer: nnx.Optimizer[Llama]) -> jax.Array:
        loss, gradients = nnx.value_and_grad(next_token_loss)(model, TOKENS)
        optimizer.update(model, gradients)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(3)]
    assert losses[2] < losses[0]
    rows = oad.module_table(optimizer.opt_state, nnx.state(model, nnx.Param), modules=STACKED)
    assert [(row.name, row.shape) for row in rows] == LLAMA_MODULES
    assert min(row.ratio for row in rows) == pytest.approx(2 / 3)
    assert max(row.ratio for row in rows) == pytest.approx(3.0)
    assert oad.scalars(optimizer.opt_state, nnx.state(model, nnx.Param), modules=STACKED)["alphadecay/rejected"] == 0


def test_nnx_separate_layers() -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
            self.blocks = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2)])
            self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
            self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

        def __call__(self, tokens: jax.Array) -> jax.Array:
            x = self.embed(tokens)
            for block in self.blocks:
                x = x + nnx.gelu(block(x))
            return self.head(self.norm(x))

    graphdef, params = nnx.split(Model(nnx.Rngs(0)))
    assert table(params, RULE) == [(f"blocks/{index}/kernel/value", (16, 16)) for index in range(2)]
    train(params, lambda params: cross_entropy(nnx.merge(graphdef, params)(TOKENS)), RULE)


def test_equinox() -> None:
    model = EquinoxModel(jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    assert params.blocks[0].up.bias is None
    assert table(params, RULE) == [
        (f"blocks/{index}/{name}/weight", shape)
        for index in range(2)
        for name, shape in [("up", (24, 16)), ("down", (16, 24))]
    ]
    train(params, lambda params: cross_entropy(jax.vmap(eqx.combine(params, static))(TOKENS)), RULE)


def test_equinox_filtered_step_on_the_whole_model() -> None:
    """The idiom of its documentation: gradients are None wherever the model holds no floating array."""
    model = EquinoxModel(jax.random.key(0))
    optimizer = oad.adam(1e-3, weight_decay=0.1, modules=RULE, **CHEAP)
    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model: EquinoxModel, state: Any) -> tuple[EquinoxModel, Any]:
        gradients = eqx.filter_grad(lambda model: cross_entropy(jax.vmap(model)(TOKENS)))(model)
        updates, state = optimizer.update(gradients, state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), state

    for _ in range(2):
        model, state = step(model, state)
    assert len({row.ratio for row in oad.module_table(state, eqx.filter(model, eqx.is_array), modules=RULE)}) > 1


def test_haiku() -> None:
    model = hk.without_apply_rng(hk.transform(haiku_model))
    params = model.init(jax.random.key(0), TOKENS)
    assert table(params, RULE) == [
        ("h0_down/w", (24, 16)),
        ("h0_up/w", (16, 24)),
        ("h1_down/w", (24, 16)),
        ("h1_up/w", (16, 24)),
    ]
    train(params, lambda params: cross_entropy(model.apply(params, TOKENS)), RULE)


def test_plain_dicts_scanned_and_separate_agree() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    ups = [jax.random.normal(key, (WIDTH, WIDTH)) for key in keys]

    def loss(layers: list[jax.Array]) -> jax.Array:
        x = jnp.ones((1, WIDTH))
        for layer in layers:
            x = jnp.tanh(x @ layer)
        return (x**2).sum()

    apart = train({f"layer_{i}": up for i, up in enumerate(ups)}, lambda tree: loss(list(tree.values())), RULE)
    together = train({"layers": jnp.stack(ups)}, lambda tree: loss(list(tree["layers"])), STACKED)
    np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_stacked_norms_are_never_matrices() -> None:
    """Sixty layers of width 64: as an array, the scale of a scanned norm looks just like a weight matrix."""
    layers = {
        "norm": {"scale": jnp.ones((60, 64))},
        "gate": {"offset": jnp.ones((60, 64))},
        "up": jnp.ones((60, 64, 64)),
    }
    names = [name for name, _ in table({"layers": layers}, oad.block_matrices(stacked=["layers"]))]
    assert names == [f"layers/up/{layer}" for layer in range(60)]
