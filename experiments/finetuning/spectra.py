"""The spectra that a pre-trained run ends with."""
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator

from experiments.finetune_config import SpectraConfig
from experiments.finetuning.base import read_base, restore_base
from experiments.parallel import sharding
from experiments.training.figures import Spectrum, spectra_of
from experiments.training.metrics import write_measured


def measure(config: SpectraConfig) -> None:
    """Writes metrics.jsonl of a run that measures: alphas, and a line for each rank of eigenvalues.

    The rank, from 1 up, stands for the step.

    Raises:
        Locked: Another process is at it.
    """
    base = read_base(config.base.dir, config.data.tokenizer)
    write_measured(
        config.workdir, lambda: _lines(spectra_of(restore_base(base.dir, base.model, sharding.one_device_mesh())))
    )


def _lines(spectra: list[Spectrum]) -> Iterator[dict[str, float]]:
    for rank in range(max(len(spectrum.eigenvalues) for spectrum in spectra)):
        values = {
            f"spectrum/{each.name}": float(each.eigenvalues[rank]) for each in spectra if rank < len(each.eigenvalues)
        }
        alphas = {} if rank else {f"alpha/{each.name}": each.alpha for each in spectra}
        yield {"step": rank + 1, **values, **alphas}
