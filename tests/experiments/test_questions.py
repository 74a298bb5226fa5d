"""Questions: seeds that are never shared, contrasts that exist, enough seeds, and settings that are the best tried."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import pathlib
import subprocess

import pytest

from experiments.report.contrasts import contrasts
from experiments.report.questions import check_asked_before
from experiments.report.statistics import Cell
from experiments.suites import provenance
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


def test_a_question_with_an_arm_to_be_tuned_has_no_test_runs_yet() -> None:
    waits = dataclasses.replace(ASKED.arms["reversed"], waits_for="the tuning runs")
    untuned = dataclasses.replace(ASKED.arms["tuned"], settings={"learning_rate": 2e-3})
    for name, arm in (("reversed", waits), ("tuned", untuned)):
        asked = dataclasses.replace(ASKED, arms={**ASKED.arms, name: arm})
        assert not asked.is_ready
        assert list(asked.test_runs()) == []
        assert len(list(asked.tuning_runs())) == 2 * 9
        assert asked.on_edge() == []
    dataclasses.replace(ASKED, arms={**ASKED.arms, "tuned": untuned}).check_tuning(losses(at_best=3.5))
    assert ASKED.is_ready


def test_a_question_can_be_asked_of_another_corpus() -> None:
    asked = dataclasses.replace(ASKED, options=("--data.corpus", "books"))
    runs, others = list(ASKED.test_runs()), list(asked.test_runs())
    assert {config.data.corpus for _, config in others} == {"books"}
    assert not {name_of(config) for _, config in runs} & {name_of(config) for _, config in others}


def test_optima_on_an_edge_are_named() -> None:
    assert ASKED.on_edge() == []
    edge = Arm("Tuned.", "uniform", {"learning_rate": 3e-3, "weight_decay": 0.2}, GRID)
    assert dataclasses.replace(ASKED, arms={**ASKED.arms, "tuned": edge}).on_edge() == ["tuned: learning_rate=0.003"]


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_has_a_file_a_suite_and_no_optimum_on_an_edge(name: str) -> None:
    assert QUESTIONS[name].title in file_of(name).read_text()
    assert name in SUITES
    assert (f"{name}-tuning" in SUITES) == bool(list(QUESTIONS[name].tuning_runs()))
    assert QUESTIONS[name].on_edge() == []
    assert QUESTIONS[name].power >= 0.8


def cell(arm: str, *values: float, commit: str = "0" * 40) -> Cell:
    results = {seed: outcome(final={"loss": value}, commit=commit) for seed, value in enumerate(values)}
    return Cell({"arm": arm}, {seed: f"{arm}-{seed}" for seed in results}, results)


def test_the_primary_contrast_is_not_corrected_and_the_others_are() -> None:
    arms = {**ASKED.arms, "third": ASKED.arms["reversed"], "unmade": ASKED.arms["reversed"]}
    secondary = (("tuned", "third"), ("tuned", "unmade"))
    asked = dataclasses.replace(ASKED, arms=arms, secondary=secondary)
    cells = [
        cell("tuned", 1.0, 1.1, 1.3),
        cell("reversed", 1.1, 1.3, 1.35),
        cell("third", 1.2, 1.3, 1.6),
        cell("unmade"),
    ]
    primary, third, unmade = contrasts(asked, cells)
    assert primary.found is not None and primary.p == primary.found.p
    assert third.found is not None and third.p == pytest.approx(2 * third.found.p)
    assert unmade.found is None


def committed(folder: pathlib.Path, text: str) -> str:
    (folder / "asked.py").write_text(text)
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("add", "."), (*author, "commit", "-qm", "a", "--allow-empty")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return provenance.commit(folder)


def test_a_question_younger_than_its_runs_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.report.questions.file_of", lambda name: tmp_path / "asked.py")
    is_ancestor = provenance.is_ancestor
    monkeypatch.setattr(provenance, "is_ancestor", lambda a, b: is_ancestor(a, b, tmp_path))
    (tmp_path / "asked.py").write_text("")
    assert "cannot be told outside of a repository" in check_asked_before("asked", [cell("tuned", 1.0)])
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    before = committed(tmp_path, "a question")
    asked = committed(tmp_path, "a better question")
    (tmp_path / "code.py").write_text("")
    after = committed(tmp_path, "a better question")
    assert check_asked_before("asked", [cell("tuned")]) == "No test run was made yet."
    told = check_asked_before(
        "asked", [cell("tuned", 1.0, commit=asked), cell("reversed", 1.0, commit=f"{after}+changes")]
    )
    assert told.startswith(f"Asked in {asked[:7]}, before its test runs at ")
    with pytest.raises(
        ValueError, match=rf"asked\.py was last changed in {asked[:7]}, which is not before .*{before[:7]}"
    ):
        check_asked_before("asked", [cell("tuned", 1.0, commit=before)])
    (tmp_path / "asked.py").write_text("changed after the fact")
    with pytest.raises(ValueError, match=r"asked\.py has changes that are not committed"):
        check_asked_before("asked", [cell("tuned", 1.0, commit=after)])
