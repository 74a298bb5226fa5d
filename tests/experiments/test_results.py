"""Results of runs: what is kept of one, how a scale's file is written and read, and where results came from."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import json
import pathlib
import re
import subprocess

import jax
import pytest

from experiments.presets import PRESETS
from experiments.suites import provenance, runner, store
from experiments.suites.results import MOST_REFRESHES, Curve, from_line, measured, to_line
from experiments.training.metrics import read_metrics
from tests.experiments.experiment_fixtures import FinishedRun
from tests.experiments.invented_results import invent, outcome

CONFIG = PRESETS["nano-repeated"].config


def test_a_result_holds_what_the_run_has_logged(finished_run: FinishedRun) -> None:
    found = measured(finished_run.workdir, units_per_step=1)
    lines = read_metrics(finished_run.workdir / "metrics.jsonl")
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert found["curve"]["train/loss"].steps == list(losses)
    assert found["curve"]["train/loss"].values == pytest.approx(list(losses.values()), rel=1e-5)
    last = lines[-1] if "validation/loss" in lines[-1] else next(x for x in lines[::-1] if "validation/loss" in x)
    assert found["final"]["perplexity"] == pytest.approx(last["validation/perplexity"], rel=1e-5)
    refreshes = found["refreshes"]
    of_refreshes = [line for line in lines if any(name.startswith("alphadecay/score") for name in line)]
    assert refreshes.made == len(refreshes.steps) == len(of_refreshes) == 7
    for i, line in enumerate(of_refreshes):
        for j, name in enumerate(refreshes.modules):
            assert refreshes.scores[i][j] == pytest.approx(line[f"alphadecay/score/{name}"], rel=1e-5)
            assert refreshes.ratios[i][j] == pytest.approx(line[f"alphadecay/ratio/{name}"], rel=1e-5)


def test_training_seconds_give_each_speed_the_steps_before_it(tmp_path: pathlib.Path) -> None:
    speeds = {1: 10.0, 10: 10.0, 20: 200.0, 30: 200.0, 40: 100.0}
    lines = [{"step": step, "train/tokens_per_second": speed} for step, speed in speeds.items()]
    lines += [{"step": 45, "validation/loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = measured(tmp_path, units_per_step=10)
    assert found["training_seconds"] == pytest.approx(10 * (1 / 10 + 19 / 200 + 20 / 100 + 5 / 100))
    assert list(found["curve"]) == ["validation/loss"]


def test_curves_with_the_same_steps_share_them_in_a_line() -> None:
    curves = {"a": Curve([1, 2], [1.0, None]), "b": Curve([2], [0.5]), "c": Curve([1, 2], [3.0, 4.0])}
    line = to_line(outcome(CONFIG, curve=curves))
    assert json.loads(line)["curve"] == [
        {"steps": [1, 2], "values": {"a": [1.0, None], "c": [3.0, 4.0]}},
        {"steps": [2], "values": {"b": [0.5]}},
    ]
    assert from_line(line).curve == curves


def test_of_many_refreshes_an_even_share_is_kept(tmp_path: pathlib.Path) -> None:
    lines = [{"step": step, "alphadecay/score/a": float("nan"), "alphadecay/ratio/a": 1.0} for step in range(1, 1001)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    refreshes = measured(tmp_path, units_per_step=0)["refreshes"]
    steps = refreshes.steps
    assert refreshes.made == 1000
    assert (len(steps), steps[0], steps[-1]) == (MOST_REFRESHES, 1, 1000)
    assert {b - a for a, b in itertools.pairwise(steps)} == {5, 6}
    assert refreshes.scores[0] == [None]


def test_a_line_gives_back_its_result() -> None:
    for result in (invent(CONFIG), outcome(CONFIG, error="ValueError: no"), outcome(CONFIG)):
        line = to_line(result)
        assert "\n" not in line
        assert from_line(line) == result


def test_results_are_sorted_and_one_line_each(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "nano.jsonl"
    for name in ("b", "c", "a", "b"):
        store.add(outcome(CONFIG, name=name), path)
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    assert {name: store.find(name, path) for name in "abc"} == store.read(path).results
    assert store.find("d", path) is None
    store.remove("b", path)
    store.remove("z", path)
    assert list(store.read(path).results) == ["a", "c"]
    assert store.read(tmp_path / "none.jsonl").results == {} and store.find("a", tmp_path / "none.jsonl") is None


@pytest.mark.parametrize(
    ("damaged", "why"),
    [
        ('{"name": "b", "sett', "Unterminated string"),
        ("[]", "not a JSON object"),
        ('{"name": "b"}', "missing"),
        ('{"name": "b", "colour": "red"}', "a field 'colour'"),
        ('{"name": "b", "curve": {"train/loss": {"steps": [1], "values": [2.0]}}}', "of an earlier version"),
    ],
)
def test_a_damaged_line_is_named_and_kept_and_the_rest_is_read(damaged: str, why: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "nano.jsonl"
    path.write_text(f"{to_line(outcome(CONFIG, name='a'))}\n{damaged}\n{to_line(outcome(CONFIG, name='c'))}\n")
    contents = store.read(path)
    assert list(contents.results) == ["a", "c"]
    [fault] = contents.faults
    assert fault.startswith(f"{path}:2 is not a result (") and why in fault
    assert store.find("b", path) is None
    store.add(outcome(CONFIG, name="d"), path)
    assert path.read_text().splitlines()[-1] == damaged
    assert list(store.read(path).results) == ["a", "c", "d"]


def test_other_lines_stay_as_they_stand_and_the_last_of_a_name_counts(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "nano.jsonl"
    first, second = (outcome(CONFIG, name="b", final={"loss": loss}) for loss in (2.0, 3.0))
    spaced = to_line(second).replace(",", " ,  ")
    path.write_text(f"{to_line(first)}\n{spaced}\n")
    assert store.find("b", path) == store.read(path).results["b"] == second
    store.add(outcome(CONFIG, name="a"), path)
    store.add(outcome(CONFIG, name="c"), path)
    store.remove("c", path)
    assert path.read_text().splitlines() == [to_line(outcome(CONFIG, name="a")), spaced]


def test_other_data_under_the_same_name_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "nano.jsonl"
    store.add(outcome(CONFIG, name="a", data={"tokenizer": "0", "data set": "1"}), path)
    store.add(outcome(CONFIG, name="b", data={}), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"c read another tokenizer than a in .*--data\.corpus"):
        store.add(outcome(CONFIG, name="c", data={"tokenizer": "2"}), path)
    assert path.read_bytes() == before
    books = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, corpus="books"))
    store.add(outcome(books, name="c", data={"tokenizer": "2"}), path)


def add_many(path: pathlib.Path, word: str) -> None:
    for number in range(20):
        store.add(outcome(CONFIG, name=f"{word}{number:02d}"), path)


def test_processes_may_add_to_one_file(tmp_path: pathlib.Path) -> None:
    path, context = tmp_path / "nano.jsonl", runner.fork_context()
    processes = [context.Process(target=add_many, args=(path, word)) for word in "xy"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(store.read(path).results) == 40


def test_a_file_is_written_whole_or_not_at_all(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nano.jsonl"
    store.add(outcome(CONFIG, name="a"), path)
    before = path.read_bytes()

    def fail(self: pathlib.Path, text: str, errors: str | None = None) -> int:
        self.write_bytes(text[:10].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", fail)
    with pytest.raises(OSError, match="No space"):
        store.add(outcome(CONFIG, name="b"), path)
    assert path.read_bytes() == before


def test_versions_and_commit_are_those_in_use(tmp_path: pathlib.Path) -> None:
    assert provenance.versions()["jax"] == jax.__version__
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=False
    )
    if head.returncode == 0:
        assert provenance.commit().removesuffix("+changes") == head.stdout.strip()
    else:
        assert provenance.commit() == "unknown"


def test_changed_code_is_told_from_its_commit_and_changed_results_are_not(tmp_path: pathlib.Path) -> None:
    assert provenance.commit(tmp_path) == "unknown"
    code, result = tmp_path / "experiments" / "code.py", tmp_path / "results" / "a.json"
    code.parent.mkdir()
    result.parent.mkdir()
    code.write_text("1")
    result.write_text("1")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "first")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    first = provenance.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", first)
    result.write_text("2")
    assert provenance.commit(tmp_path) == first
    code.write_text("2")
    assert provenance.commit(tmp_path) == f"{first}+changes"
