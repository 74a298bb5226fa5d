"""Probes and ranks against scikit-learn and NumPy in float64, on random and on constructed cases."""
# SPDX-License-Identifier: Apache-2.0

import json
import pathlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments import probe as program
from experiments.finetuning import probing
from experiments.finetuning.ranks import PRODUCTS, SHARE, Ranks, head_ranks, product_singular_values, ranks
from experiments.training.metrics import read_metrics
from experiments.training.task import weight_sizes
from tests.experiments.experiment_fixtures import FinishedRun

rng = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(12, 5), (5, 5), (30, 8)])
def test_ranks_of_products_are_numpys(shape: tuple[int, int]) -> None:
    left, right = rng.normal(size=shape), rng.normal(size=(7 + shape[0], shape[1]))
    whole = np.linalg.svd(left @ right.T, compute_uv=False)
    values = product_singular_values(left, right)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, whole[: shape[1]], rtol=1e-12)
    found = ranks(values)
    assert found.stable == pytest.approx(np.linalg.norm(left @ right.T) ** 2 / np.linalg.norm(left @ right.T, 2) ** 2)
    shares = values / values.sum()
    assert found.entropy == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    needed = next(k for k in range(1, len(values) + 1) if sum(sorted(shares)[-k:]) >= SHARE)
    assert found.pseudo == needed / shape[1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.ones(20), Ranks(0.95, 20, 20)),
        (np.ones(8), Ranks(1, 8, 8)),
        (np.array([3.0, 0, 0, 0]), Ranks(0.25, 1, 1)),
        (np.array([0.0, 2.0, 0.0, 2.0]), Ranks(0.5, 2, 2)),
        (
            np.array([0.95, 0.05]),
            Ranks(0.5, 1 + (0.05 / 0.95) ** 2, np.exp(-0.95 * np.log(0.95) - 0.05 * np.log(0.05))),
        ),
        (np.zeros(3), Ranks(0, 0, 0)),
        (np.array([1e-200, 1e-200]), Ranks(1, 2, 2)),
    ],
)
def test_ranks_of_constructed_spectra(values: np.ndarray, expected: Ranks) -> None:
    assert ranks(values) == pytest.approx(expected)
    assert ranks(1e3 * values) == pytest.approx(expected)


def test_a_matrix_that_is_not_finite_has_no_rank() -> None:
    assert np.isnan(ranks(product_singular_values(np.full((4, 2), np.nan), np.ones((4, 2))))).all()


def test_heads_are_those_of_the_network() -> None:
    """Of each head, the score is `x W_Q W_K^T y` at distance 0, and the output `x W_V W_O`."""
    blocks, heads, width, head_width = 2, 3, 12, 4
    kernels = {name: rng.normal(size=(blocks, width, width)) for pair in PRODUCTS.values() for name in pair}
    # One head of one block is made to use a single dimension in each product.
    one = slice(head_width, 2 * head_width)
    kernels["q_proj"][1][:, one] = np.outer(rng.normal(size=width), rng.normal(size=head_width))
    kernels["o_proj"][0][one] = np.outer(rng.normal(size=head_width), rng.normal(size=width))
    params = {"layers": {"self_attn": {name: {"kernel": kernel} for name, kernel in kernels.items()}}}
    found = head_ranks(params, heads)
    for (product, (first, second)), block, head in zip(PRODUCTS.items(), (1, 0), (1, 1), strict=True):
        assert found[product][block][head] == pytest.approx(Ranks(1 / head_width, 1, 1))
        assert [[each.stable > 1.2 for each in row] for row in found[product]] == [
            [(b, h) != (block, head) for h in range(heads)] for b in range(blocks)
        ]
        part = slice(0, head_width)
        left = kernels[first][1][:, part]
        right = kernels[second][1][part] if product == "W_V W_O" else kernels[second][1][:, part].T
        if product == "W_V W_O":
            whole = np.linalg.svd(left @ right, compute_uv=False)[:head_width]
            assert found[product][1][0] == pytest.approx(ranks(whole))


