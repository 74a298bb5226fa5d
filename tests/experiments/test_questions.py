"""Questions: seeds that are never shared, contrasts that exist, enough seeds, and settings that are the best tried."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools

import pytest

from experiments.suites.identity import name_of
from experiments.suites.paper import SUITES
from experiments.suites.questions import Arm, Question
from experiments.suites.questions.catalogue import QUESTIONS, file_of
from experiments.suites.results import Result
from tests.experiments.invented_results import outcome

GRID = {"learning_rate": (1e-3, 2e-3, 3e-3), "weight_decay": (0.1, 0.2, 0.3)}
ASKED = Question(
    title="Asked",
    hypothesis="It helps.",
    scale="nano",
    arms={
        "tuned": Arm("Tuned.", "uniform", {"learning_rate": 2e-3, "weight_decay": 0.2}, GRID),
        "reversed": Arm("Not tuned.", "alphadecay", {"reverse": True}),
    },
    primary=("tuned", "reversed"),
    secondary=(),
    tuning_seeds=(100, 101),
    test_seeds=tuple(range(10)),
    effect=0.02,
    deviation=0.02,
    stopping="All are run.",
)


def losses(at_best: float = 3.0) -> dict[str, Result]:
    """Results of the tuning runs; the middle of the grid is the best by a mean over seeds that no single seed has."""
    found = {}
    for _, tried, config in ASKED.tuning_runs():
        far = abs(tried["learning_rate"] - 2e-3) * 1e3 + abs(tried["weight_decay"] - 0.2) * 10
        loss = at_best + 0.4 * (config.seed - 100) if far == 0 else 3.3 + 0.1 * far
        found[name_of(config)] = outcome(config, final={"loss": loss})
    return found


def test_seeds_are_outermost_and_never_shared() -> None:
    runs = list(ASKED.test_runs())
    assert [name for name, _ in runs[:3]] == ["tuned", "reversed", "tuned"]
    assert [config.seed for _, config in runs] == [seed for seed in range(10) for _ in range(2)]
    assert len({name_of(config) for _, config in runs}) == 20
    assert len(list(ASKED.tuning_runs())) == 2 * 9
    with pytest.raises(ValueError, match="seed 100 is tuned on and tested on"):
        dataclasses.replace(ASKED, test_seeds=tuple(range(95, 105)))


def test_a_question_names_its_arms_and_has_seeds_enough() -> None:
    with pytest.raises(ValueError, match="'other', which is no arm"):
        dataclasses.replace(ASKED, secondary=(("tuned", "other"),))
    with pytest.raises(ValueError, match="10 seeds are needed, and 9 planned"):
        dataclasses.replace(ASKED, test_seeds=tuple(range(9)))
    assert 0.8 <= ASKED.power < 0.9


def test_settings_must_be_the_best_that_were_tried() -> None:
    ASKED.check_tuning(losses())
    with pytest.raises(ValueError, match=r"tuned has \(0\.002, 0\.2\) for learning_rate, weight_decay, but \(0\.00"):
        ASKED.check_tuning(losses(at_best=3.5))
    some = dict(itertools.islice(losses().items(), 5))
    with pytest.raises(ValueError, match=r"the tuning run adamw-uniform-wd\S+ of tuned was not made"):
        ASKED.check_tuning(some)


def test_optima_on_an_edge_are_named() -> None:
    assert ASKED.on_edge() == []
    edge = Arm("Tuned.", "uniform", {"learning_rate": 3e-3, "weight_decay": 0.2}, GRID)
    assert dataclasses.replace(ASKED, arms={**ASKED.arms, "tuned": edge}).on_edge() == ["tuned: learning_rate=0.003"]


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_has_a_file_a_suite_and_no_optimum_on_an_edge(name: str) -> None:
    assert QUESTIONS[name].title in file_of(name).read_text()
    assert {name, f"{name}-tuning"} <= SUITES.keys()
    assert QUESTIONS[name].on_edge() == []
    assert QUESTIONS[name].power >= 0.8
