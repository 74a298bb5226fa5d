"""A small run from the command line to its figures, and how runs go wrong."""
# SPDX-License-Identifier: Apache-2.0

import io
import itertools
import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import PIL.Image
import pytest
import rich.console
from flax import nnx

from experiments import train
from experiments.config import ModelConfig
from experiments.models.llama import Llama, next_token_loss
from experiments.presets import from_command_line
from experiments.training.loop import after_step
from experiments.training.metrics import MetricsLog, read_metrics
from experiments.training.preemption import Preemption
from experiments.training.progress import Progress, duration
from experiments.training.step import TrainState, make_train_step
from tests.experiments.experiment_fixtures import STEPS, FinishedRun

TINY = ModelConfig(32, 48, 2, 1, vocab_size=64, compute_dtype="float32")


def test_run_beats_unigrams_and_says_where_everything_is(finished_run: FinishedRun) -> None:
    verdict = r"validation perplexity ([\d.]+) \(loss [\d.]+ nats; unigram model of the same corpus: ([\d.]+)\)"
    found = re.search(verdict, finished_run.output)
    assert found, finished_run.output
    ours, unigram = map(float, found.groups())
    assert 1 < ours < unigram < 512

    for module in ("self_attn/q_proj", "self_attn/o_proj", "mlp/gate_proj", "mlp/down_proj"):
        assert f"layers/{module}/kernel/1" in finished_run.output
    assert f"{finished_run.workdir}/checkpoints/{STEPS}\n" in finished_run.output
    assert f"{finished_run.workdir}/metrics.jsonl\n" in finished_run.output
    assert list((finished_run.workdir / "tensorboard").glob("events.out.tfevents.*"))
    figures = re.findall(r"figure +(\S+)", finished_run.output)
    assert {pathlib.Path(figure).name for figure in figures} == {
        "loss.png",
        "alpha.png",
        "decay.png",
        "spectra.png",
        "norms.png",
    }
    for figure in figures:
        with PIL.Image.open(figure) as image:
            assert min(image.size) > 400


def test_rates_of_modules_are_told_and_logged_and_are_no_decays(
    tiny_command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--optimizer.method", "llr", "--optimizer.refresh-every", "2", "--steps", "2"]
    assert not train.main([*tiny_command, *options, "--workdir", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "layers/mlp/up_proj/kernel/1" in shown and "The ratio is of the learning rate." in shown
    assert not (tmp_path / "figures/decay.png").exists()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "alphadecay/score/layers/mlp/up_proj/kernel/1" in line] == [1, 2]


def test_metrics_are_complete(finished_run: FinishedRun) -> None:
    metrics = read_metrics(finished_run.workdir / "metrics.jsonl")
    steps = {
        name: [line["step"] for line in metrics if name in line]
        for name in ("train/loss", "validation/perplexity", "alphadecay/score/layers/mlp/up_proj/kernel/1")
    }
    assert list(steps.values()) == [list(range(1, STEPS + 1)), [30, 60], [1, 10, 20, 30, 40, 50, 60]]
    assert [line["step"] for line in metrics if "norms/mean/weight_l2" in line] == [1, 20, 40, 60]
    ratios = [value for name, value in metrics[-1].items() if name.startswith("alphadecay/ratio/")]
    assert not ratios, "the last line is the last validation"
    first = next(line for line in metrics if "train/loss" in line)
    assert first["train/loss"] == pytest.approx(np.log(512), abs=0.3)
    assert first["train/learning_rate"] == 0


def test_norms_are_of_the_weights_before_the_step(finished_run: FinishedRun) -> None:
    """Against float64, on the weights of a checkpoint; the step after it measures them."""
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        params = checkpointer.restore(finished_run.workdir / "checkpoints" / str(STEPS) / "params")
    lines = [line for line in read_metrics(finished_run.workdir / "metrics.jsonl") if "norms/mean/weight_l2" in line]
    kernel = np.asarray(params["layers"]["mlp"]["up_proj"]["kernel"][1], np.float64)
    name = "layers/mlp/up_proj/kernel/1"
    # The last measurement is of the weights that step 60 has moved.
    assert lines[-1][f"norms/weight_l2/{name}"] == pytest.approx(np.linalg.norm(kernel), rel=1e-2)
    assert lines[-1][f"norms/weight_spectral/{name}"] == pytest.approx(np.linalg.norm(kernel, 2), rel=1e-2)
    gradients = [lines[-1][key] for key in lines[-1] if key.startswith("norms/gradient_l2/")]
    assert len(gradients) == 14
    geometric = np.exp(np.mean(np.log(gradients)))
    assert lines[-1]["norms/mean/gradient_l2"] == pytest.approx(geometric, rel=1e-5)
    (logged,) = [line["train/gradient_norm"] for line in read_metrics(finished_run.workdir / "metrics.jsonl")
                 if line["step"] == 60 and "train/gradient_norm" in line]  # fmt: skip
    assert np.linalg.norm(gradients) < logged, "the blocks' part of the whole gradient's norm"


def test_pieces_of_a_batch_make_the_step_of_the_whole() -> None:
    graphdef, weights = nnx.split(Llama(TINY, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(weights)
    optimizer = optax.sgd(0.5)
    tokens_BxL = jax.random.randint(jax.random.key(1), (8, 16), 0, 64)
    loss, gradients = jax.jit(
        jax.value_and_grad(lambda params: next_token_loss(nnx.merge(graphdef, params), tokens_BxL))
    )(params)
    expected = jax.tree.map(lambda weight, gradient: weight - 0.5 * gradient, params, gradients)
    state = TrainState(params, optimizer.init(params))
    new, metrics = make_train_step(graphdef, optimizer, Llama.spec_of)(state, tokens_BxL.reshape(4, 2, 16))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), new.params, expected)
    squares = sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(gradients))
    assert metrics["train/gradient_norm"] == pytest.approx(squares**0.5, rel=1e-5)
    assert metrics["train/loss"] == pytest.approx(float(loss), rel=1e-6)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params)), "the state is donated"


