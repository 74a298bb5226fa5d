"""A Vision Transformer in Flax NNX, its blocks stacked and scanned over, and its loss."""
# SPDX-License-Identifier: Apache-2.0

# Tensor names end in their shape:
#   B: images in the batch           S: image_size, C: channels
#   G: S / P, patches in a row       P: patch_size
#   L: G * G + 1 tokens, the class token and the patches
#   D: hidden_size, width of the residual stream
#   K: num_classes                   N: attention heads, H: width of one head, D = N * H

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.models.common import cut_on_width, normal
from experiments.parallel.sharding import constrain_rows
from experiments.vision_config import Batch, VitConfig


def _linear(config: VitConfig, in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A matrix multiplication over the last axis, and a bias."""
    dtype, init = jnp.dtype(config.compute_dtype), normal(config.init_stddev)
    return nnx.Linear(in_features, out_features, kernel_init=init, dtype=dtype, rngs=rngs)


def _norm(config: VitConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the residual stream; its statistics are float32 in any compute dtype."""
    dtype = jnp.dtype(config.compute_dtype)
    return nnx.LayerNorm(config.hidden_size, epsilon=config.norm_eps, dtype=dtype, rngs=rngs)


class SelfAttention(nnx.Module):
    """Multi-head attention of all tokens to all tokens."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        width = config.hidden_size
        self.q_proj = _linear(config, width, width, rngs)
        self.k_proj = _linear(config, width, width, rngs)
        self.v_proj = _linear(config, width, width, rngs)
        self.o_proj = _linear(config, width, width, rngs)
        self.num_heads = config.num_heads

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """Returns what every token reads from all of them, `[B, L, D]`; the softmax is float32."""
        shape_BxLxNxH = (*x_BxLxD.shape[:2], self.num_heads, x_BxLxD.shape[2] // self.num_heads)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q_BxLxNxH, k_BxLxNxH, v_BxLxNxH = (project(x_BxLxD).reshape(shape_BxLxNxH) for project in projections)
        y_BxLxNxH = jax.nn.dot_product_attention(q_BxLxNxH, k_BxLxNxH, v_BxLxNxH)
        return self.o_proj(y_BxLxNxH.reshape(x_BxLxD.shape))


class MLP(nnx.Module):
    """Two layers with a GELU between them."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.up_proj = _linear(config, config.hidden_size, config.intermediate_size, rngs)
        self.down_proj = _linear(config, config.intermediate_size, config.hidden_size, rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """Returns the update of the residual stream, `[B, L, D]`."""
        return self.down_proj(jax.nn.gelu(self.up_proj(x_BxLxD), approximate=False))


class Block(nnx.Module):
    """One transformer block: attention, then the MLP, each on a normalised copy of the residual stream."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        self.input_norm = _norm(config, rngs)
        self.self_attn = SelfAttention(config, rngs=rngs)
        self.post_attention_norm = _norm(config, rngs)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """Returns the residual stream after this block, `[B, L, D]`."""
        x_BxLxD += self.self_attn(self.input_norm(x_BxLxD))
        return x_BxLxD + self.mlp(self.post_attention_norm(x_BxLxD))


class Vit(nnx.Module):
    """A Vision Transformer. Parameters of its blocks are stacked: `layers` leaves are `[num_layers, ...]`."""

    def __init__(self, config: VitConfig, *, rngs: nnx.Rngs):
        """Draws the weights.

        Args:
            config: Sizes and precision.
            rngs: Source of the random weights, stream `params`.

        Raises:
            ValueError: If the heads do not split `hidden_size`, or the patches `image_size`.
        """
        for name, part in (("hidden_size", "num_heads"), ("image_size", "patch_size")):
            whole, parts = getattr(config, name), getattr(config, part)
            if whole % parts:
                raise ValueError(f"{name}={whole} is not a multiple of {part}={parts}: choose a divisor.")
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        init, width = normal(config.init_stddev), config.hidden_size
        self.config = config
        self.embed = _linear(config, config.patch_size**2 * len(config.pixel_mean), width, rngs)
        self.embed_class = nnx.Param(init(rngs.params(), (1, 1, width)))
        self.embed_position = nnx.Param(init(rngs.params(), (1, tokens, width)))
        self.layers = nnx.vmap(lambda rngs: Block(config, rngs=rngs))(rngs.split(config.num_layers))
        self.final_norm = _norm(config, rngs)
        self.head = _linear(config, width, config.num_classes, rngs)

    @staticmethod
    def spec_of(path: tuple[Any, ...], leaf: Any) -> jax.P:
        """Where a parameter lies, see `cut_on_width`: patches and `down_proj` write to the residual stream."""
        return cut_on_width(path, leaf, writers=("embed", "down_proj"))

    def __call__(self, images_BxSxSxC: jax.Array) -> jax.Array:
        """Says what is on each image.

        Args:
            images_BxSxSxC: Pixels, uint8.

        Returns:
            float32 `logits_BxK`.
        """
        graphdef, blocks = nnx.split(self.layers)

        def apply_block(x_BxLxD: jax.Array, block: nnx.State[Any, Any]) -> tuple[jax.Array, None]:
            return constrain_rows(nnx.merge(graphdef, block)(x_BxLxD)), None

        # As in the LLaMA, only the projections are kept for the backward pass.
        keep = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        apply_block = jax.checkpoint(apply_block, prevent_cse=False, policy=keep)
        patches_BxLxD = self.embed(self._patches(images_BxSxSxC))
        class_Bx1xD = jnp.broadcast_to(self.embed_class[...], (len(images_BxSxSxC), 1, self.config.hidden_size))
        x_BxLxD = jnp.concatenate([class_Bx1xD.astype(patches_BxLxD.dtype), patches_BxLxD], axis=1)
        x_BxLxD = constrain_rows(x_BxLxD + self.embed_position[...].astype(x_BxLxD.dtype))
        x_BxLxD, _ = jax.lax.scan(apply_block, x_BxLxD, blocks)
        return self.head(self.final_norm(x_BxLxD[:, 0])).astype(jnp.float32)

    def loss(self, batch: Batch) -> jax.Array:
        """What a training step lowers: mean cross-entropy in nats per image, shape `()`, float32."""
        nats_B = cross_entropy(self(batch.images), batch.labels, smoothing=self.config.label_smoothing)
        return nats_B.mean()

    def _patches(self, images_BxSxSxC: jax.Array) -> jax.Array:
        """The pixels of each patch, row by row, standardised: `[B, G * G, P * P * C]`."""
        patch, (b, s, _, c) = self.config.patch_size, images_BxSxSxC.shape
        mean_1x1x1xC, stddev_1x1x1xC = (
            255 * jnp.asarray(values, jnp.float32)[None, None, None]
            for values in (self.config.pixel_mean, self.config.pixel_stddev)
        )
        pixels_BxSxSxC = (images_BxSxSxC.astype(jnp.float32) - mean_1x1x1xC) / stddev_1x1x1xC
        squares_BxGxPxGxPxC = pixels_BxSxSxC.reshape(b, s // patch, patch, s // patch, patch, c)
        return squares_BxGxPxGxPxC.swapaxes(2, 3).reshape(b, (s // patch) ** 2, patch * patch * c)


def cross_entropy(logits_BxK: jax.Array, labels_B: jax.Array, *, smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of each image in nats, `[B]`.

    Args:
        logits_BxK: What `Vit` returns.
        labels_B: Classes, int32.
        smoothing: Share of the target that is spread evenly over all classes.
    """
    target_BxK = optax.smooth_labels(jax.nn.one_hot(labels_B, logits_BxK.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits_BxK, target_BxK)