def test_probe_is_scikit_learns_with_the_penalty_chosen_on_validation() -> None:
    labels = {
        split: rng.integers(0, 3, size=size) for split, size in {"train": 90, "validation": 60, "test": 50}.items()
    }
    means = rng.normal(size=(3, 10))
    states = {split: means[found] + 1.5 * rng.normal(size=(len(found), 10)) for split, found in labels.items()}
    found = probing.probe(states, labels, "test", layer=2)
    folds = PredefinedSplit(np.repeat([-1, 0], [90, 60]))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": probing.INVERSE_PENALTIES},
        scoring="neg_log_loss",
        cv=folds,
        refit=False,
    ).fit(*(np.concatenate([part["train"], part["validation"]]) for part in (states, labels)))
    assert found.inverse_penalty == search.best_params_["logisticregression__C"]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=found.inverse_penalty, max_iter=2000))
    model.fit(states["train"], labels["train"])
    assert found.accuracy == pytest.approx(model.score(states["test"], labels["test"]))
    assert found.train_accuracy == pytest.approx(model.score(states["train"], labels["train"]))
    chosen = model.predict_proba(states["test"])[np.arange(50), labels["test"]]
    assert found.loss == pytest.approx(-np.log(chosen).mean(), rel=1e-6)


@pytest.fixture
def opinions(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "opinions"
    folder.mkdir()
    for split in ("train", "validation"):
        rows = [{"text": f"{n} {'good good' if n % 2 else 'bad'} {split}", "label": n % 2} for n in range(30)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_probe_that_cannot_be_written_is_shown_all_the_same(
    finished_run: FinishedRun, opinions: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = opinions / "train.jsonl" / "out"
    assert program.main([str(finished_run.workdir), str(opinions), "--sequence-length", "16", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert "block  1/penalty   train  validation  nats" in printed.out
    assert printed.err == f"error: the probe could not be written to {out}: Not a directory\n"


def test_command_reads_what_a_run_holds(
    finished_run: FinishedRun, opinions: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(finished_run.workdir), str(opinions), "--sequence-length", "16", "--out", str(tmp_path / "out")]
    assert program.main(command) == 0
    printed = capsys.readouterr().out
    assert "nats are of the validation split, where the majority class has 50.00%" in printed
    assert "block  1/penalty   train  validation  nats" in printed.splitlines()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "norms.png",
        "probe.json",
        "probes.png",
        "ranks.png",
    }
    found = json.loads((tmp_path / "out/probe.json").read_text())
    assert [each["layer"] for each in found["probes"]] == [0, 1, 2]
    # The embedding of the end mark is the same for all texts: nothing can be read off it.
    assert found["probes"][0]["accuracy"] == 0.5
    assert max(each["accuracy"] for each in found["probes"]) > 0.8
    assert {product: (len(blocks), len(blocks[0])) for product, blocks in found["ranks"].items()} == {
        "W_Q W_K^T": (2, 2), "W_V W_O": (2, 2)
    }  # fmt: skip
    assert program.main(command) == 0, "the same may be measured again"
    capsys.readouterr()
    command[3] = "12"
    assert program.main(command) == 1
    said = capsys.readouterr().err
    assert "has the probe of other settings (sequence_length was 16, is 12): pass another --out" in said
    assert json.loads((tmp_path / "out/probe.json").read_text()) == found
    (tmp_path / "out/probe.json").write_text('{"settings": {')
    assert program.main(command) == 1
    assert "probe.json does not tell its settings: remove it" in capsys.readouterr().err
    command[3] = "1"
    assert program.main(command) == 1
    assert "error: --sequence-length 1: " in capsys.readouterr().err
    assert program.main([str(tmp_path / "none"), str(opinions)]) == 1
    assert "there is no run in" in capsys.readouterr().err


def test_sizes_of_weights_are_logged_at_every_validation(finished_run: FinishedRun) -> None:
    lines = [line for line in read_metrics(finished_run.workdir / "metrics.jsonl") if "validation/loss" in line]
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all({f"norm/{kind}" for kind in kinds} <= line.keys() for line in lines) and len(lines) == 2
    kernel = rng.normal(size=(2, 6, 4)).astype(np.float32)
    sizes = weight_sizes({"layers": {"mlp": {"up_proj": {"kernel": kernel}}, "norm": {"scale": kernel[0, 0]}}})
    assert sizes.keys() == {"up_proj"}
    assert float(sizes["up_proj"]) == pytest.approx(np.sqrt(np.mean(np.float64(kernel) ** 2)))
