"""The presets and the command line."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import pathlib
import re
from typing import Any

import jax
import pytest
from flax import nnx

from experiments import vision_config
from experiments.config import Config, ModelConfig
from experiments.methods import Uniform
from experiments.models.common import num_parameters
from experiments.models.llama import Llama
from experiments.presets import PRESETS, from_command_line

# Of the paper: parameters in the size's name, tokens, learning rate.
PAPER = {
    "60m": (60e6, 1e9, 1e-3),
    "135m": (135e6, 2e9, 1e-3),
    "350m": (350e6, 6e9, 1e-3),
    "1b": (1.3e9, 9e9, 6e-4),
}


@pytest.mark.parametrize("name", PAPER)
def test_presets_are_the_papers_runs(name: str) -> None:
    config = PRESETS[name].config
    parameters, tokens, learning_rate = PAPER[name]
    model = nnx.eval_shape(lambda: Llama(config.model, rngs=nnx.Rngs(0)))
    assert num_parameters(nnx.state(model)) == pytest.approx(parameters, rel=0.1)
    # Up to 30% more than the paper's round numbers.
    assert 1 <= config.steps * config.batch_size * config.data.sequence_length / tokens < 1.35
    assert config.optimizer.learning_rate == learning_rate
    assert config.data.eval_tokens == 10_000_000
    assert (config.optimizer.method, config.optimizer.coupling) == ("alphadecay", "adam")


def test_nano_is_small_and_float32() -> None:
    description, config = PRESETS["nano"]
    model = nnx.eval_shape(lambda: Llama(config.model, rngs=nnx.Rngs(0)))
    millions = num_parameters(nnx.state(model)) / 1e6
    assert description.startswith(f"{millions:.1f}M parameters")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model)) if leaf.ndim} == {jax.numpy.dtype("float32")}


def test_options_change_the_preset_and_nothing_else() -> None:
    options = [
        "--model.num-layers",
        "2",
        "--optimizer.scale-range",
        "0.5",
        "2",
        "--data.dir",
        "elsewhere",
        "--wandb",
    ]
    config, preset = from_command_line(["nano", *options]), PRESETS["nano"].config
    assert config.model == dataclasses.replace(preset.model, num_layers=2)
    assert config.optimizer == dataclasses.replace(preset.optimizer, scale_range=(0.5, 2.0))
    assert config.data == dataclasses.replace(preset.data, dir=pathlib.Path("elsewhere"))
    assert config == dataclasses.replace(
        preset, model=config.model, optimizer=config.optimizer, data=config.data, wandb=True
    )


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        from_command_line(["nano", "--help"])
    words = "".join(char for char in capsys.readouterr().out if char not in "│ \n")
    config = PRESETS["nano"].config
    parts: dict[str, Any] = {"": config, "model.": config.model, "data.": config.data}
    parts["optimizer."] = config.optimizer
    for prefix, part in parts.items():
        for field in dataclasses.fields(part):
            if not dataclasses.is_dataclass(getattr(part, field.name)):
                assert f"--{prefix}{field.name.replace('_', '-')}" in words
    assert "Recomputeeachblockinthebackwardpass" in words


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nana"],
        ["nano", "--optimizer.method", "magic"],
        ["nano", "--speed", "9"],
        ["nano", "--optimizer.method", "uniform", "--optimizer.scale-range", "1", "2"],
        ["nano", "--optimizer.assign", "sqrt", "--optimizer.reverse"],
    ],
)
def test_mistakes_on_the_command_line_end_it(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        from_command_line(args)
    assert capsys.readouterr().err


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["nano"].config.steps = 3
    model = ModelConfig(128, 344, 4, 4, vocab_size=1024, compute_dtype="float32")
    assert hash(PRESETS["nano"].config.model) == hash(model)
    assert isinstance(PRESETS["nano"].config, Config)


def test_home_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = from_command_line(["60m", "--workdir=~/runs/a", "--data.tokenizer", "~/a.model"])
    assert config.workdir == pathlib.Path("/home/someone/runs/a")
    assert config.data.tokenizer == pathlib.Path("/home/someone/a.model")
    assert config.data.dir == pathlib.Path("/home/someone/tensorflow_datasets")


def test_another_method_keeps_what_both_have() -> None:
    config = from_command_line(["nano", "--optimizer.method=uniform", "--optimizer.weight-decay", "0.5"])
    assert config.optimizer == Uniform(learning_rate=3e-3, weight_decay=0.5)
    assert "--optimizer.refresh-every" not in str(config)


def test_presets_say_their_command_cost_and_score() -> None:
    for presets in (PRESETS, vision_config.PRESETS):
        for name, preset in presets.items():
            first, facts = preset.about.splitlines()
            assert first.endswith(".")
            assert re.fullmatch(rf"Command: python -m experiments\.train(_vit)? {name}\. Cost: .*\. Score: .*\.", facts)
