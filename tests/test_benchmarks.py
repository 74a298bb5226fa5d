"""Results of the benchmarks are written and drawn as they were measured."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
import socket
import types

import coverage
import matplotlib.image
import numpy as np
import pytest
import safetensors.numpy

from benchmarks import fences, figure, fuzz, report
from benchmarks.inspection import models, tables
from benchmarks.inspection.__main__ import all_outputs
from benchmarks.measure import Row, ratio, take_turns
from benchmarks.mutants import covering
from benchmarks.soak.relay import Relay

ROWS = [
    Row("refresh of the 56 modules of 60m / torch.linalg.svdvals", 0.25, "x", 0.3, seconds=(0.5, 2.0)),
    Row("60m refresh / with solver='eigvalsh'", 0.5, "x", seconds=(0.5, 1.0)),
    Row("nano run with refresh_every=1 / with no refresh", 1.2, "x", 1.15),
    Row("nano run with refresh_every=50 / with no refresh", 1.004, "x"),
    Row("refresh at width 256 / at width 128", 4.7, "x"),
    Row("60m refresh on 8 devices: decompositions a device", 7, "", 7),
    Row("60m refresh on 8 devices: bytes of the collectives a device", 19.7, "MB"),
]


def test_table_says_what_holds(tmp_path: pathlib.Path) -> None:
    report.write(tmp_path, {"command": "python -m benchmarks.run"}, ROWS)
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert "- command: python -m benchmarks.run" in lines
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert [row[3] for row in cells[2:]] == ["yes", "", "**no**", "", "", "yes", ""]
    assert cells[2][1:3] == ["0.250", "≤ 0.300"] and cells[8][1] == "19.7 MB"
    saved = json.loads((tmp_path / "results.json").read_text())
    assert [row["holds"] for row in saved["rows"]] == [True, None, False, None, None, True, None]


def test_figure_is_drawn_with_and_without_results(tmp_path: pathlib.Path) -> None:
    pictures = []
    for rows in (ROWS, ROWS[:2], []):
        figure.draw(tmp_path / "performance.png", rows)
        pictures.append(matplotlib.image.imread(tmp_path / "performance.png"))
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[1], pictures[2])


def test_contenders_take_turns_and_ratios_are_of_the_same_turn() -> None:
    calls: list[str] = []
    seconds = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == list("abbaabbaab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    row = ratio("r", {"a": np.array([1.0, 4.0, 3.0]), "b": np.array([2.0, 2.0, 3.0])}, "a", "b", budget=1.0)
    assert (row.measured, row.quartiles, row.holds, row.seconds) == (1.0, (0.75, 1.5), True, (3.0, 2.0))


def test_refreshes_that_a_fence_changes_are_counted() -> None:
    ordinary = [2.0, 2.1, 2.2, 2.9, 3.0, 3.1, 2.05]
    found = fences.count([ordinary, [*ordinary, 501.0], [*ordinary, 5.9], [*ordinary[:3], 3.0, 2.15, 2.05, 2.1, 4.4]])
    assert found == fences.Count(refreshes=4, beyond_quartiles=3, fenced=1, moved=1)


def test_a_relay_passes_on_until_it_is_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        relay = Relay(f"127.0.0.1:{target.getsockname()[1]}")
        host, port = relay.address.split(":")
        near = socket.create_connection((host, int(port)))
        far, _ = target.accept()
        near.sendall(b"there")
        far.sendall(b"back")
        assert (far.recv(5), near.recv(4)) == (b"there", b"back")
        relay.cut()
        assert (far.recv(1), near.recv(1)) == (b"", b"")
        with pytest.raises(OSError):
            socket.create_connection((host, int(port)))
        near.close()
        far.close()


def test_fuzzing_finds_a_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--examples", "2", "--seed", "3"]
    assert fuzz.main(options) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["examples"], printed["trees"], printed["violations"]) == (2, 1, 0)
    assert printed["command"].endswith("benchmarks.fuzz --examples 2 --seed 3")
    monkeypatch.setattr(fuzz, "RATE", 0.3)  # what is held against the updates, not what made them
    draw = fuzz.draw_tree

    def draw_with_the_former_rate(rng: np.random.Generator) -> fuzz.Tree:
        with monkeypatch.context() as patch:
            patch.setattr(fuzz, "RATE", 0.1)
            return draw(rng)

    monkeypatch.setattr(fuzz, "draw_tree", draw_with_the_former_rate)
    assert fuzz.main(options) == 1
    assert "is not its gradient and 0.3 x [" in capsys.readouterr().err


def test_all_outputs_of_a_sharded_checkpoint_agree(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"layers.{at}.up.weight": rng.standard_normal((64, 96)).astype(np.float32) for at in range(6)}
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    shards = models.shard(tmp_path, tmp_path / "shards")
    assert len(list(shards.glob("*.safetensors"))) == 4
    row = all_outputs("six matrices", shards, tmp_path / "outputs")
    assert row["modules"] == len(row["alphas"]) == 6 and row["left_out"] == 0
    assert row["largest_mb"] == 64 * 96 * 4 / 1e6 and row["checkpoint_mb"] > 6 * row["largest_mb"]
    assert row["peak"] >= row["imported"] > 0


def test_alphas_are_compared_module_by_module() -> None:
    row = {"name": "m", "shuffled": True, "modules": 2, "turns": 3, "memory": [1.0, 20.0]}
    row |= {part: [1.0, 2.5] for part in ("wall", "cpu", "all")} | {"cpu_ratio": 2.5, "all_ratio": 2.4}
    found = {"measured_under": {"seed": "0"}, "models": [], "outputs": [], "comparison": [row]}
    alphas = {"m": {"a": [2.0, 2.0 + 1e-9], "b": [2.0, 2.5]}, "n": {"a": [2.0, 2.0], "b": [2.0, float("nan")]}}
    lines = tables.markdown(found | {"alphas": alphas}).splitlines()
    assert "| m | 2 | 5.0e-01 | `b` | 1 |" in lines and "| n | 2 | inf | `b` | 1 |" in lines
    assert any(line.startswith("| m, shuffled too | 2 | 1.00 / 2.50 s |") for line in lines)


def test_a_mutant_is_tried_first_on_the_tests_that_run_its_line() -> None:
    """Then on the rest of their files, the quickest file first. A line that runs at import concerns all of its file."""
    path, seconds = pathlib.Path("a.py"), {"t/slow.py::one": 9.0, "t/quick.py::two": 1.0, "t/quick.py::three": 2.0}
    known = covering.Covering(
        {
            ("a.py", 3): {"t/slow.py::one", "t/quick.py::three"},
            ("a.py", 5): {"t/quick.py::two"},
            ("b.py", 3): {"t/b.py::b"},
        },
        seconds,
    )
    assert known.of(path, 5, 5) == {"t/quick.py::two"} and known.of(path, 3, 5) == known.of(path, 4, 4) == set(seconds)
    tests = known.of(path, 3, 3)
    assert covering.files_of(tests) == ["t/quick.py", "t/slow.py"]
    items = [types.SimpleNamespace(nodeid=test, path=pathlib.Path(test.partition("::")[0])) for test in seconds]
    covering.First(tests, seconds).pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    assert [item.nodeid for item in items] == ["t/quick.py::three", "t/slow.py::one", "t/quick.py::two"]


def test_lines_and_times_are_read_as_they_were_written(tmp_path: pathlib.Path) -> None:
    data = coverage.CoverageData(str(tmp_path / "coverage"))
    for context, line in (("t.py::one|run", 3), ("t.py::two|setup", 3), ("", 4)):
        data.set_context(context)
        data.add_lines({str(tmp_path / "a.py"): [line]})
    data.write()
    times = [covering.Times(tmp_path / name) for name in ("quick", "apart")]
    for time, test in zip(times, ("t.py::one", "t.py::two"), strict=True):
        for duration in (0.5, 0.25):
            time.pytest_runtest_logreport(types.SimpleNamespace(nodeid=test, duration=duration))  # type: ignore[arg-type]
        time.pytest_sessionfinish()
    found = covering.read(tmp_path / "coverage", [time.file for time in times], tmp_path)
    assert found.lines == {("a.py", 3): {"t.py::one", "t.py::two"}}
    assert found.seconds == {"t.py::one": 0.75, "t.py::two": 0.75}
