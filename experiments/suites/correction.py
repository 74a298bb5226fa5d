"""Suites of corrected decay that no question asks: momentum and the learning rate, and Scion's time against AdamW's."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

from experiments.config import Config
from experiments.suites.plan import PlannedRun, Suite
from experiments.suites.questions import correction_adamw, correction_scion
from experiments.suites.results import Result
from experiments.suites.scales import SCALES, Scale, with_optimizer

MOMENTA = (1.0, 0.5, 0.1, 0.05)
EFFECTIVE_RATES = (0.014, 0.028, 0.056)
"""Peaks of `gamma * sqrt((2 - a) / a)`."""
DECAY_A_STEP = 4e-3
"""Peak of `gamma * lambda`: where it and the effective rate are the same, weights settle at the same norm."""
SEEDS = tuple(range(310, 315))
STEPS_OF_EQUAL_SECONDS = 440
"""Steps that AdamW takes in the CPU seconds of Scion's 400."""


def _momenta(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """Scion at each momentum over effective learning rates; seeds outermost."""
    if scale is not SCALES["nano"]:
        return
    shared = correction_scion.QUESTION.arms["Scion"].settings
    for seed, momentum, effective in itertools.product(SEEDS, MOMENTA, EFFECTIVE_RATES):
        rate = effective / math.sqrt((2 - momentum) / momentum)
        settings = {**shared, "learning_rate": rate, "weight_decay": DECAY_A_STEP / rate, "momentum": momentum}
        config = with_optimizer(dataclasses.replace(base, seed=seed), "scion", **settings)
        yield PlannedRun({"momentum": momentum, "effective learning rate": effective}, config)


def _equal_seconds(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """Scion, AdamW with as many steps, and AdamW with as many seconds, on the seeds of the questions."""
    if scale is not SCALES["nano"]:
        return
    arms = correction_scion.QUESTION.arms
    longer = dataclasses.replace(base, steps=STEPS_OF_EQUAL_SECONDS, checkpoint_every=STEPS_OF_EQUAL_SECONDS)
    for seed in correction_adamw.QUESTION.test_seeds:
        for label, arm, start in (
            ("Scion", arms["Scion"], base),
            ("AdamW, equal steps", arms["AdamW"], base),
            ("AdamW, equal seconds", arms["AdamW"], longer),
        ):
            config = with_optimizer(dataclasses.replace(start, seed=seed), arm.method, **arm.settings)
            yield PlannedRun({"method": label}, config)


SUITES: dict[str, Suite] = {
    "momentum-transfer": Suite("Scion: effective learning rates at four momenta.", _momenta),
    "equal-seconds": Suite("Scion against AdamW at equal steps and at equal seconds.", _equal_seconds),
}