def test_bad_loss_stops_the_run(
    tiny_command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ["--optimizer.learning-rate", "1e30", "--checkpoint-every", "1", "--workdir", str(tmp_path)]
    assert train.main([*tiny_command, *bad]) == 1
    output = capsys.readouterr().err
    found = re.search(r"error: train/\w+ is (nan|inf) at step (\d+)\. Last good checkpoint: (\S+)\. ", output)
    assert found, output
    step = int(found[2])
    assert found[3] == f"{tmp_path}/checkpoints/{step - 2}", "step - 1 left the parameters that failed"
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {str(step - 2), str(step - 1)}
    assert all(np.isfinite(value) for line in read_metrics(tmp_path / "metrics.jsonl") for value in line.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--accumulate", "3"], "batch_size=16 cannot be cut into accumulate=3 equal pieces"),
        (["--steps", "0"], "steps=0 must be at least 1"),
        (["--model.vocab-size", "500"], "pass --model.vocab-size 512"),
        (["--data.dir", "nowhere"], "nowhere"),
        (["--wandb"], "pip install wandb"),
    ],
)
def test_bad_settings_are_explained(
    options: list[str],
    message: str,
    tiny_command: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train.main([*tiny_command, "--workdir", str(tmp_path / "run"), *options]) == 1
    output = capsys.readouterr().err
    assert output.startswith("error: ") and message in output
    assert not (tmp_path / "run").exists()


def test_what_follows_a_step_ends_with_the_checkpoint(tiny_command: list[str]) -> None:
    config = from_command_line([*tiny_command, "--eval-every", "20", "--checkpoint-every", "40"])
    due = {
        step: [action.__name__ for action in after_step(config, step, Preemption())] for step in (1, 5, 10, 20, 40, 60)
    }
    assert due == {
        1: ["log_modules"],
        5: [],
        10: ["log_modules"],
        20: ["log_modules", "validate"],
        40: ["log_modules", "validate", "save"],
        60: ["log_modules", "validate", "save"],
    }


def test_progress_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 6)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    console = rich.console.Console(file=io.StringIO(), width=200)
    with Progress(console, start=10, steps=20, tokens_per_step=600) as progress:
        for step in (11, 12, 13):
            progress.update(step, 1.5)
    # Six seconds a step: the second line is due after the fourth.
    assert console.file.getvalue() == "step 12/20 | loss 1.500 | 100 tokens/s | 0:48 left\n"  # type: ignore[attr-defined]


def test_durations() -> None:
    assert [duration(s) for s in (0, 5.4, 65, 600, 3599, 3600, 90_061)] == [
        "0:00",
        "0:05",
        "1:05",
        "10:00",
        "59:59",
        "1:00:00",
        "1 day, 1:01:01",
    ]


def test_wandb_gets_the_same_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    config = from_command_line(["nano", "--workdir", str(tmp_path), "--wandb"])
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **settings: run))
    with MetricsLog(config, start=0) as log:
        log.write(3, {"train/loss": 2.0})
    assert logged == [(3, {"train/loss": 2.0})]
