"""Perplexities are exact: the same as NumPy's, whatever the batches."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import nnx

from experiments import evaluate
from experiments.config import ModelConfig
from experiments.models.llama import Llama
from experiments.parallel.sharding import make_mesh
from experiments.presets import PRESETS
from experiments.training import language_modeling
from tests.experiments.experiment_fixtures import STEPS, FinishedRun

VOCAB_SIZE = 40
ONE_DEVICE = make_mesh(PRESETS["nano"].config)


@pytest.fixture
def tokens_BxL() -> np.ndarray:
    return np.random.default_rng(0).integers(VOCAB_SIZE, size=(6, 12), dtype=np.int32)


def batched(tokens: np.ndarray, size: int, real: int) -> list[tuple[np.ndarray, np.ndarray]]:
    mask = (np.arange(tokens.size) < real).reshape(tokens.shape)
    return [(tokens[i : i + size], mask[i : i + size]) for i in range(0, len(tokens), size)]


@pytest.mark.parametrize("real", [72, 65])
def test_loss_is_the_mean_over_all_tokens(tokens_BxL: np.ndarray, real: int) -> None:
    config = ModelConfig(16, 24, 2, 1, vocab_size=VOCAB_SIZE, compute_dtype="float32", init_stddev=0.3)
    model = Llama(config, rngs=nnx.Rngs(0))
    log_probabilities = scipy.special.log_softmax(np.asarray(model(jnp.asarray(tokens_BxL)), np.float64), axis=-1)
    flat = [
        -log_probabilities[b, position - 1, tokens_BxL[b, position]]
        for b in range(6)
        for position in range(1, 12)
        if b * 12 + position < real
    ]
    for size in (2, 3, 6):
        found = language_modeling.evaluate(*nnx.split(model), batched(tokens_BxL, size, real), ONE_DEVICE)
        assert found.tokens == len(flat)
        assert found.loss == pytest.approx(np.mean(flat), rel=1e-6)
        assert found.perplexity == pytest.approx(np.exp(np.mean(flat)), rel=1e-5)


def test_unigram_by_hand() -> None:
    # Predicted are 1, 1 and 2; the 0 in front and the masked 3 are not.
    batches = [(np.array([[0, 1, 1, 2, 3]]), np.array([[True, True, True, True, False]]))]
    found = language_modeling.unigram(np.array([5, 2, 0, 9]), batches)
    assert found.tokens == 3
    assert found.perplexity == pytest.approx(((3 / 20) * (3 / 20) * (1 / 20)) ** (-1 / 3))
    assert language_modeling.unigram(np.zeros(4, np.int64), batches).perplexity == pytest.approx(4)
    smoothed = language_modeling.unigram(np.array([5, 2, 0, 9]), batches, smoothing=1e-6)
    assert smoothed.perplexity > found.perplexity


def test_unigram_predicts_what_the_model_predicts(tokens_BxL: np.ndarray) -> None:
    batches = batched(tokens_BxL, 2, 65)
    model = Llama(ModelConfig(16, 24, 2, 1, vocab_size=VOCAB_SIZE, compute_dtype="float32"), rngs=nnx.Rngs(0))
    unigram = language_modeling.unigram(np.ones(VOCAB_SIZE, np.int64), batches)
    assert language_modeling.evaluate(*nnx.split(model), batches, ONE_DEVICE).tokens == unigram.tokens


def test_perplexity_of_a_diverged_model_is_infinite() -> None:
    assert language_modeling.Validation(1e4, 1).perplexity == np.inf


def test_command_repeats_the_verdict_of_training(finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(finished_run.command) == 0
    found = capsys.readouterr().out
    (verdict,) = re.findall("^validation perplexity .*", finished_run.output, re.MULTILINE)
    # Restored parameters are the same bits, and so is their loss.
    assert found == f"step {STEPS}: {verdict}\n"


def test_command_explains_what_is_wrong(
    finished_run: FinishedRun, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([*finished_run.command, "--workdir", str(tmp_path / "none")]) == 1
    assert "no complete checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert evaluate.main([*finished_run.command, "--model.num-layers", "3"]) == 1
    assert "model.num_layers: 2 there, 3 now" in capsys.readouterr().err
