"""What an inspection keeps in a file and takes from it, how it counts its progress, and what assignments get."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.inspection import inspector, spectra
from optax_alphadecay.inspection.resume import Resume
from optax_alphadecay.inspection.spectra import Spectrum
from optax_alphadecay.inspection.tensors import Checkpoint, CheckpointError, Tensor

HEADER = "optax-alphadecay spectra 1"


def matrix(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(name="measured")
def shapes_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    measured: list[tuple[int, ...]] = []

    def counted(values: np.ndarray, **named: Any) -> Spectrum:
        measured.append(values.shape)
        return spectra.measure(values, **named)

    monkeypatch.setattr(inspector, "measure", counted)
    return measured


def test_an_empty_file_is_begun(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "r"
    path.touch()
    for at in range(2):
        kept = Resume(path)
        kept.add(f"key{at}", Spectrum(np.array([1.0, 2.5]), 0.5, 1.5, at))
        assert path.read_text().splitlines()[0] == HEADER and len(path.read_text().splitlines()) == at + 2
    kept = Resume(path)
    for at in range(2):
        found = kept.get(f"key{at}")
        assert found is not None and found.eigenvalues.tolist() == [1.0, 2.5]
        assert (found.mean, found.stddev, found.traps) == (0.5, 1.5, at)
    assert kept.get("other") is None


def test_without_a_file_nothing_is_kept() -> None:
    kept = Resume(None)
    kept.add("key", Spectrum(np.ones(2), 0.0, 1.0, 0))
    assert kept.get("key") is None


@pytest.mark.parametrize("first", ["", "A", "z", HEADER[:-1], f"{HEADER}0"])
def test_files_of_something_else_are_refused(tmp_path: pathlib.Path, first: str) -> None:
    (tmp_path / "r").write_text(f"{first}\n")
    with pytest.raises(CheckpointError, match="holds something else than spectra"):
        Resume(tmp_path / "r")


def test_lines_that_are_broken_hide_no_others(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "r"
    path.write_text(f'{HEADER}\n["a", [1, 2], 0, 1\n[1]\n7\n["b", [1, 2], 0, 1, 3]')
    kept = Resume(path)
    found = kept.get("b")
    assert kept.get("a") is None and found is not None and found.traps == 3


def test_only_what_is_not_kept_of_a_stack_is_measured(tmp_path: pathlib.Path, measured: list[tuple[int, ...]]) -> None:
    params, rule = {"layers": {"up": matrix(3, 50, 60)}}, oad.block_matrices(stacked=["layers"])
    whole = oad.inspect(params, modules=rule, resume=tmp_path / "r")
    lines = (tmp_path / "r").read_text().splitlines()
    assert measured == [(50, 60)] * 3 and len(lines) == 4
    (tmp_path / "r").write_text("\n".join([*lines[:2], lines[3]]))
    measured.clear()
    again = oad.inspect(params, modules=rule, resume=tmp_path / "r")
    assert measured == [(50, 60)] and list(again) == list(whole)
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one.eigenvalues, other.eigenvalues)


def test_spectra_without_traps_are_not_taken_for_those_with(
    tmp_path: pathlib.Path, measured: list[tuple[int, ...]]
) -> None:
    params = {"up": matrix(50, 60)}
    for shuffle, traps, times in ((False, -1, 1), (True, 0, 2), (False, -1, 2), (True, 0, 2)):
        [found] = oad.inspect(params, shuffle=shuffle, resume=tmp_path / "r")
        assert found.traps == traps and len(measured) == times
    keys = [json.loads(line)[0] for line in (tmp_path / "r").read_text().splitlines()[1:]]
    assert all(re.fullmatch("[0-9a-f]{16}/[0-]/.*/up", key) for key in keys) and len(set(keys)) == 2


def test_other_names_and_dtypes_are_other_parameters(tmp_path: pathlib.Path, measured: list[tuple[int, ...]]) -> None:
    values = np.round(matrix(50, 60)).astype(np.float32)
    for params in ({"up": values}, {"down": values}, {"up": values.astype(np.float64)}, {"up": values}):
        oad.inspect(params, shuffle=False, resume=tmp_path / "r")
    assert len(measured) == 3


def test_progress_goes_by_the_cost() -> None:
    """A tensor's is 1 and, for each of its numbers, its smaller side and 10; an adapter's is 1."""
    seen: list[tuple[float, str]] = []
    params = {"a": matrix(60, 50), "b": matrix(50, 80), "c/lora_a": matrix(60, 2), "c/lora_b": matrix(2, 60)}
    oad.inspect(params, shuffle=False, on_progress=lambda *now: seen.append(now))
    costs = np.array([1 + 3000 * 60, 1 + 4000 * 60, 1])
    assert [name for _, name in seen] == ["a", "b", "c/lora"]
    np.testing.assert_allclose([share for share, _ in seen], costs.cumsum() / costs.sum(), rtol=1e-12)


def test_progress_is_told_once_a_tensor_with_the_last_module_in_it() -> None:
    seen: list[str] = []
    params, rule = {"layers": {"up": matrix(3, 50, 60)}}, oad.block_matrices(stacked=["layers"])
    oad.inspect(params, modules=rule, shuffle=False, on_progress=lambda share, name: seen.append(name))
    assert seen == ["layers/up/2"]


def test_an_assignment_gets_names_and_sizes_of_modules_alone() -> None:
    given: dict[str, Any] = {}

    def assign(scores: jax.Array, names: Sequence[str], sizes: Sequence[int]) -> jax.Array:
        given.update(names=names, sizes=sizes)
        return jnp.arange(1.0, len(scores) + 1)

    params = {"a": matrix(50, 60), "b": matrix(50, 80), "lora_a": matrix(60, 2), "lora_b": matrix(2, 60)}
    inspection = oad.inspect(params, assign=assign, shuffle=False, weight_decay=0.5)
    assert given == {"names": ("a", "b"), "sizes": (3000, 4000)}
    assert [(one.name, one.ratio, one.decay) for one in inspection][:2] == [("a", 1.0, 0.5), ("b", 2.0, 1.0)]
    assert np.isnan(inspection.modules[2].ratio) and np.isnan(inspection.modules[2].decay)


@pytest.mark.parametrize("error", [OSError("gone"), MemoryError("gone"), ValueError("gone")])
def test_a_tensor_that_cannot_be_loaded_is_named(error: Exception) -> None:
    def fail() -> np.ndarray:
        raise error

    checkpoint = Checkpoint("run/m", (Tensor("up", (50, 60), np.dtype(np.float32), fail),))
    with pytest.raises(CheckpointError, match=r"^run/m: 'up' cannot be read: gone$"):
        oad.inspect(checkpoint)


def test_factors_are_matrices_where_the_modules_are_given() -> None:
    params = {"lora_a": matrix(60, 50), "lora_b": matrix(50, 60)}
    inspection = oad.inspect(params, modules={"lora_a": True, "lora_b": True}, shuffle=False)
    assert [module.name for module in inspection] == ["lora_a", "lora_b"]


def test_shuffles_differ_by_name_and_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def draw(values: np.ndarray, shuffle: np.random.Generator) -> Spectrum:
        drawn.append(shuffle.random())
        return spectra.measure(values, shuffle=None)

    monkeypatch.setattr(inspector, "measure", draw)
    params = {"a": matrix(50, 60), "b": matrix(50, 60)}
    assert oad.inspect(params).weight_decay == 0.1
    for options in ({"seed": 0}, {"seed": 1}, {"exclude": ["a"]}):
        oad.inspect(params, **options)
    assert drawn[0:2] == drawn[2:4] and drawn[6] == drawn[1]
    assert len(set(drawn)) == 4
