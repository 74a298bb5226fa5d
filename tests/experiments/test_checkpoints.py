"""Checkpoints come back as they were saved, newest first, and only to the run they belong to."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import json
import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_alphadecay as oad
from experiments.config import Config
from experiments.methods import with_settings
from experiments.presets import PRESETS
from experiments.training.checkpoints import Checkpoints, restore_params
from experiments.training.workdir import VOCABULARY, claim_workdir, find_run
from tests.experiments.runs import numbers, state_after


def test_newest_comes_back_bit_for_bit(tmp_path: pathlib.Path) -> None:
    batches = numbers()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        for step in (1, 2, 3):
            next(batches)
            checkpoints.save(step, *state_after(step), batches)
        assert checkpoints.latest() == tmp_path / "3"
        assert checkpoints.latest(below=3) == tmp_path / "2"
        assert checkpoints.latest(below=2) is None
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3"}, "the newest two are kept"

    fresh = numbers()
    # Shapes are enough: what a fresh state would hold is never allocated.
    params_and_state: tuple[Any, Any] = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_after(0)
    )
    with Checkpoints(tmp_path) as checkpoints:
        step, *restored = checkpoints.restore(*params_and_state, fresh) or pytest.fail("nothing restored")
    params_step, params = restore_params(tmp_path, state_after(0)[0])
    assert step == params_step == 3
    expected = state_after(3)
    assert str(jax.tree.structure(tuple(restored))) == str(jax.tree.structure(expected))
    for ours, theirs in zip(
        jax.tree.leaves((*restored, params)), jax.tree.leaves((*expected, expected[0])), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(next(fresh), next(batches))


def test_a_state_saved_by_version_0_1_of_the_library_comes_back(tmp_path: pathlib.Path) -> None:
    params = {"up": jnp.ones((4, 6)), "down": jnp.ones((6, 4))}
    optimizer = oad.adam(0.1, metric=oad.frobenius_norm(), modules=True)
    state = optimizer.init(params)
    before = (oad.state_v1(state[0])._replace(scores=jnp.array([0.0, 24.0])), *state[1:])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, params, before, numbers())
    with Checkpoints(tmp_path) as checkpoints:
        _, _, restored = checkpoints.restore(params, state, numbers()) or pytest.fail("nothing restored")
    assert str(jax.tree.structure(restored)) == str(jax.tree.structure(state))
    np.testing.assert_array_equal(restored[0].scores, [np.nan, 24])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="do not match"):
        checkpoints.restore(params, optax.sgd(0.1, momentum=0.9).init(params), numbers())


def test_without_checkpoint_nothing_is_restored(tmp_path: pathlib.Path) -> None:
    batches = numbers()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(*state_after(1), batches) is None
    np.testing.assert_array_equal(next(batches), next(numbers()))


def test_only_tracebacks_of_orbax_are_kept_out(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("absl")
    before = list(logger.filters)
    error = (ValueError, ValueError("lost"), None)

    def report(path: str) -> None:
        logger.handle(logger.makeRecord("absl", logging.ERROR, path, 1, path, (), error))

    with Checkpoints(tmp_path):
        report("site-packages/orbax/checkpoint/futures.py")
        report("site-packages/grain/iterators.py")
    assert [record.message for record in caplog.records if record.exc_info] == ["site-packages/grain/iterators.py"]
    assert logger.filters == before


@pytest.fixture
def config(tmp_path: pathlib.Path) -> Config:
    (tmp_path / "pieces.model").write_bytes(b"pieces")
    nano = PRESETS["nano"].config
    data = dataclasses.replace(nano.data, tokenizer=tmp_path / "pieces.model")
    return dataclasses.replace(nano, workdir=tmp_path / "run", data=data)


def train_a_little(config: Config) -> None:
    claim_workdir(config)
    with Checkpoints(config.workdir / "checkpoints") as checkpoints:
        checkpoints.save(1, *state_after(1), numbers())


def test_folder_belongs_to_one_run(config: Config) -> None:
    train_a_little(config)
    claim_workdir(config)
    claim_workdir(dataclasses.replace(config, wandb=True, log_every=1, eval_every=7, checkpoint_every=9))
    other = dataclasses.replace(
        config,
        seed=1,
        optimizer=with_settings(config.optimizer, scale_range=(0.5, 2.0), reverse=True),
    )
    with pytest.raises(ValueError) as caught:
        claim_workdir(other)
    assert str(caught.value).splitlines() == [
        f"{config.workdir} holds a run with other settings:",
        "  optimizer.reverse: False there, True now",
        "  optimizer.scale_range: [0.6666666666666666, 3.0] there, [0.5, 2.0] now",
        "  seed: 0 there, 1 now",
        "Pass the same settings, or another --workdir.",
    ]
    uniform = dataclasses.replace(config, optimizer=with_settings(config.optimizer, "uniform"))
    with pytest.raises(ValueError, match=r"  optimizer\.method: alphadecay there, uniform now\n"):
        claim_workdir(uniform)
    claim_workdir(config)


def test_a_setting_that_there_was_not_yet_had_its_default(config: Config) -> None:
    train_a_little(config)
    path = config.workdir / "config.json"
    settings = json.loads(path.read_text())
    del settings["optimizer"]["reverse"], settings["norms_every"], settings["model"]["remat"]
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"other settings:\n  optimizer\.reverse: False there, True now\n"):
        claim_workdir(dataclasses.replace(config, optimizer=with_settings(config.optimizer, None, reverse=True)))
    claim_workdir(config)
    assert json.loads(path.read_text())["norms_every"] == config.norms_every


def test_run_without_checkpoint_is_replaced(config: Config) -> None:
    claim_workdir(config)
    claim_workdir(dataclasses.replace(config, seed=1))
    assert '"seed": 1' in (config.workdir / "config.json").read_text()


def test_a_vocabulary_that_changed_under_its_path_is_refused(config: Config) -> None:
    train_a_little(config)
    kept = config.workdir / VOCABULARY
    assert kept.read_bytes() == b"pieces"
    config.data.tokenizer.write_bytes(b"other pieces")
    for use in (claim_workdir, find_run):
        with pytest.raises(ValueError, match=r"pieces\.model is another vocabulary than .*--data\.tokenizer .*\.model"):
            use(config)
    assert kept.read_bytes() == b"pieces"
    find_run(dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer=kept)))
    kept.unlink()  # as in runs of earlier versions
    claim_workdir(config)
    assert kept.read_bytes() == b"other pieces"


def test_finding_a_run(config: Config) -> None:
    with pytest.raises(FileNotFoundError, match=r"no complete checkpoint in .* pass the --workdir of a run"):
        find_run(config)
    train_a_little(config)
    find_run(dataclasses.replace(config, seed=9, data=dataclasses.replace(config.data, eval_tokens=5)))
    with pytest.raises(ValueError, match=r"  model\.num_layers: 4 there, 2 now"):
        find_run(dataclasses.replace(config, model=dataclasses.replace(config.model, num_layers=2)))
