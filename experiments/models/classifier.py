"""A LLaMA that classifies texts: the state of the last token goes into a head for labels."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.models.common import normal
from experiments.models.llama import Llama

# K: labels. The other letters are those of llama.py.


class Classifier(Llama):
    """A LLaMA without `lm_head` and with `head`. A text's label is read off the state of its last token."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        """Draws the weights.

        Args:
            config: Sizes and precision, and `num_labels`; a `finetune_config.ClassifierConfig`.
            rngs: Source of the random weights, stream `params`.
        """
        super().__init__(config, rngs=rngs)
        del self.lm_head
        shape = (config.hidden_size, config.num_labels)
        self.head = Head(normal(config.init_stddev)(rngs.params(), shape), config.num_labels)

    def classify(self, tokens_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
        """Scores the labels of texts.

        Args:
            tokens_BxL: int32 tokens; those after a text's last one have no effect.
            lengths_B: Tokens of each text, at least 1.

        Returns:
            float32 `logits_BxK`.
        """
        x_BxLxD, _ = self.run_blocks(tokens_BxL)
        return self.head(self.final_norm(at_last_token(x_BxLxD, lengths_B)).astype(jnp.float32))

    def loss(self, batch: Any) -> jax.Array:
        """What a training step lowers: the mean cross-entropy of the labels, in nats a text."""
        return cross_entropy(self.classify(batch.tokens, batch.lengths), batch.labels).mean()


class Head(nnx.Module):
    """A linear map with a bias, which begins at 0."""

    def __init__(self, kernel: jax.Array, num_labels: int):
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(num_labels, jnp.float32))

    def __call__(self, x_BxD: jax.Array) -> jax.Array:
        """Returns `[B, K]`."""
        return jnp.dot(x_BxD, self.kernel[...]) + self.bias[...][None, :]


def at_last_token(x_BxLxD: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """The states `[B, D]` of the last token of each text."""
    return jnp.take_along_axis(x_BxLxD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]


def last_token_states(model: Llama, tokens_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """States of the last token of each text after the embedding and after every block, `[num_layers + 1, B, D]`."""
    _, states_NxBxD = model.run_blocks(tokens_BxL, keep=lambda x_BxLxD: at_last_token(x_BxLxD, lengths_B))
    first_1xBxD = at_last_token(model.embed_tokens(tokens_BxL), lengths_B)[None]
    return jnp.concatenate([first_1xBxD, states_NxBxD]).astype(jnp.float32)


def cross_entropy(logits_BxK: jax.Array, labels_B: jax.Array) -> jax.Array:
    """Cross-entropy of each text's label in nats, `[B]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxK, labels_B)
