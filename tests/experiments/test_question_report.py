"""Questions in the report: numbers against SciPy, what was not made, and what the weights looked like."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import re
from typing import Any

import numpy as np
import pytest
import scipy.stats

from experiments.report import notes, questions
from experiments.report.contrasts import Row, against_baseline, contrasts
from experiments.report.data import Book, read_results
from experiments.suites import provenance
from experiments.suites.inference import contrast
from experiments.suites.questions.catalogue import QUESTIONS
from experiments.suites.questions.readings import readings
from experiments.suites.results import Curve
from tests.experiments.invented_results import add, invent

NAME = "adam-repeated"
QUESTION = QUESTIONS[NAME]
SEEDS = QUESTION.test_seeds[:3]
LOSSES = {arm: 4.0 - 0.02 * i + np.random.default_rng(i).normal(0, 0.01, 3) for i, arm in enumerate(QUESTION.arms)}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """Three seeds of a question, and its tuning, in which the chosen settings are the best."""
    directory = tmp_path_factory.mktemp("results")
    results = []
    for arm, tried, config in QUESTION.tuning_runs():
        best = all(QUESTION.arms[arm].settings[name] == value for name, value in tried.items())
        results.append(invent(config, 3.9 if best else 4.1))
    for arm, config in QUESTION.test_runs():
        if config.seed in SEEDS:
            curves = {f"norm/{kind}": Curve([1, 400], [0.02, 0.5]) for kind in ("q_proj", "k_proj")}
            results.append(invent(config, float(LOSSES[arm][SEEDS.index(config.seed)]), curve=curves))
    add(directory, *results)
    return read_results(directory)


@pytest.fixture(autouse=True)
def outside_of_a_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "last_change", lambda path: None)


def test_differences_to_uniform_are_paired_t_tests(book: Book) -> None:
    for arm, found in against_baseline(book, NAME).items():
        expected = scipy.stats.ttest_rel(LOSSES[arm], LOSSES["Uniform"])
        interval = expected.confidence_interval(0.95)
        np.testing.assert_allclose((found.p, found.low, found.high), (expected.pvalue, *interval), rtol=1e-9)


def test_the_section_shows_every_arm_every_contrast_and_what_is_missing(book: Book, tmp_path: pathlib.Path) -> None:
    text = questions.sections(book, {NAME: "It would change."}, tmp_path)[0]
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    for row in contrasts(QUESTION, book.cells[NAME, "nano"]):
        assert row.found is not None
        assert (
            f"| {row.found.mean:+.4f} | {row.found.low:+.4f} to {row.found.high:+.4f} |"
            in rows[f"{row.first} - {row.second}"]
        )
    assert set(QUESTION.arms) <= rows.keys()
    planned = len(QUESTION.arms) * len(QUESTION.test_seeds)
    assert f"{3 * len(QUESTION.arms)} of {planned} test runs are made" in text
    assert "96 of 96 runs made. No optimum is at an end of its grid." in text
    assert "It would change." in text
    assert "| 0.5000 |" in text
    assert xml_files(tmp_path) == [f"{NAME}.svg"]
    names = re.findall(r"experiments\.suites\.rerun (\S+)", text)
    assert len(names) == len(QUESTION.arms)
    assert set(names) <= book.found["nano"].keys()


def xml_files(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.svg"))


def test_the_first_page_has_the_answer_and_the_best_arm(book: Book, tmp_path: pathlib.Path) -> None:
    text = questions.front(book, tmp_path)
    lowest = min(against_baseline(book, NAME).items(), key=lambda pair: pair[1].mean)
    assert f"Lowest against Uniform: {lowest[0]}, {lowest[1].mean:+.4f} nats" in text
    assert xml_files(tmp_path) == ["questions.svg"]


def test_the_answer_says_what_the_interval_says() -> None:
    def said(*differences: float, planned: int = 3) -> str:
        found = contrast(dict(enumerate(differences)), dict.fromkeys(range(3), 0.0))
        return questions.answer(Row("a", "b", True, found, found.p), planned)

    assert said(-0.1, -0.11, -0.12).startswith(
        "**The loss of a is lower than that of b by 0.1100 nats**, or 10.4 % of perplexity"
    )
    assert said(0.1, 0.11, 0.12).startswith(
        "**The loss of a is higher than that of b by 0.1100 nats**, or 11.6 % of perplexity"
    )
    early = said(-0.1, -0.11, -0.12, planned=4)
    assert early.startswith("**No answer before all 4 seeds are made.** So far a minus b is -0.1100 nats")
    assert said(0.1, -0.1, 0.01).startswith("**Not told apart**: +0.0033 nats")


def test_alpha_is_shown_beside_that_of_a_random_matrix(book: Book) -> None:
    results = {str(cell.labels["arm"]): cell for cell in book.cells[NAME, "nano"]}
    found = readings(next(iter(results["AlphaDecay"].finished.values())))
    refreshes = next(iter(results["AlphaDecay"].finished.values())).refreshes
    assert refreshes is not None
    of_mlp: list[Any] = [s for n, s in zip(refreshes.modules, refreshes.scores[-1], strict=True) if "/mlp/" in n]
    assert found["MLP"].alpha == pytest.approx(np.mean(of_mlp))
    assert (found["MLP"].random_alpha, found["queries and keys"].random_alpha) == pytest.approx((3.0, 2.12), abs=0.01)
    assert found["queries and keys"].size == 0.5
    assert found["MLP"].size is None
    assert readings(next(iter(results["AdaDecay"].finished.values())))["MLP"].alpha is None


def test_notes_are_cut_at_their_headings(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.md").write_text("Before.\n\n## One\n\nFirst.\n\n### Below\n\n## Two\n\nSecond.\n")
    assert notes.read(tmp_path / "notes.md") == {"One": "First.\n\n### Below", "Two": "Second."}
    assert notes.read(tmp_path / "none.md") == {}
