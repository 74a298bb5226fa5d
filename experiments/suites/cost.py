"""What a run costs: floating-point operations, and the time they take."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable, Mapping

from experiments.config import RunConfig
from experiments.finetune_config import ClassificationConfig, ProbingConfig, SpectraConfig
from experiments.suites.identity import name_of
from experiments.suites.results import Result
from experiments.suites.scales import Scale
from experiments.vision_config import VisionConfig

_VALIDATION_TEXTS = 2_000
"""Texts that a validation of labelled texts reads, those trained on included: a guess."""
_VALIDATION_IMAGES = {"digits": 500, "imagenet2012": 50_000}


def flops_of(config: RunConfig) -> float:
    """Floating-point operations of a run's forward and backward passes and validations.

    Products of matrices alone are counted, two operations a multiplication, and the backward pass as twice the
    forward one. The embedding of patches, and refreshes, are left out: 500 steps apart they are lost in the rest, at
    every step they are not (the paper's 60M run took 9.3 hours then, and 1.4 otherwise).
    """
    if isinstance(config, SpectraConfig):
        return 0.0
    if isinstance(config, VisionConfig):
        vit = config.model
        positions = (vit.image_size // vit.patch_size) ** 2 + 1
        forward = positions * _forward(vit.num_layers, vit.hidden_size, 2 * vit.intermediate_size, positions)
        validated = _VALIDATION_IMAGES.get(config.data.name.split(":")[0], 0)
        trained = config.steps * config.batch_size
    elif isinstance(config, ClassificationConfig | ProbingConfig):
        model, length = config.model, config.data.sequence_length
        forward = _forward(model.num_layers, model.hidden_size, 3 * model.intermediate_size, length)
        validated, trained = _VALIDATION_TEXTS * length, config.steps * config.batch_size * length
    else:
        model, length = config.model, config.data.sequence_length
        forward = _forward(model.num_layers, model.hidden_size, 3 * model.intermediate_size, length)
        forward += 2 * model.hidden_size * model.vocab_size
        validated, trained = config.data.eval_tokens, config.steps * config.batch_size * length
    validations = len({*range(config.eval_every, config.steps, config.eval_every), config.steps})
    return float(forward * (3 * trained + validations * validated))


def _forward(layers: int, width: int, mlp_width: int, length: int) -> int:
    """Operations of the blocks' forward pass for one position of a sequence."""
    return 2 * layers * (4 * width**2 + width * mlp_width + 2 * length * width)


class Estimate:
    """Tells how long runs take, from those of the same scale that were made, or from the speed of a device."""

    def __init__(self, scale: Scale, configs: Iterable[RunConfig], found: Mapping[str, Result]):
        """Learns from what was made.

        Args:
            scale: Its device's speed is assumed if nothing was made.
            configs: Runs, made or not.
            found: Results by the names of the runs.
        """
        self._rate = scale.flops_per_second
        self.basis = f"{scale.flops_per_second:.0e} operations a second, those of {scale.device}"
        known = [(flops_of(config), found.get(name_of(config))) for config in configs]
        made = [(flops, result.seconds) for flops, result in known if result and result.seconds is not None]
        if made:
            self._rate = sum(flops for flops, _ in made) / sum(seconds for _, seconds in made)
            self.basis = f"the {len(made)} runs made at this scale"

    def seconds(self, config: RunConfig) -> float:
        """How long a run takes by itself, in seconds."""
        return flops_of(config) / self._rate
