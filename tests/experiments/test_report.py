"""The report says what the results say: numbers, bold, p-values, failures and gaps; same results, same bytes."""
# SPDX-License-Identifier: Apache-2.0

import itertools
import pathlib
import re
import statistics
import statistics as textbook
import xml.etree.ElementTree
from typing import Any

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from experiments.report import document, figures, tables
from experiments.report.__main__ import main
from experiments.report.data import Book, first_and_last_agree, mean_ratio, read_results
from experiments.report.sections import SECTIONS
from experiments.report.statistics import ACCURACY, Cell
from experiments.report.text import column, p_value, with_labels
from experiments.suites import store
from experiments.suites.identity import name_of
from experiments.suites.paper import ASKED, SUITES
from experiments.suites.questions.catalogue import QUESTIONS
from experiments.suites.results import Refreshes
from experiments.suites.scales import SCALES
from tests.experiments import invented_results
from tests.experiments.invented_results import add, invent, outcome, runs_of

GRID = SCALES["nano"].adamw
RATE = GRID.decays[0].rate
MADE = ("sweep-adamw", "tuned-adamw", "table-3", "equal-mean", "figure-1", "figure-4", "figure-5", "figure-6",
        "figure-8", "sweep-steps")  # fmt: skip
SEEDS = SCALES["nano"].ablation_seeds
ABLATED = SCALES["nano"].ablations.decays[0].rate


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Suites at nano, with gaps: figure 6 lacks a cell, one cell of figure 5 has failed, and one run of another."""
    directory = tmp_path_factory.mktemp("results")
    found = invented_results.write(directory, *MADE)
    for labels, config in runs_of("figure-5", "nano"):
        lost = (("sqrt", config.seed), ("log2", 1))
        if labels["weight decay"] == ABLATED and (labels["assignment"], config.seed) in lost:
            found[name_of(config)] = outcome(config, error="Diverged: | of\nloss")
    for labels, config in runs_of("figure-6", "nano"):
        if labels == {"metric": "stable_rank", "weight decay": ABLATED}:
            del found[name_of(config)]
    (directory / "nano.jsonl").unlink()
    add(directory, *found.values(), invent(config, 3.0, name="stray"))
    notes = "Head.\n\n## In short\n\nRead *this*.\n\n## adam-repeated\n\nOr else.\n\n## figure-5\n\nFive says so.\n"
    (directory / "notes.md").write_text(notes)
    return directory


@pytest.fixture(scope="module")
def book(source: pathlib.Path) -> Book:
    return read_results(source)


@pytest.fixture(scope="module")
def target(source: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the report."""
    directory = tmp_path_factory.mktemp("report")
    document.write(source, directory)
    return directory


@pytest.fixture(scope="module")
def text(target: pathlib.Path) -> str:
    return (target / "report.md").read_text()


def section(text: str, heading: str) -> str:
    _, _, rest = text.partition(f"### {heading}")
    return rest.split("\n### ")[0].split("\n## ")[0]


