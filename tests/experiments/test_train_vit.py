"""Training a Vision Transformer: what it prints and logs, resumption bit for bit, and how runs go wrong."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import io
import pathlib
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import rich.console

from experiments import train_vit
from experiments.methods import with_settings
from experiments.training import loop, metrics
from experiments.training.image_classification import IMAGE_CLASSIFICATION
from experiments.training.loop import run_to_end
from experiments.training.metrics import read_metrics
from experiments.training.preemption import Preempted, Preemption
from experiments.training.step import TrainState
from experiments.training.task import Diverged
from experiments.vision_config import PRESETS, ImageConfig, VisionConfig, from_command_line
from tests.experiments import small_imagenet
from tests.experiments.runs import after, terminate

STEPS = 20


def small(workdir: pathlib.Path) -> VisionConfig:
    """A run of seconds: one block, 20 steps, and a decay by modules that compiles fast."""
    preset = PRESETS["digits"].config
    return dataclasses.replace(
        preset,
        model=dataclasses.replace(preset.model, num_layers=1),
        optimizer=with_settings(preset.optimizer, "adadecay", refresh_every=8),
        steps=STEPS,
        log_every=1,
        eval_every=10,
        checkpoint_every=STEPS,
        workdir=workdir,
    )


def run(config: VisionConfig) -> str:
    """Trains, and returns what was printed."""
    console = rich.console.Console(file=io.StringIO(), width=200)
    with Preemption() as preemption:
        run_to_end(config, preemption, console, IMAGE_CLASSIFICATION)
    return console.file.getvalue()  # type: ignore[attr-defined]


def without_speed(workdir: pathlib.Path) -> list[dict[str, float]]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "train/images_per_second"} for line in lines]


def saved(workdir: pathlib.Path) -> list[np.ndarray]:
    with ocp.StandardCheckpointer() as checkpointer:
        step = workdir.resolve() / "checkpoints" / str(STEPS)
        return [
            np.asarray(leaf)
            for item in ("params", "opt_state")
            for leaf in jax.tree.leaves(checkpointer.restore(step / item))
        ]


def test_command_line() -> None:
    config = from_command_line(["imagenet", "--optimizer.method", "uniform", "--model.num-layers", "2"])
    preset = PRESETS["imagenet"].config
    assert (config.model.num_layers, config.optimizer.method) == (2, "uniform")
    assert config.data.dir == pathlib.Path("~/tensorflow_datasets").expanduser()
    # 1,281,167 images to train on and 120 epochs.
    assert preset.steps == round(120 * 1_281_167 / preset.batch_size)


@pytest.mark.slow
def test_broken_run_ends_as_an_unbroken_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, unbroken = small(tmp_path / "broken"), small(tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        terminate_at_11 = after(metrics.MetricsLog.write, terminate, lambda log, step, values: step == 11)
        patch.setattr(metrics.MetricsLog, "write", terminate_at_11)
        with pytest.raises(Preempted):
            run(broken)
    assert re.search("Going on from step 1[12]:", run(broken))

    # The command does the same, and ends with a report.
    command = (
        f"digits --model.num-layers 1 --optimizer.method adadecay --optimizer.refresh-every 8 --steps {STEPS} "
        f"--log-every 1 --eval-every 10 --checkpoint-every {STEPS}"
    ).split()
    assert train_vit.main([*command, "--workdir", str(unbroken.workdir)]) == 0
    output = capsys.readouterr().out
    assert f"{STEPS} steps of 64 images | adadecay (adam)" in output
    assert all(f"layers/{name}/kernel/0" in output for name in ("self_attn/q_proj", "mlp/down_proj"))
    final = re.search(r"validation accuracy ([\d.]+)% \(loss ([\d.]+) nats\) on 500 images\n$", output)
    assert final

    lines = without_speed(unbroken.workdir)
    assert lines == without_speed(broken.workdir)
    for ours, theirs in zip(saved(broken.workdir), saved(unbroken.workdir), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    assert [line["step"] for line in lines if "train/gradient_norm" in line] == list(range(1, STEPS + 1))
    score = "alphadecay/score/layers/self_attn/v_proj/kernel/0"
    assert [line["step"] for line in lines if score in line] == [1, 8, 16]
    validations = [line for line in lines if "validation/loss" in line]
    assert [(line["step"], line["validation/examples"]) for line in validations] == [(10, 500), (20, 500)]
    last = validations[-1]
    assert last["validation/accuracy"] * 100 == pytest.approx(float(final[1]), abs=0.005)
    assert last["validation/loss"] == pytest.approx(float(final[2]), abs=5e-5)
    assert (last["validation/accuracy"] * 500) % 1 == pytest.approx(0, abs=1e-9)
    assert lines[0]["train/loss"] == pytest.approx(np.log(10), abs=0.5)


def test_bad_numbers_stop_the_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_bad_step(*args: object) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
        bad = {"train/loss": jnp.array(1.0), "train/gradient_norm": jnp.array(jnp.nan)}
        return lambda state, batch: (state, bad)

    monkeypatch.setattr(loop, "compile_train_step", compile_bad_step)
    with pytest.raises(Diverged, match=r"train/gradient_norm is nan at step 1\..*lower the learning rate"):
        run(small(tmp_path))


def test_photographs_of_tfds_are_trained_on(tmp_path: pathlib.Path) -> None:
    small_imagenet.write(tmp_path / "data")
    data = ImageConfig("imagenet2012:5.1.0", tmp_path / "data")
    config = dataclasses.replace(small(tmp_path / "run"), data=data)
    run(config)
    last = read_metrics(config.workdir / "metrics.jsonl")[-1]
    assert last["validation/examples"] == small_imagenet.SIZES["validation"]
    with pytest.raises(FileNotFoundError, match="no train split of imagenet2012"):
        run(dataclasses.replace(config, data=dataclasses.replace(data, dir=tmp_path)))
