"""Text classification as a task: a pre-trained LLaMA with a new head, judged by loss and accuracy."""
# SPDX-License-Identifier: Apache-2.0

import functools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.data.labelled import LabelledBatches, encoded_splits, load
from experiments.finetune_config import ClassificationConfig, LabelledBatch
from experiments.finetuning import bag_of_words, figures
from experiments.finetuning.base import check_vocabulary, restore_base
from experiments.models.classifier import Classifier, cross_entropy
from experiments.models.common import Network, abstract_model
from experiments.parallel import distributed, sharding
from experiments.training.task import Run


class Score(NamedTuple):
    """How a classifier does on a split, each text counted once."""

    loss: float
    """Mean cross-entropy in nats a text."""
    accuracy: float
    """Share of the texts that get their label."""
    examples: int


class TextClassification:
    """The label of a text, by a LLaMA that begins with the weights of another run."""

    network: Network = Classifier
    unit = "texts"

    def units_per_step(self, config: ClassificationConfig) -> int:
        """Texts in a batch."""
        return config.batch_size

    def open(self, config: ClassificationConfig, rows: np.ndarray) -> LabelledBatches:
        """Reads the texts and checks that they fit the network."""
        check_vocabulary(config.base.dir, config.model, config.data.tokenizer)
        examples = encoded_splits(config.data)["train"]
        highest = max(int(split.labels.max()) for split in encoded_splits(config.data).values())
        if highest >= config.model.num_labels:
            raise ValueError(
                f"{config.data.name} has the label {highest}, and the head {config.model.num_labels} outputs: pass "
                f"model.num_labels={highest + 1}"
            )
        return LabelledBatches(examples, batch_size=config.batch_size, seed=config.seed, rows=rows)

    def first_params(self, config: ClassificationConfig, mesh: jax.sharding.Mesh, drawn: Any) -> Any:
        """Begins with the weights of the base run; only the head is new."""
        base = restore_base(config.base.dir, config.model, mesh)
        return {name: leaf if name == "head" else base[name] for name, leaf in drawn.items()}

    def validate(self, run: Run) -> tuple[dict[str, float], str]:
        """Measures loss and accuracy on the whole validation split, and the loss on as many texts trained on.

        The difference of the two losses is the gap between what is remembered and what is learnt. After the last step
        the test split is measured too.
        """
        config = run.config
        splits = encoded_splits(config.data)
        seen = LabelledBatch(*(part[: len(splits["validation"].labels)] for part in splits["train"]))
        parts = [
            score(run.graphdef, run.state.params, run.preemption.watch(batches(split, config)), run.mesh)
            for split in (splits["validation"], seen)
        ]
        found, remembered = parts
        values = {**found._asdict(), "seen_loss": remembered.loss, "seen_accuracy": remembered.accuracy}
        if run.step == config.steps and "test" in splits:
            tested = score(run.graphdef, run.state.params, batches(splits["test"], config), run.mesh)
            values |= {"test_loss": tested.loss, "test_accuracy": tested.accuracy}
        return values, f"validation loss {found.loss:.4f} | accuracy {found.accuracy:.2%}"

    def report(
        self, config: ClassificationConfig, metrics: list[dict[str, float]], params: Any
    ) -> tuple[list[tuple[str, pathlib.Path]], str]:
        """Draws the losses and accuracies, and holds the last accuracy against the baselines'."""
        task = load(config.data)
        graphdef, _ = abstract_model(config.model, Classifier)
        mesh = sharding.make_mesh(config)
        found = score(graphdef, params, batches(encoded_splits(config.data)[task.scored], config), mesh)
        baselines = bag_of_words.measure(task)
        paths = figures.draw(config.workdir, metrics, task.scored, found, baselines)
        result = (
            f"{task.scored} accuracy {found.accuracy:.2%} on {found.examples:,} texts (loss {found.loss:.4f} nats; "
            f"majority class: {baselines.majority:.2%}; bag-of-words logistic regression: {baselines.bag_of_words:.2%})"
        )
        return [("figure", path) for path in paths], result


TEXT_CLASSIFICATION = TextClassification()


def batches(examples: LabelledBatch, config: ClassificationConfig) -> Iterator[tuple[LabelledBatch, np.ndarray]]:
    """A split in batches of one shape.

    Args:
        examples: All of it.
        config: Says how large the batches are.

    Yields:
        A batch, and which of its rows are real, `[B]`, bool: the last batch is filled up with its first text.
    """
    size = config.batch_size // config.accumulate
    for start in range(0, len(examples.labels), size):
        rows = np.arange(start, start + size)
        real = rows < len(examples.labels)
        yield LabelledBatch(*(part[np.where(real, rows, start)] for part in examples)), real


def score(
    graphdef: nnx.GraphDef[Classifier],
    params: Any,
    of_batches: Iterable[tuple[LabelledBatch, np.ndarray]],
    mesh: jax.sharding.Mesh,
) -> Score:
    """Measures a classifier, summing in float64.

    Args:
        graphdef: The network without its parameters.
        params: Its parameters.
        of_batches: What `batches` yields.
        mesh: The devices, which share the rows.
    """
    with jax.set_mesh(mesh):
        parts = [_sums(graphdef, params, *sharding.share_rows(batch, mesh)) for batch in of_batches]
    nats, correct, examples = np.array(distributed.fetch(parts, "a validation"), np.float64).sum(axis=0).tolist()
    return Score(nats / examples, correct / examples, int(examples))


@functools.partial(jax.jit, static_argnums=0)
def _sums(
    graphdef: nnx.GraphDef[Classifier], params: Any, batch: LabelledBatch, real_B: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Nats, texts classified correctly and texts, summed over those that are real."""
    logits_BxK = nnx.merge(graphdef, params).classify(batch.tokens, batch.lengths)
    nats = jnp.sum(cross_entropy(logits_BxK, batch.labels), where=real_B)
    return nats, jnp.sum(jnp.argmax(logits_BxK, axis=-1) == batch.labels, where=real_B), jnp.sum(real_B)
