"""Next-token prediction: the task of pre-training, and the exact validation perplexity it is judged by."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from experiments.config import Config
from experiments.data.text import TrainIterator, token_counts, train_iterator, validation_batches
from experiments.data.tokenizer import check_vocab_size, load_tokenizer
from experiments.models.common import Network
from experiments.models.llama import Llama, loss_sum_and_count
from experiments.parallel import distributed, sharding
from experiments.training import figures
from experiments.training.task import Run


class LanguageModeling:
    """Next-token prediction on C4 by a LLaMA."""

    network: Network = Llama
    unit = "tokens"

    def units_per_step(self, config: Config) -> int:
        """Tokens in a batch."""
        return config.batch_size * config.data.sequence_length

    def open(self, config: Config, rows: np.ndarray) -> TrainIterator:
        """Opens the train split and its tokenizer."""
        check_vocab_size(load_tokenizer(config.data.tokenizer), config.model.vocab_size)
        return train_iterator(config.data, batch_size=config.batch_size, seed=config.seed, rows=rows)

    def first_params(self, config: Config, mesh: jax.sharding.Mesh, drawn: Any) -> Any:
        """Begins with random weights."""
        return drawn

    def validate(self, run: Run) -> tuple[dict[str, float], str]:
        """Measures the perplexity."""
        batches = run.preemption.watch(validation_set(run.config))
        measured = evaluate(run.graphdef, run.state.params, batches, run.mesh)
        values = {"loss": measured.loss, "perplexity": measured.perplexity, "tokens": measured.tokens}
        return values, f"validation loss {measured.loss:.4f} | perplexity {measured.perplexity:.2f}"

    def report(
        self, config: Config, metrics: list[dict[str, float]], params: Any
    ) -> tuple[list[tuple[str, pathlib.Path]], str]:
        """Draws the figures, and holds the last perplexity against a unigram model's."""
        final = next(line for line in reversed(metrics) if "validation/loss" in line)
        baseline = unigram_of(config)
        paths = [("figure", path) for path in figures.draw(config, metrics, params, baseline.loss)]
        validation = Validation(final["validation/loss"], int(final["validation/tokens"]))
        return paths, verdict(validation, baseline)


LANGUAGE_MODELING = LanguageModeling()


class Validation(NamedTuple):
    """A loss over the validation tokens."""

    loss: float
    """Mean nats per predicted token."""
    tokens: int
    """Number of predicted tokens; the first of a sequence is not predicted."""

    @property
    def perplexity(self) -> float:
        """`exp(loss)`, infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def evaluate(
    graphdef: nnx.GraphDef[Llama],
    params: Any,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    mesh: jax.sharding.Mesh,
) -> Validation:
    """Measures a model on all tokens of the batches, each counted once.

    Args:
        graphdef: The model without its parameters.
        params: Its parameters.
        batches: Tokens `[B, L]` and which of them are real `[B, L]`, all batches of one shape, the same on every
            process.
        mesh: The devices, which share the rows of every batch.

    Returns:
        The exact mean over all predicted tokens, summed in float64.
    """
    with jax.set_mesh(mesh):
        parts = [_sum_and_count(graphdef, params, *sharding.share_rows(batch, mesh)) for batch in batches]
    sums, counts = zip(*distributed.fetch(parts, "a validation"), strict=True)
    tokens = sum(int(count) for count in counts)
    return Validation(math.fsum(sums) / tokens, tokens)


@functools.partial(jax.jit, static_argnums=0)
def _sum_and_count(
    graphdef: nnx.GraphDef[Llama], params: Any, tokens_BxL: jax.Array, mask_BxL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return loss_sum_and_count(nnx.merge(graphdef, params), tokens_BxL, mask_BxL)


def unigram(
    train_counts: np.ndarray, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, smoothing: float = 1.0
) -> Validation:
    """Measures a model that knows only how often each token occurs, on the tokens `evaluate` predicts.

    Args:
        train_counts: How often each token occurs in the train split, `[vocab_size]`.
        batches: As for `evaluate`.
        smoothing: Added to every count, so that an unseen token is possible.

    Returns:
        Its loss and the number of tokens.
    """
    probabilities = (train_counts + smoothing) / (train_counts.sum() + smoothing * len(train_counts))
    counts = np.zeros(len(train_counts), np.int64)
    for tokens_BxL, mask_BxL in batches:
        counts += np.bincount(tokens_BxL[:, 1:][mask_BxL[:, 1:]], minlength=len(counts))
    return Validation(float(-(counts @ np.log(probabilities)) / counts.sum()), int(counts.sum()))


def validation_set(config: Config) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """The validation batches of a run, as large as the pieces it trains on."""
    return validation_batches(config.data, batch_size=config.batch_size // config.accumulate)


def unigram_of(config: Config) -> Validation:
    """The unigram model of a run's corpus, on the run's validation tokens."""
    return unigram(token_counts(config.data, config.model.vocab_size), validation_set(config))


def verdict(model: Validation, baseline: Validation) -> str:
    """One line: the model's perplexity beside the unigram model's."""
    return (
        f"validation perplexity {model.perplexity:.2f} (loss {model.loss:.4f} nats; unigram model of the same corpus: "
        f"{baseline.perplexity:.2f}) on {model.tokens:,} tokens"
    )
