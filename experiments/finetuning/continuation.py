"""Continued language modelling as a task: a pre-trained LLaMA learns another corpus in its own vocabulary."""
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import jax

from experiments.finetune_config import ContinuationConfig
from experiments.finetuning.base import restore_base
from experiments.training.language_modeling import LanguageModeling


class Continuation(LanguageModeling):
    """Next-token prediction that begins with the weights of another run."""

    def first_params(self, config: ContinuationConfig, mesh: jax.sharding.Mesh, drawn: Any) -> Any:  # type: ignore[override]
        """Begins with the weights of the base run."""
        return restore_base(config.base.dir, config.model, mesh)


CONTINUATION = Continuation()
