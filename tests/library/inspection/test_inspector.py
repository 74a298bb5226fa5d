"""`oad.inspect`: which tensors it measures, adapters, going on after an interruption, and memory."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import math
import pathlib
import sys
import tracemalloc
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from optax.contrib import MuonDimensionNumbers

import optax_alphadecay as oad
from optax_alphadecay.inspection import spectra
from optax_alphadecay.inspection.adapters import find_adapters
from optax_alphadecay.inspection.readers import open_checkpoint
from optax_alphadecay.inspection.tensors import CheckpointError, Tensor


def matrix(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


MODEL = {
    "embeddings.word.weight": matrix(128, 64),
    "layer.0.query.weight": matrix(64, 64, seed=1),
    "layer.0.up.weight": matrix(96, 64, seed=2),
    "layer.1.query.weight": matrix(64, 64, seed=3),
    "layer.1.conv.weight": matrix(64, 64, 3, seed=4),
    "layer.1.small.weight": matrix(8, 64, seed=5),
    "layer.1.norm.weight": matrix(64, seed=6),
    "position_ids": np.arange(8),
}


@pytest.fixture(name="model")
def model_of_torch(tmp_path: pathlib.Path) -> pathlib.Path:
    safetensors.numpy.save_file(MODEL, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_ratios_are_those_of_a_refresh(model: pathlib.Path) -> None:
    """The same alphas and ratios as the optimizer gets from the same matrices."""
    inspection = oad.inspect(model, weight_decay=0.2)
    params = {name: jnp.asarray(MODEL[name]) for name in sorted(MODEL) if "query" in name or "up" in name}
    optimizer = oad.alphadecay(0.2)
    _, state = optimizer.update(params, optimizer.init(params), params)
    table = oad.module_table(state, params)
    assert [module.name for module in inspection] == [row.name.replace(".", "/") for row in table]
    for module, row in zip(inspection, table, strict=True):
        assert module.alpha == pytest.approx(row.score, rel=1e-5)
        assert module.ratio == pytest.approx(row.ratio, rel=1e-4)
        assert module.decay == pytest.approx(0.2 * row.ratio, rel=1e-4)


def test_what_is_left_out_says_why(model: pathlib.Path) -> None:
    inspection = oad.inspect(model, exclude=["layer/1/query"])
    assert len(inspection) == len(list(inspection)) == 2
    assert {tensor.name: tensor.reason for tensor in inspection.left_out} == {
        "embeddings/word/weight": "'embeddings' names an embedding",
        "layer/1/query/weight": "excluded by 'layer/1/query'",
        "layer/1/conv/weight": "nothing says which of its 3 axes are inputs and outputs",
        "layer/1/small/weight": "8 eigenvalues, fewer than min_eigenvalues=50",
        "layer/1/norm/weight": "'norm' names a norm",
        "position_ids": "int64 is no floating dtype",
    }


def test_rules_with_axes_and_parts(model: pathlib.Path) -> None:
    axes = {"conv": MuonDimensionNumbers(1, 0), "query": False, "up": True}
    rule = oad.block_matrices(64, axes=axes, split={"up": (32, 32)})
    inspection = oad.inspect(model, modules=rule, shuffle=False)
    assert [module.name for module in inspection] == [
        "layer/0/up/weight[0:32]",
        "layer/0/up/weight[32:64]",
        "layer/1/conv/weight/0",
        "layer/1/conv/weight/1",
        "layer/1/conv/weight/2",
    ]
    for at, part in ((1, MODEL["layer.0.up.weight"][:, 32:]), (3, MODEL["layer.1.conv.weight"][:, :, 1])):
        norm = np.linalg.svd(part.astype(np.float64), compute_uv=False)[0]
        assert inspection.modules[at].spectral_norm == pytest.approx(norm)
    scanned = oad.inspect(
        {"layers": {"up": matrix(2, 64, 96), "scale": matrix(2, 64)}}, modules=oad.block_matrices(stacked=["layers"])
    )
    assert [(module.name, module.layer, module.type) for module in scanned] == [
        ("layers/up/0", 0, "up"),
        ("layers/up/1", 1, "up"),
    ]


def test_modules_are_those_of_alphadecay(model: pathlib.Path) -> None:
    params = {"b": {"w": matrix(64, 64)}, "a": matrix(64, 96), "x": jnp.ones(3)}
    inspection = oad.inspect(params, modules={"b": True, "a": False, "x": False})
    assert [module.name for module in inspection] == ["b/w"]
    assert {tensor.reason for tensor in inspection.left_out} == {"modules says False"}
    chosen = oad.inspect(model, modules=lambda params: {name: "layer/1/q" in name for name in params})
    assert [module.name for module in chosen] == ["layer/1/query/weight"]
    with pytest.raises(ValueError, match="does not have the structure of params"):
        oad.inspect(params, modules={"c": True})
    with pytest.raises(ValueError, match="cannot be a module"):
        oad.inspect(params, modules={"b": True, "a": False, "x": True})
    with pytest.raises(ValueError, match=r"'f' is <function.* not an array"):
        oad.inspect({"f": matrix})


def test_parameters_in_memory_are_not_touched() -> None:
    params = {"up": matrix(64, 96)}
    before = params["up"].copy()
    inspection = oad.inspect(params)
    np.testing.assert_array_equal(params["up"], before)
    assert inspection.source == "params" and inspection.modules[0].ratio == 1.0


def test_nothing_to_measure() -> None:
    assert oad.inspect({"x": jnp.ones(3)}).modules == ()


def test_progress_and_an_assignment_of_ones_own(model: pathlib.Path) -> None:
    seen: list[tuple[float, str]] = []
    inspection = oad.inspect(model, assign=oad.sqrt(), on_progress=lambda *now: seen.append(now))
    assert [name for _, name in seen] == [module.name for module in inspection]
    assert sorted(share for share, _ in seen) == [share for share, _ in seen] and seen[-1][0] == pytest.approx(1)
    roots = np.sqrt([module.alpha for module in inspection])
    np.testing.assert_allclose([module.ratio for module in inspection], roots / roots.mean(), rtol=1e-5)


def test_table_of_pandas(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspection = oad.inspect(model)
    frame = inspection.to_pandas()
    assert frame.set_index("name").loc["layer/0/up/weight", "alpha"] == inspection.modules[1].alpha
    assert len(frame) == 3 and "eigenvalues" not in frame
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match=r"to_pandas\(\) needs pandas, which is not installed: pip install pandas"):
        inspection.to_pandas()


# Adapters


def test_adapters_are_the_product_they_stand_for(tmp_path: pathlib.Path) -> None:
    down, up = matrix(8, 64), matrix(96, 8, seed=1)
    names = "base_model.model.layers.3.q_proj.lora_A.weight", "base_model.model.layers.3.q_proj.lora_B.weight"
    safetensors.numpy.save_file(dict(zip(names, (down, up), strict=True)), tmp_path / "adapter_model.safetensors")
    exact = np.linalg.svd(up.astype(np.float64) @ down, compute_uv=False)[:8]
    for config, scale in (
        (None, 1.0),
        ({"r": 8, "lora_alpha": 16}, 2.0),
        ({"r": 4, "lora_alpha": 4, "use_rslora": True}, 2.0),
    ):
        if config:
            (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        [module] = oad.inspect(tmp_path).modules
        assert (module.name, module.shape, module.layer) == ("base_model/model/layers/3/q_proj/lora", (96, 64), 3)
        np.testing.assert_allclose(np.sqrt(module.eigenvalues[::-1]), scale * exact, rtol=1e-6)
        assert module.is_product and math.isnan(module.ratio) and math.isnan(module.random_alpha)
        assert ("taken for 1" in module.note) == (config is None)


def test_adapters_under_other_names() -> None:
    params = {
        "a": {"lora_a": matrix(64, 4), "lora_b": matrix(4, 96)},
        "b": {"lora_down": {"weight": matrix(4, 64)}, "lora_up": {"weight": matrix(96, 4)}, "alpha": np.float32(8)},
        "square": {"lora_a": matrix(4, 4), "lora_b": matrix(4, 4)},
        "alone": {"lora_a": matrix(64, 4)},
        "odd": {"lora_a": matrix(64, 4), "lora_b": matrix(5, 96)},
        "lora_alpha": np.float32(2),
    }
    inspection = oad.inspect(params)
    assert [(module.name, module.shape) for module in inspection] == [
        ("a/lora", (64, 96)),
        ("b/lora", (96, 64)),
        ("square/lora", (4, 4)),
    ]
    exact = np.linalg.norm(params["b"]["lora_up"]["weight"] @ params["b"]["lora_down"]["weight"])  # type: ignore[index]
    assert inspection.modules[1].frobenius_norm == pytest.approx(2 * exact, rel=1e-5)
    alone = {tensor.name for tensor in inspection.left_out if "without a partner" in tensor.reason}
    assert alone == {"alone/lora_a", "odd/lora_a", "odd/lora_b"}


def test_what_only_sounds_like_a_factor_is_none() -> None:
    tensor = Tensor("lora_alphabet", (3, 3), np.dtype(np.float32), lambda: matrix(3, 3))
    assert find_adapters([tensor]) == ([], [tensor], [])


# Going on


def test_an_interrupted_inspection_goes_on(
    model: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = tmp_path / "spectra.jsonl"
    measured: list[tuple[int, ...]] = []
    measure = spectra.measure

    def counted(values: np.ndarray, **named: Any) -> spectra.Spectrum:
        measured.append(values.shape)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(values, **named)

    monkeypatch.setattr("optax_alphadecay.inspection.inspector.measure", counted)
    with pytest.raises(KeyboardInterrupt):
        oad.inspect(model, resume=resume)
    with resume.open("a") as file:
        file.write('\n["broken off')
    whole = oad.inspect(model, resume=resume)
    assert len(measured) == 4  # one before the interruption, the interrupted one, and two after it
    again = oad.inspect(model, resume=resume)
    assert len(measured) == 4
    fresh = oad.inspect(model)
    for own, other, third in zip(whole, again, fresh, strict=True):
        assert own == other == third
        np.testing.assert_array_equal(own.eigenvalues, third.eigenvalues)
    oad.inspect(model, resume=resume, seed=1)
    assert len(measured) == 4 + 3 + 3

    model.touch()
    safetensors.numpy.save_file({"layer.0.query.weight": matrix(64, 64, seed=9)}, model)
    [changed] = oad.inspect(model, resume=resume).modules
    assert changed.alpha != whole.modules[0].alpha


def test_what_is_kept_of_other_parameters_is_not_taken(tmp_path: pathlib.Path) -> None:
    """Parameters in memory have no file by whose date they could be told apart."""
    of_step = [{"up": matrix(64, 64, seed=step)} for step in (1, 2)]
    [first], [second], [again] = (oad.inspect(of_step[at], resume=tmp_path / "r") for at in (0, 1, 0))
    assert first.alpha == again.alpha != second.alpha


def test_what_is_kept_of_another_reading_is_not_taken(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "model.npz", conv=matrix(64, 64, 64))
    for axes in (MuonDimensionNumbers(0, (1, 2)), MuonDimensionNumbers((0, 1), 2)):
        rule = oad.block_matrices(axes={"conv": axes})
        [kept] = oad.inspect(tmp_path / "model.npz", modules=rule, resume=tmp_path / "r", shuffle=False)
        [fresh] = oad.inspect(tmp_path / "model.npz", modules=rule, shuffle=False)
        assert (kept.shape, kept.alpha) == (fresh.shape, fresh.alpha)


def test_what_is_kept_at_another_scale_is_not_taken(tmp_path: pathlib.Path) -> None:
    safetensors.numpy.save_file({"lora_A": matrix(4, 64), "lora_B": matrix(96, 4)}, tmp_path / "adapter.safetensors")
    norms = []
    for alpha in (4, 8):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
        [module] = oad.inspect(tmp_path / "adapter.safetensors", resume=tmp_path / "r")
        norms.append(module.frobenius_norm)
    assert norms[1] == pytest.approx(2 * norms[0])


def test_adapters_go_on_too(tmp_path: pathlib.Path) -> None:
    params = {"lora_a": matrix(64, 4), "lora_b": matrix(4, 96)}
    first, second = (oad.inspect(params, resume=tmp_path / "r").modules for _ in range(2))
    assert [dataclasses.replace(one, decay=0.0, ratio=0.0, random_alpha=0.0, mp_edge=0.0) for one in first] == [
        dataclasses.replace(one, decay=0.0, ratio=0.0, random_alpha=0.0, mp_edge=0.0) for one in second
    ]


def test_a_file_that_holds_something_else_is_not_written_to(model: pathlib.Path) -> None:
    before = model.read_bytes()
    with pytest.raises(CheckpointError, match="holds something else than spectra"):
        oad.inspect(model, resume=model)
    assert model.read_bytes() == before


# Reading


def test_a_file_that_shrinks_meanwhile(model: pathlib.Path) -> None:
    checkpoint = open_checkpoint(model)
    model.write_bytes(model.read_bytes()[:-60_000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: 'layer/.*' cannot be read"):
        oad.inspect(checkpoint)


def test_memory_is_that_of_one_tensor(tmp_path: pathlib.Path) -> None:
    """Of a checkpoint of 16 tensors, never more than a few at once: the tensor, its shuffled copy, a block, a Gram."""
    one = matrix(64, 16_384)
    safetensors.numpy.save_file({f"layers.{at}.up": one for at in range(16)}, tmp_path / "m.safetensors")
    oad.inspect(tmp_path, exclude=["[1-9]"])  # so that imports and compilers do not count
    tracemalloc.start()
    oad.inspect(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * one.nbytes  # 16 of them would be more; float64 makes two of one
