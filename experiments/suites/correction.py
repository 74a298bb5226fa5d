"""Suites of corrected decay: norms, grids, AlphaDecay on top, momenta, and Scion's time against AdamW's."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

from experiments.config import Config
from experiments.suites.plan import PlannedRun, Suite
from experiments.suites.questions.correction_adamw import QUESTION as ADAMW
from experiments.suites.questions.correction_scion import QUESTION as SCION
from experiments.suites.results import Result
from experiments.suites.scales import SCALES, Scale, with_optimizer

MOMENTA = (1.0, 0.5, 0.1, 0.05)
EFFECTIVE_RATES = (0.007, 0.014, 0.028, 0.056)
"""Peaks of `gamma * sqrt((2 - a) / a)`."""
DECAY_A_STEP = 4e-3
"""Peak of `gamma * lambda`: where it and the effective rate are the same, weights settle at the same norm."""
SEEDS = tuple(range(310, 315))
STEPS_OF_EQUAL_SECONDS = 420
"""Steps that AdamW takes in the CPU seconds of Scion's 400: in the tuning runs, medians of 15.2 and 15.6 seconds."""


def _norms(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """The arms of both questions, which measure norms."""
    if scale is SCALES["nano"]:
        for arm, config in SCION.test_runs():
            yield PlannedRun({"method": arm}, config)


def _grid(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """The runs that the coefficients of both questions were chosen on."""
    if scale is SCALES["nano"]:
        for arm, tried, config in itertools.chain(ADAMW.tuning_runs(), SCION.tuning_runs()):
            yield PlannedRun({"method": arm, "weight decay": tried["weight_decay"]}, config)


def _two_by_two(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """AdamW, constant or corrected, for all weights alike or shared out by AlphaDecay."""
    places = {
        "AdamW": ("constant", "alike"),
        "AdamC": ("corrected", "alike"),
        "AlphaDecay": ("constant", "by alpha"),
        "AlphaDecay, corrected": ("corrected", "by alpha"),
    }
    if scale is SCALES["nano"]:
        for arm, config in ADAMW.test_runs():
            coefficient, shares = places[arm]
            yield PlannedRun({"coefficient": coefficient, "shares": shares}, config)


def _momenta(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """Scion at each momentum over effective learning rates; seeds outermost."""
    if scale is not SCALES["nano"]:
        return
    shared = SCION.arms["Scion"].settings
    for seed, momentum, effective in itertools.product(SEEDS, MOMENTA, EFFECTIVE_RATES):
        rate = effective / math.sqrt((2 - momentum) / momentum)
        settings = {**shared, "learning_rate": rate, "weight_decay": DECAY_A_STEP / rate, "momentum": momentum}
        config = with_optimizer(dataclasses.replace(base, seed=seed), "scion", **settings)
        yield PlannedRun({"momentum": momentum, "effective learning rate": effective}, config)


def _equal_seconds(base: Config, scale: Scale, found: Mapping[str, Result]) -> Iterator[PlannedRun]:
    """Scion, AdamW with as many steps, and AdamW with as many seconds, on the seeds of the questions."""
    if scale is not SCALES["nano"]:
        return
    # Norms are measured as in the question, whose runs these are, too.
    base = dataclasses.replace(base, norms_every=SCION.norms_every)
    longer = dataclasses.replace(base, steps=STEPS_OF_EQUAL_SECONDS, checkpoint_every=STEPS_OF_EQUAL_SECONDS)
    for seed in SCION.test_seeds:
        for label, arm, start in (
            ("Scion", SCION.arms["Scion"], base),
            ("AdamW, equal steps", SCION.arms["AdamW"], base),
            ("AdamW, equal seconds", SCION.arms["AdamW"], longer),
        ):
            config = with_optimizer(dataclasses.replace(start, seed=seed), arm.method, **arm.settings)
            yield PlannedRun({"method": label}, config)


SUITES: dict[str, Suite] = {
    "correction-norms": Suite("Norms along runs with and without corrected decay.", _norms),
    "correction-grid": Suite("Loss over the peak coefficient, constant and corrected.", _grid),
    "correction-two-by-two": Suite("AlphaDecay and corrected decay, alone and together.", _two_by_two),
    "momentum-transfer": Suite("Scion: effective learning rates at four momenta.", _momenta),
    "equal-seconds": Suite("Scion against AdamW at equal steps and at equal seconds.", _equal_seconds),
}
