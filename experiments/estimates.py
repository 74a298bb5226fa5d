"""What a run costs: floating-point operations, and the time they take."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable, Mapping
from typing import Any

from experiments import results
from experiments.config import Config
from experiments.scales import Scale


def flops_of(config: Config) -> float:
    """Floating-point operations of a run's forward and backward passes and validations.

    Products of matrices alone are counted, two operations a multiplication, and the backward pass as twice the
    forward one. Refreshes are left out: with 500 steps between two they are lost in the rest.
    """
    model, length = config.model, config.data.sequence_length
    block = 4 * model.hidden_size**2 + 3 * model.hidden_size * model.intermediate_size
    weights = model.num_layers * block + model.hidden_size * model.vocab_size
    attention = 2 * model.num_layers * length * model.hidden_size
    forward = 2 * (weights + attention)
    trained = config.steps * config.batch_size * length
    validated = config.data.eval_tokens * len(
        {*range(config.eval_every, config.steps, config.eval_every), config.steps}
    )
    return float(forward * (3 * trained + validated))


class Estimate:
    """Tells how long runs take, from those of the same scale that were made, or from the speed of a device."""

    def __init__(self, scale: Scale, configs: Iterable[Config], found: Mapping[str, Any]):
        """Learns from what was made.

        Args:
            scale: Its device's speed is assumed if nothing was made.
            configs: Runs, made or not.
            found: Results by the names of the runs.
        """
        self._rate = scale.flops_per_second
        self.basis = f"{scale.flops_per_second:.0e} operations a second, as of {scale.device}"
        known = [(flops_of(config), found.get(results.name_of(config), {})) for config in configs]
        made = [(flops, result["seconds"]) for flops, result in known if "seconds" in result]
        if made:
            self._rate = sum(flops for flops, _ in made) / sum(seconds for _, seconds in made)
            self.basis = f"the {len(made)} runs made at this scale"

    def seconds(self, config: Config) -> float:
        """How long a run takes by itself, in seconds."""
        return flops_of(config) / self._rate
