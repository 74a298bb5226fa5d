"""The command of the suites, run for real at the tiny scale: every suite, failures, a stop, and going on."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from typing import Any

import pytest

from experiments import train, vision_config
from experiments.presets import from_command_line
from experiments.suites import runner, store, worker
from experiments.suites.__main__ import command_of, main
from experiments.suites.cost import Estimate, flops_of
from experiments.suites.identity import name_of
from experiments.suites.paper import SUITES, runs_of
from experiments.suites.results import to_line
from experiments.suites.scales import SCALES, base_config
from experiments.training.workdir import locked
from tests.experiments.invented_results import invent, outcome


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A folder to work in, and a small corpus."""

    folder: pathlib.Path
    data: list[str]

    @property
    def paths(self) -> runner.Paths:
        return runner.Paths(self.folder / "results" / "tiny.jsonl", self.folder / "runs" / "tiny")

    def command(self, *words: str, options: tuple[str, ...] = ()) -> list[str]:
        folders = ["--results", str(self.folder / "results"), "--workdir", str(self.folder / "runs")]
        return [*words, "--scale", "tiny", *folders, "--", *self.data, *options]

    def start(self, *words: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.suites", *self.command(*words, options=options)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=pathlib.Path(__file__).parents[2],
            start_new_session=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    of_corpus = {"--data.dir", "--data.tokenizer", "--model.vocab-size"}
    pairs = zip(tiny_command[1::2], tiny_command[2::2], strict=True)
    return Tiny(tmp_path_factory.mktemp("suites"), [word for pair in pairs if pair[0] in of_corpus for word in pair])


@pytest.fixture
def alone(tiny: Tiny, tmp_path: pathlib.Path) -> Tiny:
    return dataclasses.replace(tiny, folder=tmp_path)


@pytest.mark.parametrize("name", [name for name in SUITES if not name.startswith("tuned")])  # those wait for sweeps
def test_every_suite_runs(name: str, tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    before = set(store.read(tiny.paths.results).results)
    if SUITES[name].vision:
        tiny = dataclasses.replace(tiny, data=["--steps", "4", "--model.num-layers", "1"])
    code = main(tiny.command(name, "--limit", "1"))
    output, found = capfd.readouterr().out, store.read(tiny.paths.results).results
    assert code == 0, output
    assert not any(result.failed for result in found.values()), output
    made = set(found) - before
    assert len(made) == ("In all 0 runs left" not in output)
    shown, counted = ("accuracy", "examples") if SUITES[name].vision else ("perplexity", "tokens")
    for run in made:
        assert found[run].final.keys() == (set() if name == "figure-2" else {"loss", shown, counted})
        assert f"[1/1] {run}: {'measured' if name == 'figure-2' else shown}" in output


def test_what_was_made_is_not_made_again(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tiny.command("table-4", "--limit", "1")) == 0
    capsys.readouterr()
    written = tiny.paths.results.stat().st_mtime_ns
    assert main(tiny.command("table-4", "table-3", "--plan")) == 0
    planned = capsys.readouterr().out
    found = store.read(tiny.paths.results).results
    for name in ("table-4", "table-3"):
        configs = {name_of(run.config) for run in runs_of(name, SCALES["tiny"], found, tiny.data)}
        assert f"{name:<12} {len(configs)} runs, {len(configs - set(found))} left" in planned
    assert written == tiny.paths.results.stat().st_mtime_ns


def test_a_run_that_fails_is_recorded_and_does_not_stop_the_others(
    alone: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    base = runs_of("figure-5", SCALES["tiny"], {}, alone.data)[0].config
    bad = dataclasses.replace(base, data=dataclasses.replace(base.data, streams=3))
    ended: list[Any] = []
    assert runner.make_runs([bad, base], alone.paths, jobs=1, report=lambda config, result: ended.append(result))
    assert [result.failed for result in ended] == [True, False]
    assert "data.streams=3 cannot share batch_size=4" in ended[0].error
    assert store.read(alone.paths.results).results == {result.name: result for result in ended}
    assert main(alone.command("figure-5", "--plan", options=("--data.streams", "3"))) == 0
    planned = capsys.readouterr().out
    assert "4 runs, 3 left, 1 failed before" in planned
    assert main(alone.command("figure-5", "--retry-failed", "--limit", "1", options=("--data.streams", "3"))) == 1
    assert "1 runs failed" in capsys.readouterr().err


def test_a_process_that_dies_is_recorded(alone: Tiny) -> None:
    config = base_config(SCALES["tiny"], [*alone.data, "--steps", "100000"])
    killed = []

    def kill() -> None:
        while not (alone.paths.workdir(config) / "metrics.jsonl").exists():
            time.sleep(0.05)
        for process in multiprocessing.active_children():
            process.kill()
            killed.append(process)

    threading.Thread(target=kill, daemon=True).start()
    ended: list[Any] = []
    assert runner.make_runs([config], alone.paths, jobs=1, report=lambda config, result: ended.append(result))
    assert killed
    assert "The process ended with code -9" in ended[0].error


def test_a_suite_that_was_stopped_goes_on_where_it_was(alone: Tiny) -> None:
    options = ("--steps", "400", "--checkpoint-every", "400", "--eval-every", "400")
    [config] = [
        run.config
        for run in runs_of("figure-5", SCALES["tiny"], {}, [*alone.data, *options])
        if run.labels["assignment"] == "linear"
    ]
    process = alone.start("figure-5", "--limit", "1", options=options)
    metrics = alone.paths.workdir(config) / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: to the server of the runs, too
    output, _ = process.communicate(timeout=120)
    assert (process.returncode, "Stopped with 1 runs left" in output) == (130, True), output
    assert store.read(alone.paths.results).results == {}
    [saved] = (alone.paths.workdir(config) / "checkpoints").iterdir()
    assert 0 < int(saved.name) < 400
    assert main(alone.command("figure-5", "--limit", "1", options=options)) == 0
    assert f"Going on from step {saved.name}" in (alone.paths.workdir(config) / "log.txt").read_text()
    [result] = store.read(alone.paths.results).results.values()
    assert result.curve["train/loss"].steps == list(range(1, 401))
    attempts = (alone.paths.workdir(config) / "attempts.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in attempts]
    assert len(seconds) == 2
    assert result.seconds == pytest.approx(sum(seconds), abs=0.01)


def test_the_printed_commands_make_the_suites_runs(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    words = ["figure-5", "table-3", "table-5", "--scale", "60m", "--workdir", str(tmp_path), "--commands"]
    assert main([*words, "--results", str(tmp_path), "--", "--mesh.fsdp", "2"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) > 13
    places, configs = runner.Paths(tmp_path / "60m.jsonl", tmp_path / "60m"), set()
    parsers = {"experiments.train": from_command_line, "experiments.train_vit": vision_config.from_command_line}
    for command in commands:
        *python, preset = (words := shlex.split(command))[:4]
        assert python[:2] == ["python", "-m"]
        config = parsers[words[2]]([preset, *words[4:]])
        assert config.workdir == places.workdir(config)
        assert config.mesh.fsdp == 2
        assert command_of(config, places, SCALES["60m"]) == command
        configs.add(name_of(config))
    assert len(configs) == len(commands)


def test_estimates_are_of_the_textbook_and_learn_from_what_was_made() -> None:
    scale = SCALES["60m"]
    config = base_config(scale)
    # 6 N D: 25M weights of the blocks, 16M of the head, 1.3B tokens; attention and validation add to it.
    assert 6 * 41.7e6 * 1.31e9 < flops_of(config) < 1.2 * 6 * 41.7e6 * 1.31e9
    assumed = Estimate(scale, [config], {})
    assert assumed.seconds(config) == pytest.approx(flops_of(config) / scale.flops_per_second)
    found = {name_of(config): outcome(config, seconds=3600.0)}
    longer = dataclasses.replace(config, steps=20_000)
    learned = Estimate(scale, [config, longer], found)
    assert learned.seconds(config) == pytest.approx(3600)
    assert learned.seconds(longer) == pytest.approx(7200, rel=1e-6)
    failed = {name_of(config): outcome(config, error="no")}
    assert Estimate(scale, [config], failed).basis == assumed.basis


def test_runs_that_a_launcher_has_made_are_gathered(alone: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(alone.command("figure-5", "--limit", "1", "--commands")) == 0
    command = shlex.split(capfd.readouterr().out.splitlines()[0])
    assert train.main(command[3:]) == 0
    assert main(alone.command("figure-5", "--limit", "1")) == 0
    assert "made elsewhere" in capfd.readouterr().out
    [result] = store.read(alone.paths.results).results.values()
    assert result.curve["train/loss"].steps == [1, 2, 3, 4]
    assert result.seconds is None


@pytest.mark.parametrize("option", ["--jobs", "--limit", "--seeds"])
def test_numbers_below_one_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["table-4", option, "0"])
    assert f"argument {option}: 0 must be at least 1" in capsys.readouterr().err


def test_an_unknown_suite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["table-9"])
    assert "table-9" in capsys.readouterr().err


def test_damaged_results_are_told_and_the_rest_is_used(alone: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    alone.paths.results.parent.mkdir(parents=True)
    config = runs_of("table-4", SCALES["tiny"], {}, alone.data)[0].config
    alone.paths.results.write_text(f"{{\n{to_line(invent(config))}\n")
    assert main(alone.command("table-4", "--plan")) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"warning: {alone.paths.results}:1 is not a result")
    assert "5 runs, 4 left" in captured.out


def test_runs_that_another_process_makes_are_neither_made_nor_failed(
    alone: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [run.config for run in runs_of("figure-5", SCALES["tiny"], {}, alone.data)][:2]
    store.add(invent(configs[0]), alone.paths.results)
    with contextlib.ExitStack() as others:
        for config in configs:
            workdir = alone.paths.workdir(config)
            workdir.mkdir(parents=True)
            others.enter_context(locked(workdir / "lock"))
        ended: list[Any] = []
        assert runner.make_runs(configs, alone.paths, jobs=1, report=lambda config, result: ended.append(result))
        assert ended == [invent(configs[0]), None], "one was made after this plan, one is being made"
        assert main(alone.command("figure-5", "--seeds", "1", "--limit", "1")) == 0
    assert "1 runs are being made by other processes" in capsys.readouterr().out
    assert len(store.read(alone.paths.results).results) == 1
    assert (
        f"{workdir} is in use by process {os.getpid()} on {socket.gethostname()}: " in (workdir / "log.txt").read_text()
    )
    assert not (workdir / "attempts.jsonl").exists()
    assert not list(workdir.glob("result*"))


def test_runs_end_with_the_server_that_they_are_forked_from_and_are_made_again(alone: Tiny) -> None:
    options = ("--steps", "400", "--checkpoint-every", "400", "--eval-every", "400")
    config = base_config(SCALES["tiny"], [*alone.data, *options])
    workdir = alone.paths.workdir(config)

    def kill() -> None:
        while not (workdir / "metrics.jsonl").exists() or len((workdir / "metrics.jsonl").read_text().splitlines()) < 5:
            time.sleep(0.01)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    ended: list[Any] = []
    assert runner.make_runs([config], alone.paths, jobs=1, report=lambda config, result: ended.append(result))
    killer.join()
    assert [result.error for result in ended] == [""]
    assert ended[0].curve["train/loss"].steps == list(range(1, 401))
    assert "Going on from step" in (workdir / "log.txt").read_text()


def test_a_torn_line_of_times_is_left_out_and_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "attempts.jsonl"
    path.write_text('{"seconds": 1.5, "cpu_seconds": 2}\n[]\n7\n{"seconds": 3, "cpu_se')
    with worker._timed(tmp_path):
        pass
    assert path.read_text().splitlines()[3] == '{"seconds": 3, "cpu_se'
    assert worker._times(tmp_path) == {"seconds": pytest.approx(1.5, abs=0.1), "cpu_seconds": pytest.approx(2, abs=0.1)}
    told = capsys.readouterr().err
    assert [f"{path}:{number} is not the time" in told for number in (1, 2, 3, 4, 5)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_bytes_that_are_no_text_stay_in_the_results(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tiny.jsonl"
    path.write_bytes(b"\xff\0\n")
    result = invent(base_config(SCALES["tiny"]))
    store.add(result, path)
    contents = store.read(path)
    assert contents.results == {result.name: result}
    assert contents.faults[0].startswith(f"{path}:2 is not a result (")
    assert path.read_bytes().endswith(b"\n\xff\0\n")
