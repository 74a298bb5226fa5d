"""The LLaMA: sizes of the presets, a float64 reference, causality, precision, rematerialisation and the loss."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.config import ModelConfig
from experiments.models.common import num_parameters
from experiments.models.llama import Llama, loss_sum_and_count, next_token_loss
from experiments.presets import PRESETS

TINY = ModelConfig(18, 11, 3, 3, vocab_size=13, compute_dtype="float32")  # odd wherever it may be


def build(config: ModelConfig = TINY) -> Llama:
    """A model with sharp attention and norms that scale, unlike at initialisation."""
    rng = np.random.default_rng(0)
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(rng.normal(mean, 0.3, leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map_with_path(draw, shapes))


def tokens(batch: int = 4, length: int = 7) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).integers(TINY.vocab_size, size=(batch, length)), jnp.int32)


def named_params(model: Llama) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_sizes_of_the_architecture(preset: str) -> None:
    config = PRESETS[preset].config.model
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    params = named_params(model)
    n, d, f, v = config.num_layers, config.hidden_size, config.intermediate_size, config.vocab_size
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "embed/embedding": (v, d),
        "layers/input_norm/scale": (n, d),
        **{f"layers/self_attn/{x}_proj/kernel": (n, d, d) for x in "qkvo"},
        "layers/post_attention_norm/scale": (n, d),
        "layers/mlp/gate_proj/kernel": (n, d, f),
        "layers/mlp/up_proj/kernel": (n, d, f),
        "layers/mlp/down_proj/kernel": (n, f, d),
        "final_norm/scale": (d,),
        "lm_head/kernel": (d, v),
    }
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}
    assert num_parameters(params) == 2 * v * d + n * (4 * d * d + 3 * d * f + 2 * d) + d
    logits = nnx.eval_shape(lambda model: model(jnp.zeros((2, 256), jnp.int32)), model)
    assert (logits.shape, logits.dtype) == ((2, 256, v), jnp.float32)


def test_initial_weights() -> None:
    config = ModelConfig(64, 64, 2, 3, vocab_size=64, init_stddev=0.05)
    params = named_params(Llama(config, rngs=nnx.Rngs(1)))
    for name, leaf in params.items():
        if name.endswith("scale"):
            assert (leaf == 1).all()
        else:
            np.testing.assert_allclose(leaf.std(), 0.05, rtol=0.05, err_msg=name)
            np.testing.assert_allclose(leaf.mean(), 0, atol=0.003, err_msg=name)
    corners = np.concatenate([np.asarray(leaf)[..., :8, :8].ravel() for leaf in params.values() if leaf.std() > 0])
    assert len(np.unique(corners)) == len(corners), "two matrices share random numbers"


def test_heads_must_split_into_even_widths() -> None:
    for heads in (4, 6):
        with pytest.raises(ValueError, match=f"hidden_size=18 does not split into num_heads={heads}"):
            Llama(dataclasses.replace(TINY, num_heads=heads), rngs=nnx.Rngs(0))


def reference_logits(config: ModelConfig, params: dict[str, np.ndarray], sequence: np.ndarray) -> np.ndarray:
    """One sequence in float64 NumPy, block by block, head by head, rotary positions as complex numbers."""

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_eps) * scale

    def rotate(head: np.ndarray) -> np.ndarray:
        half = head.shape[1] // 2
        frequencies = 1 / config.rope_theta ** (2 * np.arange(half) / (2 * half))
        turned = (head[:, :half] + 1j * head[:, half:]) * np.exp(1j * np.outer(np.arange(len(head)), frequencies))
        return np.concatenate([turned.real, turned.imag], axis=1)

    def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        read = []
        for position, query in enumerate(rotate(q)):
            weights = np.exp(rotate(k)[: position + 1] @ query / np.sqrt(len(query)))
            read.append(weights @ v[: position + 1] / weights.sum())
        return np.stack(read)

    x = params["embed/embedding"][sequence]
    for layer in range(config.num_layers):
        block = {name.removeprefix("layers/"): leaf[layer] for name, leaf in params.items() if "layers/" in name}
        y = norm(x, block["input_norm/scale"])
        qkv = [np.split(y @ block[f"self_attn/{z}_proj/kernel"], config.num_heads, axis=1) for z in "qkv"]
        heads = [attend(q, k, v) for q, k, v in zip(*qkv, strict=True)]
        x = x + np.concatenate(heads, axis=1) @ block["self_attn/o_proj/kernel"]
        y = norm(x, block["post_attention_norm/scale"])
        gate = y @ block["mlp/gate_proj/kernel"]
        x = x + gate / (1 + np.exp(-gate)) * (y @ block["mlp/up_proj/kernel"]) @ block["mlp/down_proj/kernel"]
    return norm(x, params["final_norm/scale"]) @ params["lm_head/kernel"]


@pytest.mark.parametrize("rope_theta", [1e4, 50.0])
def test_logits_match_a_float64_reference(rope_theta: float) -> None:
    config = dataclasses.replace(TINY, rope_theta=rope_theta, norm_eps=1e-2)
    model = build(config)
    params = {name: np.asarray(leaf, np.float64) for name, leaf in named_params(model).items()}
    expected = np.stack([reference_logits(config, params, np.asarray(sequence)) for sequence in tokens()])
    np.testing.assert_allclose(jax.jit(model)(tokens()), expected, rtol=1e-5, atol=1e-5)


def test_no_gradient_flows_back_from_the_future() -> None:
    graphdef, variables = nnx.split(build())
    params = nnx.to_pure_dict(variables)
    sequence = jnp.arange(8)  # token t stands at position t alone, so its embedding row is that position's input
    mix = jnp.sin(jnp.arange(TINY.vocab_size, dtype=jnp.float32))

    def score(embedding: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, {**params, "embed": {"embedding": embedding}})
        return model(sequence[None])[0] @ mix

    influence = np.abs(jax.jit(jax.jacrev(score))(params["embed"]["embedding"])[:, :8]).sum(axis=-1)
    assert (influence[np.triu_indices(8, 1)] == 0).all()
    assert (influence[np.tril_indices(8)] > 0).all()


def loss_and_gradients(config: ModelConfig) -> tuple[jax.Array, dict[str, Any]]:
    graphdef, params = nnx.split(build(config))

    def loss(params: Any) -> jax.Array:
        return next_token_loss(nnx.merge(graphdef, params), tokens())

    value, gradients = jax.jit(jax.value_and_grad(loss))(nnx.to_pure_dict(params))
    return value, named_params(nnx.merge(graphdef, gradients))


def test_remat_changes_neither_loss_nor_gradients() -> None:
    (loss, gradients), (loss_remat, gradients_remat) = (
        loss_and_gradients(dataclasses.replace(TINY, remat=remat)) for remat in (False, True)
    )
    np.testing.assert_allclose(loss_remat, loss, rtol=1e-6)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradients_remat[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


def test_bfloat16_is_close_to_float32_and_keeps_float32_parameters() -> None:
    config = dataclasses.replace(TINY, compute_dtype="bfloat16")
    assert jax.eval_shape(build(config), tokens()).dtype == jnp.float32
    (loss, gradients), (loss_bf16, gradients_bf16) = loss_and_gradients(TINY), loss_and_gradients(config)
    assert loss_bf16.dtype == jnp.float32
    assert loss_bf16 != loss, "bfloat16 computes in float32"
    np.testing.assert_allclose(loss_bf16, loss, rtol=1e-2)
    for name, gradient in gradients.items():
        assert gradients_bf16[name].dtype == jnp.float32
        error = np.linalg.norm(gradients_bf16[name] - gradient) / np.linalg.norm(gradient)
        assert error < 0.1, f"{name}: {error}"


def test_softmax_and_statistics_of_norms_are_float32() -> None:
    model = build(dataclasses.replace(TINY, compute_dtype="bfloat16"))
    jaxpr = str(jax.make_jaxpr(lambda tokens: next_token_loss(model, tokens))(tokens()))
    results = set(re.findall(r":(\w+)\[[\d,]*\] = (exp|rsqrt|reduce_sum|dot_general)\b", jaxpr))
    assert ("bf16", "dot_general") in results
    assert {dtype for dtype, operation in results if operation != "dot_general"} == {"f32", "i32"}


def test_sums_and_counts_are_exact_over_masks_and_batches() -> None:
    model = build()
    mask = jnp.asarray(np.random.default_rng(2).random(tokens().shape) < 0.6)
    sum_and_count = nnx.jit(loss_sum_and_count)
    logits = np.asarray(jax.jit(model)(tokens()), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    labels = np.asarray(tokens())[:, 1:]
    nats = -np.take_along_axis(log_probabilities[:, :-1], labels[..., None], axis=-1)[..., 0]

    total, count = sum_and_count(model, tokens(), mask)
    np.testing.assert_allclose(total, nats[np.asarray(mask)[:, 1:]].sum(), rtol=1e-5)
    assert count == mask[:, 1:].sum()
    assert (total.dtype, count.dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_allclose(nnx.jit(next_token_loss)(model, tokens(), mask), total / count, rtol=1e-6)
    np.testing.assert_allclose(nnx.jit(next_token_loss)(model, tokens()), nats.mean(), rtol=1e-5)

    parts = [sum_and_count(model, tokens()[rows], mask[rows]) for rows in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(sum(part[0] for part in parts), total, rtol=1e-5)
    assert sum(part[1] for part in parts) == count


def test_tokens_outside_the_vocabulary_cannot_go_unnoticed() -> None:
    assert jnp.isnan(nnx.jit(next_token_loss)(build(), tokens().at[0, 2].set(TINY.vocab_size)))
