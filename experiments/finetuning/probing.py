"""Linear probes: what a logistic regression reads off the frozen states of each layer."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import threadpoolctl
from flax import nnx
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from experiments.finetune_config import LabelledBatch
from experiments.models.classifier import last_token_states
from experiments.models.llama import Llama

INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of scikit-learn's `C` that the validation split chooses from."""
_ROWS = 64


class Probe(NamedTuple):
    """What a probe reads off one layer."""

    layer: int
    """Blocks that the states have passed; 0 is the embedding of the last token."""
    inverse_penalty: float
    """The `C` with the lowest validation loss."""
    train_accuracy: float
    validation_accuracy: float
    accuracy: float
    """On the split that is scored."""
    loss: float
    """Mean cross-entropy there, in nats a text."""


def states_of(graphdef: nnx.GraphDef[Llama], params: Any, examples: LabelledBatch) -> np.ndarray:
    """States of the last token of every text, after the embedding and after each block.

    Args:
        graphdef: The network without its parameters.
        params: Its parameters.
        examples: All texts of a split, NumPy arrays.

    Returns:
        float64 `[num_layers + 1, n, hidden_size]`.
    """
    parts = []
    for start in range(0, len(examples.labels), _ROWS):
        rows = np.minimum(np.arange(start, start + _ROWS), len(examples.labels) - 1)
        parts.append(np.asarray(_states(graphdef, params, examples.tokens[rows], examples.lengths[rows]), np.float64))
    return np.concatenate(parts, axis=1)[:, : len(examples.labels)]


def probe(states: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], scored: str, layer: int) -> Probe:
    """Fits a logistic regression on standardised states of the train split.

    Args:
        states: By split, `[n, width]`: `train`, `validation`, and `scored` if that is another one.
        labels: By split, `[n]`.
        scored: The split that the probe is judged on.
        layer: Where the states are from.

    Returns:
        The probe with the penalty that has the lowest loss on the validation split.
    """
    scale = StandardScaler().fit(states["train"])
    scaled = {split: scale.transform(part) for split, part in states.items()}
    classes = np.unique(labels["train"])
    with threadpoolctl.threadpool_limits(1):  # the matrices are too small for several threads
        models = {
            penalty: LogisticRegression(C=penalty, max_iter=2000).fit(scaled["train"], labels["train"])
            for penalty in INVERSE_PENALTIES
        }

        def loss(penalty: float, split: str) -> float:
            return float(log_loss(labels[split], models[penalty].predict_proba(scaled[split]), labels=classes))

        best = min(INVERSE_PENALTIES, key=lambda penalty: loss(penalty, "validation"))
        accuracy = {split: float(models[best].score(scaled[split], labels[split])) for split in scaled}
        return Probe(layer, best, accuracy["train"], accuracy["validation"], accuracy[scored], loss(best, scored))


@functools.partial(jax.jit, static_argnums=0)
def _states(graphdef: nnx.GraphDef[Llama], params: Any, tokens_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
    return last_token_states(nnx.merge(graphdef, params), tokens_BxL, lengths_B)