def cells(part: str) -> dict[str, list[str]]:
    """Rows of a section's tables by their first cell, the heading too."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def finals(book: Book, number: str, **settings: Any) -> dict[int, float]:
    """A number by seed of the runs with these optimizer settings, found by nothing but what the files say."""
    base = book.found["nano"][book.base_names["nano"]]
    found = {}
    for result in book.found["nano"].values():
        if settings.items() <= result.settings["optimizer"].items() and result.steps == base.steps and result.final:
            found[result.seed] = result.final[number]
    return found


def test_the_same_results_give_the_same_bytes(tmp_path: pathlib.Path) -> None:
    invented_results.write(tmp_path, "figure-1")
    made = []
    for _ in range(2):
        assert main(["--results", str(tmp_path)]) == 0
        made.append({path.name: path.read_bytes() for path in [tmp_path / "report.md", *tmp_path.glob("figures/*")]})
    assert made[0] == made[1] and sorted(made[0]) == [
        "figure-1-nano.svg",
        "figure-3-nano.svg",
        "questions.svg",
        "report.md",
    ]


def test_figures_are_small_and_free_of_dates(target: pathlib.Path) -> None:
    for path in (target / "figures").glob("*.svg"):
        assert path.stat().st_size < 85_000
        assert xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "<dc:date" not in path.read_text()


def test_every_table_and_figure_is_there_with_its_command(text: str) -> None:
    for part in SECTIONS:
        scale = "60m" if part.suite in SUITES and SUITES[part.suite].vision else "nano"
        assert f"`python -m experiments.suites {part.suite} --scale {scale}`" in section(text, part.heading)
    assert set(SUITES) - ASKED <= {suite for part in SECTIONS for suite in (part.suite, *part.tuned)}
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(links) == 8 and {"figures/figure-5-nano.svg", "figures/questions.svg"} <= set(links)


def test_the_first_page_and_the_questions_have_their_prose(text: str) -> None:
    first, _, rest = text.partition("\n## Questions\n")
    assert "Read *this*." in first and "Head." not in text
    for name, question in QUESTIONS.items():
        assert f"- **{question.title}** ({question.scale}): **No answer yet.**" in first
        part = section(rest, question.title)
        assert f"0 of {len(question.arms) * len(question.test_seeds)} test runs are made" in part
        assert ("Or else." in part) == (name == "adam-repeated")
    assert "Five says so." in section(text, "Figure 5") and text.count("Five says so.") == 1


def test_every_setting_has_a_command_that_makes_a_run_of_it_again(book: Book, text: str) -> None:
    for suite in ("table-3", "figure-8"):
        heading = next(part.heading for part in SECTIONS if part.suite == suite)
        names = re.findall(r"^python -m experiments\.suites\.rerun (\S+)", section(text, heading), re.MULTILINE)
        made = [cell for cell in book.cells[suite, "nano"] if cell.finished]
        assert len(names) == len(made)
        assert all(name in cell.names.values() for name, cell in zip(names, made, strict=True))


def test_table_3_has_means_deviations_and_p_values(book: Book, text: str) -> None:
    table = cells(section(text, "Table 3"))
    column = table["method"].index(f"decay {RATE:g}")
    base = book.found["nano"][book.base_names["nano"]].settings["optimizer"]
    shared = {name: base[name] for name in ("coupling", "learning_rate", "weight_decay")}
    losses = finals(book, "loss", **base)
    for name, method in (("Uniform", "uniform"), ("AWD", "awd"), ("AdaDecay", "adadecay")):
        values = finals(book, "perplexity", method=method, **shared)
        assert (
            f"{statistics.mean(values.values()):.2f} ± {statistics.stdev(values.values()):.2f}" in table[name][column]
        )
        theirs = finals(book, "loss", method=method, **shared)
        assert theirs.keys() == losses.keys()
        p = scipy.stats.ttest_rel([losses[seed] for seed in theirs], list(theirs.values())).pvalue
        assert p_value(p) in table[name][column]


def test_bold_goes_to_the_best_of_each_column(text: str) -> None:
    table = cells(section(text, "Table 3"))
    for index in range(len(table["method"])):
        means = {name: float(row[index].strip("*").split()[0]) for name, row in table.items() if "±" in row[index]}
        bold = [name for name, row in table.items() if row[index].startswith("**")]
        assert len(means) == 5 and bold == [min(means, key=lambda name: means[name])]


def test_the_higher_accuracy_is_bold_and_in_percent() -> None:
    rows = {name: Cell({"method": name}, {seed: "" for seed in range(2)},
                        {seed: outcome(final={"accuracy": accuracy + seed / 1000}) for seed in range(2)})
            for name, accuracy in (("Uniform", 0.91), ("AlphaDecay", 0.905))}  # fmt: skip
    assert column(rows, ACCURACY)["Uniform"] == "**91.05 ± 0.07**"


def test_ties_with_the_best_have_a_dagger() -> None:
    losses = {"best": (3.0, 3.1, 3.0, 3.2), "tie": (3.0, 3.0, 3.1, 3.21), "far": (3.5, 3.61, 3.52, 3.7)}
    rows = {name: Cell({"method": name}, {seed: "" for seed in range(4)},
                        {seed: outcome(final={"loss": loss, "perplexity": loss}) for seed, loss in enumerate(values)})
            for name, values in losses.items()}  # fmt: skip
    made = column(rows)
    assert made["best"].startswith("**") and made["tie"].endswith("†") and "†" not in made["far"]


def test_failed_and_missing_runs_are_shown(text: str) -> None:
    log2, lost = f"(n = {SEEDS - 1} of {SEEDS}, 1 failed)", SEEDS + 1
    figure_5, figure_6 = section(text, "Figure 5"), section(text, "Figure 6")
    at = f"weight decay {ABLATED:g}"
    assert f"assignment square root, {at}: failed; assignment logarithm, {at}:" in figure_5 and log2 in figure_5
    assert "made so far" not in figure_5 and f", {lost} failed)" in figure_5
    assert (
        f"metric stable rank, {at}: not made" in figure_6
        and f"{15 * SEEDS} runs, {SEEDS} seeds a setting, {14 * SEEDS} made so far)" in figure_6
    )
    assert f"- failed runs: {lost}" in text and "Diverged: | of loss" in text
    assert f"| `figure-5` | {12 * SEEDS}/{12 * SEEDS} ({lost} failed) |  |" in text


def test_ablations_are_held_against_the_base_setting_seed_by_seed(book: Book, text: str) -> None:
    part = section(text, "Figure 8")
    differences, raw = {}, {}
    for decay, gap in itertools.product(SCALES["nano"].ablations.decays, (1, 100, 250, 500)):
        where = {"coupling": "adam", "learning_rate": 3e-3, "weight_decay": decay.rate, "assign": "linear",
                 "scale_range": list(decay.scale_range), "metric": "pl_alpha_hill", "fit": "median"}  # fmt: skip
        ours, base = (finals(book, "loss", refresh_every=every, **where) for every in (gap, 50))
        assert ours.keys() == base.keys() == set(range(SEEDS))
        differences[decay.rate, gap] = statistics.mean(ours[seed] - base[seed] for seed in ours)
        raw[decay.rate, gap] = scipy.stats.ttest_rel([ours[s] for s in base], list(base.values())).pvalue
        uniform = finals(book, "loss", **{**where, "scale_range": [1.0, 1.0]}, refresh_every=50)
        if uniform:
            raw[decay.rate, 0] = scipy.stats.ttest_rel([uniform[s] for s in base], list(base.values())).pvalue
    corrected = dict(zip(raw, multipletests(list(raw.values()), method="holm")[1], strict=True))
    rows = cells(part)
    for (rate, gap), difference in differences.items():
        shown = rows[f"refresh every {gap}"][rows["setting"].index(f"base rate {rate:g}")]
        assert shown.endswith(f"{difference:+.3f}, {p_value(corrected[rate, gap])}")
    assert "refresh every 50 (base)" in rows and "Uniform decay" in rows


@pytest.mark.parametrize(("change", "word"), [(-0.5, "better"), (0.5, "worse"), (0.0, "not told apart")])
def test_the_short_version_says_who_won(tmp_path: pathlib.Path, change: float, word: str) -> None:
    results = []
    for labels, config in runs_of("table-4", "nano"):
        noise = 0.001 * (config.seed - 2) * (1 if labels["method"] == "Uniform" else -1)
        loss = 3.0 + noise + (change if labels["method"] == "AlphaDecay" else 0.0)
        results.append(invent(config, loss))
    add(tmp_path, *results)
    said = tables.in_short(read_results(tmp_path))
    assert f"against Uniform, AlphaDecay is {word} in 1 of 1" in said
    assert f"| {RATE:g} | **{word}** ({change:+.3f} nats, p " in said


def test_results_of_other_settings_are_counted(book: Book, text: str) -> None:
    assert book.strays("nano") == ["stray"]
    assert "- 1 of the runs belong to no table or figure" in text


def test_a_broken_file_ends_the_command_with_an_error(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    invented_results.write(tmp_path, "figure-1")
    with (tmp_path / "nano.jsonl").open("a") as file:
        file.write('{"name"\n')
    assert main(["--results", str(tmp_path)]) == 1
    assert f"{tmp_path}/nano.jsonl:3 is not a result" in capsys.readouterr().err


def test_the_mean_ratio_weighs_refreshes_by_the_steps_they_last() -> None:
    modules = ["layers/mlp/up_proj/kernel/0", "layers/self_attn/q_proj/kernel/0"]
    refreshes = Refreshes(modules, 3, [1, 50, 100], [], [[1, 3], [4, 6], [100, 100]])
    model = {"hidden_size": 10, "intermediate_size": 30}
    result = outcome(settings={"steps": 100, "model": model}, refreshes=refreshes)
    assert mean_ratio(result) == pytest.approx((49 * 2 + 50 * 5 + 1 * 100) / 100)
    # The first module has three times as many weights.
    assert mean_ratio(result, of_weights=True) == pytest.approx((49 * 1.5 + 50 * 4.5 + 1 * 100) / 100)


def test_alphas_at_the_start_and_at_the_end_are_correlated_over_what_could_be_measured() -> None:
    scores: list[list[float | None]] = [[1.0, 2.0, 3.0, None], [9.0, 9.0, 9.0, 9.0], [2.0, 4.0, 3.0, 5.0]]
    found = first_and_last_agree(outcome(refreshes=Refreshes([], 3, [1, 2, 3], scores, [])))
    assert found == pytest.approx(textbook.correlation([1.0, 2.0, 3.0], [2.0, 4.0, 3.0]))


def test_maps_show_the_losses_of_the_sweep(book: Book) -> None:
    found = book.cells["sweep-adamw", "nano"]
    figure = figures.draw_sweep(found)
    titles = [axes.get_title() for axes in figure.axes]
    shown: Any = np.ma.asarray(figure.axes[titles.index("AWD")].collections[0].get_array())
    rates, rows = sorted(GRID.sweep), sorted(GRID.learning_rates, reverse=True)
    cell = with_labels(found, method="AWD", weight_decay=rates[2], learning_rate=rows[1])
    nothing = with_labels(found, method="WD=0", weight_decay=0.0, learning_rate=rows[2])
    assert cell and nothing
    assert shown[1, 2] == cell.values("loss")[0]
    assert shown[2, 0] == nothing.values("loss")[0]


def test_the_committed_report_is_what_its_results_give(tmp_path: pathlib.Path) -> None:
    document.write(store.DIRECTORY, tmp_path)
    for made in (tmp_path / "report.md", *sorted(tmp_path.glob("figures/*.svg"))):
        committed = store.DIRECTORY / made.relative_to(tmp_path)
        assert committed.read_bytes() == made.read_bytes(), f"{committed}: run python -m experiments.report"
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        path.name for path in (store.DIRECTORY / "figures").iterdir()
    }
