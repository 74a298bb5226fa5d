"""LLaMA in Flax NNX, its blocks stacked and scanned over, and the next-token loss."""
# SPDX-License-Identifier: Apache-2.0

# Tensor names end in their shape:
#   B: sequences in the batch        D: hidden_size, width of the residual stream
#   L: tokens in a sequence          F: intermediate_size, width of the SwiGLU layer
#   V: vocab_size                    N: attention heads, H: width of one head, D = N * H
#   M: the same L tokens, as keys    R: H / 2, pairs that rotary positions rotate
#   1: an axis to broadcast over

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.config import ModelConfig
from experiments.models.common import cut_on_width, normal
from experiments.parallel.sharding import constrain_rows, constrain_whole


class Linear(nnx.Module):
    """A matrix multiplication over the last axis, without bias."""

    def __init__(self, config: ModelConfig, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(normal(config.init_stddev)(rngs.params(), (in_features, out_features), jnp.float32))

    def __call__(self, x: jax.Array, out_dtype: jnp.dtype | None = None) -> jax.Array:
        """Maps `x[..., in_features]` to `[..., out_features]`, in the dtype of x unless `out_dtype` says otherwise."""
        # Flat, because XLA on CPU transposes copies of the activations for the gradient of a kernel that is
        # contracted over two axes.
        rows = x.reshape(-1, x.shape[-1])
        y = jnp.dot(rows, self.kernel[...].astype(x.dtype), preferred_element_type=out_dtype)
        return y.reshape(*x.shape[:-1], -1)


def _norm(config: ModelConfig, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """RMSNorm over the residual stream; its statistics are float32 in any compute dtype."""
    dtype = jnp.dtype(config.compute_dtype)
    return nnx.RMSNorm(config.hidden_size, epsilon=config.norm_eps, dtype=dtype, rngs=rngs)


def _rotations(config: ModelConfig, length: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotary angles, `cos_1xLx1xR` and `sin_1xLx1xR`, float32."""
    half = config.hidden_size // config.num_heads // 2
    frequency_R = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_1xLx1xR = jnp.outer(jnp.arange(length, dtype=jnp.float32), frequency_R)[None, :, None, :]
    return jnp.cos(angle_1xLx1xR), jnp.sin(angle_1xLx1xR)


def _rotate(x_BxLxNxH: jax.Array, cos_1xLx1xR: jax.Array, sin_1xLx1xR: jax.Array) -> jax.Array:
    """Rotates the pairs (i, i + H/2) of every head by the angle of their position."""
    a_BxLxNxR, b_BxLxNxR = jnp.split(x_BxLxNxH.astype(jnp.float32), 2, axis=-1)
    rotated_a_BxLxNxR = a_BxLxNxR * cos_1xLx1xR - b_BxLxNxR * sin_1xLx1xR
    rotated_b_BxLxNxR = b_BxLxNxR * cos_1xLx1xR + a_BxLxNxR * sin_1xLx1xR
    return jnp.concatenate([rotated_a_BxLxNxR, rotated_b_BxLxNxR], axis=-1).astype(x_BxLxNxH.dtype)


def _attend(q_BxLxNxH: jax.Array, k_BxMxNxH: jax.Array, v_BxMxNxH: jax.Array) -> jax.Array:
    """Softmax attention of every position to itself and those before it, `[B, L, N, H]`; the softmax is float32."""
    # Heads move in front first: every matrix product is then contiguous, which XLA on CPU rewards.
    q_BxNxLxH, k_BxNxMxH, v_BxNxMxH = (jnp.swapaxes(x, 1, 2) for x in (q_BxLxNxH, k_BxMxNxH, v_BxMxNxH))
    q_BxNxLxH = q_BxNxLxH * q_BxNxLxH.shape[-1] ** -0.5
    scores_BxNxLxM = jnp.einsum("bnlh,bnmh->bnlm", q_BxNxLxH, k_BxNxMxH, preferred_element_type=jnp.float32)
    causal_1x1xLxM = jnp.tri(scores_BxNxLxM.shape[-1], dtype=bool)[None, None]
    weights_BxNxLxM = jax.nn.softmax(jnp.where(causal_1x1xLxM, scores_BxNxLxM, -jnp.inf)).astype(v_BxMxNxH.dtype)
    return jnp.swapaxes(jnp.einsum("bnlm,bnmh->bnlh", weights_BxNxLxM, v_BxNxMxH), 1, 2)


class SelfAttention(nnx.Module):
    """Causal multi-head attention with rotary positions."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.q_proj = Linear(config, width, width, rngs=rngs)
        self.k_proj = Linear(config, width, width, rngs=rngs)
        self.v_proj = Linear(config, width, width, rngs=rngs)
        self.o_proj = Linear(config, width, width, rngs=rngs)
        self.num_heads = config.num_heads

    def __call__(self, x_BxLxD: jax.Array, rotations: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Returns what every position reads from itself and the positions before it, `[B, L, D]`."""
        shape_BxLxNxH = (*x_BxLxD.shape[:2], self.num_heads, x_BxLxD.shape[2] // self.num_heads)
        q_BxLxNxH = _rotate(self.q_proj(x_BxLxD).reshape(shape_BxLxNxH), *rotations)
        k_BxLxNxH = _rotate(self.k_proj(x_BxLxD).reshape(shape_BxLxNxH), *rotations)
        v_BxLxNxH = self.v_proj(x_BxLxD).reshape(shape_BxLxNxH)
        y_BxLxNxH = _attend(q_BxLxNxH, k_BxLxNxH, v_BxLxNxH)
        return self.o_proj(y_BxLxNxH.reshape(x_BxLxD.shape))


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.gate_proj = Linear(config, config.hidden_size, config.intermediate_size, rngs=rngs)
        self.up_proj = Linear(config, config.hidden_size, config.intermediate_size, rngs=rngs)
        self.down_proj = Linear(config, config.intermediate_size, config.hidden_size, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """Returns the update of the residual stream, `[B, L, D]`."""
        gated_BxLxF = jax.nn.silu(self.gate_proj(x_BxLxD)) * self.up_proj(x_BxLxD)
        return self.down_proj(gated_BxLxF)


class Block(nnx.Module):
    """One transformer block: attention, then the MLP, each on a normalised copy of the residual stream."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.input_norm = _norm(config, rngs)
        self.self_attn = SelfAttention(config, rngs=rngs)
        self.post_attention_norm = _norm(config, rngs)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array, rotations: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Returns the residual stream after this block, `[B, L, D]`."""
        x_BxLxD += self.self_attn(self.input_norm(x_BxLxD), rotations)
        return x_BxLxD + self.mlp(self.post_attention_norm(x_BxLxD))


class Llama(nnx.Module):
    """A LLaMA language model. Parameters of its blocks are stacked: `layers` leaves are `[num_layers, ...]`."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Draws the weights.

        Args:
            config: Sizes and precision.
            rngs: Source of the random weights, stream `params`.

        Raises:
            ValueError: If the heads do not split `hidden_size` into even widths.
        """
        if config.hidden_size % (2 * config.num_heads):
            raise ValueError(
                f"hidden_size={config.hidden_size} does not split into num_heads={config.num_heads} heads of even "
                "width: choose a hidden_size that is a multiple of 2 * num_heads."
            )
        self.config = config
        init = normal(config.init_stddev)
        self.embed = nnx.Embed(config.vocab_size, config.hidden_size, embedding_init=init, rngs=rngs)
        self.layers = nnx.vmap(lambda rngs: Block(config, rngs=rngs))(rngs.split(config.num_layers))
        self.final_norm = _norm(config, rngs)
        self.lm_head = Linear(config, config.hidden_size, config.vocab_size, rngs=rngs)

    @staticmethod
    def spec_of(path: tuple[Any, ...], leaf: Any) -> jax.P:
        """Where a parameter lies, see `cut_on_width`: the embedding and `down_proj` write to the residual stream."""
        return cut_on_width(path, leaf, writers=("embed", "down_proj"))

    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """Predicts the token after each position.

        Args:
            tokens_BxL: int32 tokens below `vocab_size`.

        Returns:
            float32 `logits_BxLxV`.
        """
        x_BxLxD, _ = self.run_blocks(tokens_BxL)
        return self.lm_head(self.final_norm(x_BxLxD), out_dtype=jnp.float32)

    def run_blocks(
        self, tokens_BxL: jax.Array, keep: Callable[[jax.Array], Any] = lambda x_BxLxD: None
    ) -> tuple[jax.Array, Any]:
        """Computes the residual stream after the last block.

        Args:
            tokens_BxL: int32 tokens below `vocab_size`.
            keep: What to keep of the stream after each block; by default nothing.

        Returns:
            `x_BxLxD` before the final norm, in the compute dtype, and what was kept, stacked over the blocks.
        """
        rotations = _rotations(self.config, tokens_BxL.shape[1])
        graphdef, blocks = nnx.split(self.layers)

        def apply_block(x_BxLxD: jax.Array, block: nnx.State[Any, Any]) -> tuple[jax.Array, Any]:
            x_BxLxD = constrain_rows(nnx.merge(graphdef, block)(x_BxLxD, rotations))
            return x_BxLxD, keep(x_BxLxD)

        # Even without remat, only the projections are kept: recomputing attention scores and elementwise
        # operations costs less than writing and reading them.
        policy = None if self.config.remat else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        apply_block = jax.checkpoint(apply_block, prevent_cse=False, policy=policy)
        return jax.lax.scan(apply_block, self.embed_tokens(tokens_BxL), blocks)

    def embed_tokens(self, tokens_BxL: jax.Array) -> jax.Array:
        """The residual stream before the first block, `x_BxLxD`, in the compute dtype."""
        # Looked up in float32: the gradient of a frequent token is a long sum.
        embedding_VxD = constrain_whole(self.embed.embedding[...])
        return constrain_rows(jnp.take(embedding_VxD, tokens_BxL, axis=0).astype(self.config.compute_dtype))

    def loss(self, tokens_BxL: jax.Array) -> jax.Array:
        """What a training step lowers: `next_token_loss`."""
        return next_token_loss(self, tokens_BxL)


def loss_sum_and_count(
    model: Llama, tokens_BxL: jax.Array, mask_BxL: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Sums the cross-entropy of every token given the tokens before it.

    Sums and counts of several batches add up, so `exp(sum / count)` is their exact perplexity.

    Args:
        model: The language model.
        tokens_BxL: int32 tokens. The first one of a sequence is never predicted.
        mask_BxL: bool, False for tokens that are not to be predicted; None predicts all `L - 1`.

    Returns:
        The sum in nats, shape `()`, float32, and the number of predicted tokens, shape `()`, int32.
    """
    # The last position has nothing to predict. Giving it no weight is cheaper than slicing the logits.
    labels_BxL = jnp.roll(tokens_BxL, -1, axis=1)
    predicted_BxL = jnp.ones(tokens_BxL.shape, bool) if mask_BxL is None else jnp.roll(mask_BxL, -1, axis=1)
    predicted_BxL = predicted_BxL.at[:, -1].set(False)
    nats_BxL = optax.softmax_cross_entropy_with_integer_labels(model(tokens_BxL), labels_BxL)
    return jnp.sum(nats_BxL, where=predicted_BxL), jnp.sum(predicted_BxL, dtype=jnp.int32)


def next_token_loss(model: Llama, tokens_BxL: jax.Array, mask_BxL: jax.Array | None = None) -> jax.Array:
    """Mean cross-entropy in nats per predicted token, shape `()`, float32; arguments as in `loss_sum_and_count`."""
    total, count = loss_sum_and_count(model, tokens_BxL, mask_BxL)
    return total / count
