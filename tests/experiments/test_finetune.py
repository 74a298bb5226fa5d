"""Fine-tuning: it begins with the base's weights, learns, survives a kill bit for bit, and names what does not fit."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from sklearn.linear_model import LogisticRegression

from experiments import finetune
from experiments.data.labelled import Example, LabelledText, load
from experiments.data.vocabulary import train_tokenizer
from experiments.finetune_config import ClassifierConfig
from experiments.finetuning import bag_of_words
from experiments.finetuning.base import read_base
from experiments.models.classifier import Classifier, last_token_states
from experiments.models.llama import Llama
from experiments.training.metrics import read_metrics
from tests.experiments.experiment_fixtures import FinishedRun

STEPS = 12
RECIPE = ["--steps", str(STEPS), "--batch-size", "8", "--sequence-length", "16", "--learning-rate", "3e-3"]
KILLED_RUN = """
import os, signal, sys
from experiments import finetune
from experiments.training import metrics

write = metrics.MetricsLog.write

def write_or_die(log, step, values):
    write(log, step, values)
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)

metrics.MetricsLog.write = write_or_die
finetune.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def opinions(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A task that one word decides: 40 texts to train on, 16 to validate on, 16 to test on."""
    folder = tmp_path_factory.mktemp("tasks") / "opinions"
    folder.mkdir()
    for split, number in {"train": 40, "validation": 16, "test": 16}.items():
        rows = [{"text": f"{split} {n}: a {'good' if n % 2 else 'bad'} law", "label": n % 2} for n in range(number)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def arrays_of(workdir: pathlib.Path, item: str) -> list[np.ndarray]:
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(workdir / "checkpoints" / str(STEPS) / item)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def without_speed(workdir: pathlib.Path) -> list[dict[str, float]]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if "per_second" not in name} for line in lines]


def test_killed_run_ends_as_an_unbroken_one(
    finished_run: FinishedRun, opinions: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(finished_run.workdir), str(opinions), *RECIPE, "--workdir"]
    assert finetune.main([*command, str(tmp_path / "unbroken")]) == 0
    output = capsys.readouterr().out
    assert "opinions (0, 1): 40 train, 16 validation, 16 test texts; dropped" in output
    result = re.search(
        r"test accuracy ([\d.]+)% on 16 texts \(loss ([\d.]+) nats; majority class: 50.00%; "
        r"bag-of-words logistic regression: 100.00%\)\n$",
        output,
    )
    assert result, output
    lines = without_speed(tmp_path / "unbroken")
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == STEPS and losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert {"validation/loss", "validation/accuracy", "validation/seen_loss"} <= lines[-1].keys()
    assert lines[-1]["validation/examples"] == 16
    assert {path.name for path in (tmp_path / "unbroken/figures").iterdir()} == {"loss.png", "accuracy.png"}

    script = [sys.executable, "-c", KILLED_RUN, *command, str(tmp_path / "killed")]
    killed = subprocess.run(script, cwd=pathlib.Path(__file__).parents[2], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert finetune.main([*command, str(tmp_path / "killed")]) == 0
    assert "Going on from step" in capsys.readouterr().out
    for item in ("params", "opt_state"):
        for ours, theirs in zip(
            arrays_of(tmp_path / "killed", item), arrays_of(tmp_path / "unbroken", item), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert without_speed(tmp_path / "killed") == lines


def test_it_begins_with_the_weights_of_the_base(
    finished_run: FinishedRun, opinions: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    options = ["--steps", "1", "--learning-rate", "0", "--batch-size", "8", "--sequence-length", "16"]
    command = [str(finished_run.workdir), str(opinions), *options, "--workdir", str(tmp_path / "one")]
    assert finetune.main(command) == 0
    with ocp.StandardCheckpointer() as checkpointer:
        ours = checkpointer.restore(tmp_path / "one/checkpoints/1/params")
        base = checkpointer.restore(finished_run.workdir / "checkpoints/60/params")
    assert ours.keys() == base.keys() - {"lm_head"} | {"head"}
    for name in base.keys() - {"lm_head"}:
        for first, second in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(base[name]), strict=True):
            np.testing.assert_array_equal(first, second)
    assert ours["head"]["kernel"].shape == (64, 2) and not np.any(ours["head"]["bias"])
    # Another base in the same folder is refused.
    shutil.copytree(finished_run.workdir, tmp_path / "other")
    shutil.rmtree(tmp_path / "other/checkpoints/60")
    assert finetune.main([str(tmp_path / "other"), *command[1:]]) == 1


def test_language_modelling_goes_on_with_another_corpus(
    finished_run: FinishedRun, tiny_command: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tiny_command[tiny_command.index("--data.dir") + 1]
    options = [
        "--steps",
        "1",
        "--learning-rate",
        "0",
        "--batch-size",
        "16",
        "--sequence-length",
        "32",
        "--workdir",
        str(tmp_path),
    ]
    assert finetune.main([str(finished_run.workdir), f"corpus:{corpus}", *options]) == 0
    # On its own corpus it begins where pre-training ended.
    ended = re.search(r"validation perplexity ([\d.]+) ", finished_run.output)
    began = re.search(r"validation perplexity ([\d.]+) ", capsys.readouterr().out)
    assert ended and began and began[1] == ended[1]


def small(num_labels: int = 3) -> ClassifierConfig:
    return ClassifierConfig(
        16, 24, 2, 2, vocab_size=40, compute_dtype="float32", init_stddev=0.3, num_labels=num_labels
    )


def test_a_label_is_read_off_the_last_token() -> None:
    model = Classifier(small(), rngs=nnx.Rngs(0))
    tokens = jax.random.randint(jax.random.key(1), (4, 10), 0, 40)
    lengths = jnp.array([10, 7, 1, 4])
    found = np.asarray(model.classify(tokens, lengths))
    states = np.asarray(last_token_states(model, tokens, lengths))
    assert states.shape == (3, 4, 16)
    # The LLaMA of the same weights, whose head for tokens is the head for labels, on each text alone.
    llama = Llama(small(), rngs=nnx.Rngs(0))
    llama.lm_head.kernel = nnx.Param(model.head.kernel[...])
    for row, length in enumerate(lengths.tolist()):
        alone = tokens[row : row + 1, :length]
        np.testing.assert_allclose(found[row], np.asarray(llama(alone))[0, -1], rtol=2e-5, atol=2e-6)
        x_BxLxD = llama.embed_tokens(alone)
        np.testing.assert_array_equal(states[0, row], x_BxLxD[0, -1])
        np.testing.assert_allclose(states[-1, row], llama.run_blocks(alone)[0][0, -1], rtol=2e-5, atol=2e-6)


def test_baselines_are_those_of_scikit_learn() -> None:
    def examples(split: str, number: int) -> list[Example]:
        return [Example(f"{split}{n} {'yes' if n % 3 else 'no'} indeed", int(n % 3 > 0), "x") for n in range(number)]

    task = LabelledText(("no", "yes"), {"train": examples("a", 60), "validation": examples("b", 30)}, {})
    found = bag_of_words.measure(task)
    assert found.majority == pytest.approx(2 / 3) and found.bag_of_words == 1.0
    # Of one feature that decides, at the chosen penalty or a weaker one, the loss is far below that of a constant.
    constant = LogisticRegression().fit(np.zeros((60, 1)), [each.label for each in task.splits["train"]])
    nats = -np.log(constant.predict_proba(np.zeros((1, 1)))[0])
    assert found.bag_of_words_loss < 0.7 * (nats[0] / 3 + nats[1] * 2 / 3)


def test_what_does_not_fit_is_told_in_a_line(
    finished_run: FinishedRun, opinions: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error_of(*command: object) -> str:
        assert finetune.main([*map(str, command), "--workdir", str(tmp_path / "none")]) == 1
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and len(printed.splitlines()) == 1
        return printed

    assert "there is no run in" in error_of(tmp_path / "nothing", opinions)
    copy = tmp_path / "copy"
    shutil.copytree(finished_run.workdir, copy)
    settings = json.loads((copy / "config.json").read_text())
    vision = {**settings, "model": {"hidden_size": 64, "patch_size": 2, "num_classes": 10}}
    (copy / "config.json").write_text(json.dumps(vision))
    assert "another architecture" in (error := error_of(copy, opinions)) and "patch_size" in error
    larger = {**settings, "model": {**settings["model"], "vocab_size": 513}}
    (copy / "config.json").write_text(json.dumps(larger))
    assert "is another vocabulary than that of the run" in (error := error_of(copy, opinions)) and "512 pieces" in error
    (copy / "config.json").write_text(json.dumps(settings))
    assert "no tokenizer at" in error_of(copy, opinions, "--tokenizer", tmp_path / "no.model")
    words = np.random.default_rng(0).choice(list("abcdefgh"), (200, 9))
    train_tokenizer(map("".join, words), 512, tmp_path / "b.model")
    error = error_of(copy, opinions, "--tokenizer", tmp_path / "b.model")
    assert "b.model is another vocabulary than that of the run" in error and "of the same size" in error
    missing = error_of(copy, "./no-such-folder")
    assert "there is no folder" in missing and "train.jsonl" in missing and "`label`" in missing
    assert "there is no folder" in (error := error_of(copy, "corpus:no-such-folder")) and "experiments.corpus" in error
    assert "no train split of glue/sst2" in error_of(copy, "glue/sst2", "--data-dir", tmp_path)
    for task in ("half-centry", "", "half century", "a:b:c"):
        assert f"there is no task {task!r}: give party or half-century" in error_of(copy, task)
    for broken in ("[]", "{", '{"model": {}, "data": {}}', '{"model": [], "data": {"dir": "", "tokenizer": ""}}', "1"):
        (copy / "config.json").write_text(broken)
        assert "is not the config.json of a run" in error_of(copy, opinions)
    (copy / "config.json").write_text(json.dumps(settings))
    shutil.rmtree(copy / "checkpoints")
    assert "has no intact checkpoint" in error_of(copy, opinions)
    assert not (tmp_path / "none").exists()


def test_a_run_keeps_its_vocabulary(
    finished_run: FinishedRun, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished_run.workdir, copy)
    settings = json.loads((copy / "config.json").read_text())
    recorded = pathlib.Path(settings["data"]["tokenizer"])
    assert read_base(copy).data.tokenizer == recorded
    settings["data"]["tokenizer"] = str(tmp_path / "gone.model")
    (copy / "config.json").write_text(json.dumps(settings))
    assert read_base(copy).data.tokenizer == copy / "tokenizer.model"
    assert (copy / "tokenizer.model").read_bytes() == recorded.read_bytes()
    read_base(copy, recorded)
    assert not capsys.readouterr().err
    (copy / "tokenizer.model").unlink()  # as in runs of earlier versions, where the number of pieces alone is known
    read_base(copy, recorded)
    assert "only its number of pieces was checked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("--epochs", "0", "1"), ("--steps", "-5", "0"), ("--batch-size", "0", "1"), ("--sequence-length", "1", "2"),
     ("--seed", "-1", "0"), ("--seed", str(2**70), "2**32"), ("--learning-rate", "nan", "0"),
     ("--learning-rate", "inf", "0"), ("--learning-rate", "-1", "0")],
)  # fmt: skip
def test_options_out_of_range_are_named(
    option: str, value: str, least: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main([str(tmp_path), option, value]) == 1
    said = capsys.readouterr().err
    shown = f"{float(value):g}" if option == "--learning-rate" else value
    assert said.startswith(f"error: {option} {shown}: give ") and least in said and said.count("\n") == 1


def test_a_run_does_not_go_on_with_other_texts(
    finished_run: FinishedRun, opinions: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = shutil.copytree(opinions, tmp_path / "task")
    options = ["--steps", "1", "--batch-size", "8", "--sequence-length", "16", "--workdir", str(tmp_path / "run")]
    command = [str(finished_run.workdir), str(task), *options]
    assert finetune.main(command) == 0
    (task / "README.txt").write_text("Of no split.")
    capsys.readouterr()
    load.cache_clear()
    assert finetune.main(command) == 0
    output = capsys.readouterr().out
    assert "Finished before" in output and "README.txt" in output.splitlines()[1]
    lines = (task / "train.jsonl").read_text().splitlines()
    (task / "train.jsonl").write_text("\n".join(reversed(lines)))
    load.cache_clear()
    assert finetune.main(command) == 1
    assert "data.digest" in capsys.readouterr().err
    saved = tmp_path / "run" / "config.json"
    older = json.loads(saved.read_text())
    del older["data"]["digest"]
    saved.write_text(json.dumps(older))
    assert finetune.main(command) == 0, "a run that has noted none goes on"


def test_texts_without_words_have_a_baseline() -> None:
    splits = {
        split: [Example("a b c" if n % 2 else "d e f", n % 2, "x") for n in range(8)]
        for split in ("train", "validation")
    }
    assert bag_of_words.measure(LabelledText(("no", "yes"), splits, {})).bag_of_words == 1.0
