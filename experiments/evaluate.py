"""Exact validation perplexity of a model, and of a unigram model on the same tokens to hold it against."""
# SPDX-License-Identifier: Apache-2.0

import functools
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from experiments.config import Config
from experiments.data.text import token_counts, validation_batches
from experiments.data.tokenizer import check_vocab_size, load_tokenizer
from experiments.models.llama import Llama, abstract_model, loss_sum_and_count
from experiments.parallel import distributed, sharding
from experiments.presets import from_command_line
from experiments.training.checkpoints import find_run, restore_params


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
    sums, counts = zip(*jax.device_get(parts), strict=True)
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


@distributed.ends_together
def main(args: Sequence[str] | None = None) -> int:
    """Evaluates the newest checkpoint of a run: `python -m experiments.evaluate PRESET --workdir ...`."""
    config = from_command_line(args, prog="python -m experiments.evaluate")
    try:
        distributed.join_processes()
        mesh = sharding.make_mesh(config)
        check_vocab_size(load_tokenizer(config.data.tokenizer), config.model.vocab_size)
        distributed.from_first_process(lambda: find_run(config))
        graphdef, shapes = abstract_model(config.model)
        step, params = restore_params(config.workdir / "checkpoints", sharding.abstract(shapes, mesh))
        validation = evaluate(graphdef, params, validation_set(config), mesh)
        if jax.process_index() == 0:
            print(f"step {step}: {verdict(validation, unigram_of(config))}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
