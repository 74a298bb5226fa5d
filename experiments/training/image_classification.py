"""Image classification as a task: what is on each image, judged by loss and accuracy."""
# SPDX-License-Identifier: Apache-2.0

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.data.images import check_fits, train_iterator, validation_batches
from experiments.models.common import Network
from experiments.models.vit import Vit, cross_entropy
from experiments.parallel import distributed, sharding
from experiments.training.task import Run, TrainBatches
from experiments.vision_config import Batch, VisionConfig


class ImageClassification:
    """What is on an image, by a Vision Transformer."""

    network: Network = Vit
    unit = "images"

    def units_per_step(self, config: VisionConfig) -> int:
        """Images in a batch."""
        return config.batch_size

    def open(self, config: VisionConfig, rows: np.ndarray) -> TrainBatches:
        """Opens the train split."""
        check_fits(config.data, config.model)
        batches: TrainBatches = train_iterator(config.data, batch_size=config.batch_size, seed=config.seed, rows=rows)
        return batches

    def first_params(self, config: VisionConfig, mesh: jax.sharding.Mesh, drawn: Any) -> Any:
        """Begins with random weights."""
        return drawn

    def validate(self, run: Run) -> tuple[dict[str, float], str]:
        """Measures loss and accuracy on the whole validation split, each image counted once."""
        config = run.config
        batches = validation_batches(config.data, batch_size=config.batch_size // config.accumulate)
        with jax.set_mesh(run.mesh):
            parts = [
                _sums(run.graphdef, run.state.params, *sharding.share_rows(batch, run.mesh))
                for batch in run.preemption.watch(batches)
            ]
        nats, correct, examples = np.array(distributed.fetch(parts, "a validation"), np.float64).sum(axis=0).tolist()
        values = {"loss": nats / examples, "accuracy": correct / examples, "examples": int(examples)}
        return values, f"validation loss {values['loss']:.4f} | accuracy {values['accuracy']:.2%}"

    def report(
        self, config: VisionConfig, metrics: list[dict[str, float]], params: Any
    ) -> tuple[list[tuple[str, pathlib.Path]], str]:
        """Draws nothing."""
        final = next(line for line in reversed(metrics) if "validation/accuracy" in line)
        loss, accuracy, examples = (final[f"validation/{name}"] for name in ("loss", "accuracy", "examples"))
        return [], f"validation accuracy {accuracy:.2%} (loss {loss:.4f} nats) on {int(examples):,} images"


@functools.partial(jax.jit, static_argnums=0)
def _sums(
    graphdef: nnx.GraphDef[Vit], params: Any, batch: Batch, real_B: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Nats, images classified correctly and images, summed over those that are real."""
    logits_BxK = nnx.merge(graphdef, params)(batch.images)
    correct_B = jnp.argmax(logits_BxK, axis=-1) == batch.labels
    nats = jnp.sum(cross_entropy(logits_BxK, batch.labels), where=real_B)
    return nats, jnp.sum(correct_B, where=real_B), jnp.sum(real_B)


IMAGE_CLASSIFICATION = ImageClassification()
