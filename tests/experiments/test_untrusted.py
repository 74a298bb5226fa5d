"""A data set of somebody else runs no code of its own."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import dataclasses
import json
import pathlib
import shutil
import sys
from typing import Any

import pytest
import tensorflow_datasets as tfds

from experiments.config import DataConfig
from experiments.data import text


@pytest.fixture
def config(tiny_command: list[str]) -> DataConfig:
    """Where the small corpus is."""
    return DataConfig(dir=pathlib.Path(tiny_command[tiny_command.index("--data.dir") + 1]))


FOREIGN: dict[str, Any] = {
    "as written": {"pythonClassName": "untrusted.Evil", "text": {}},
    "as read": {"python_class_name": "untrusted.Evil", "text": {}},
    "as before": {"type": "untrusted.Evil", "content": {}},
    "in a string": {
        "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
        "jsonFeature": {"json": json.dumps({"feature": {"type": "untrusted.Evil", "content": {}}, "length": None})},
    },
}


@pytest.mark.parametrize("how", FOREIGN)
def test_classes_that_a_data_set_names_are_not_imported(
    how: str, config: DataConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "untrusted.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    path = next(pathlib.Path(shutil.copytree(config.dir, tmp_path / "data")).rglob("features.json"))
    description = json.loads(path.read_text())
    if how == "as before":
        kind = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
        description = {"type": kind, "content": {"url": FOREIGN[how]}}
    else:
        description["featuresDict"]["features"]["url"] = FOREIGN[how]
    path.write_text(json.dumps(description))
    with contextlib.suppress(Exception):  # without the check, TFDS runs the code, whatever it does then
        tfds.data_source("c4/en:3.1.0", data_dir=tmp_path / "data", split="train", download=False)
    ran = tmp_path / "ran"
    assert ran.exists(), "this would not be an attack"
    ran.unlink()
    sys.modules.pop("untrusted", None)
    for name in ("c4/en:3.1.0", "c4/en", "c4"):
        with pytest.raises(ValueError, match=f"{path} names the Python class 'untrusted.Evil', which reading the data"):
            text.open_split(dataclasses.replace(config, dir=tmp_path / "data", name=name), "train")
    assert not ran.exists()


@pytest.mark.parametrize("content", ["", "[", "[" * 100_000, '{"json": "{"}'], ids=["empty", "cut", "deep", "within"])
def test_a_description_that_is_none_is_named(content: str, config: DataConfig, tmp_path: pathlib.Path) -> None:
    path = next(pathlib.Path(shutil.copytree(config.dir, tmp_path / "data")).rglob("features.json"))
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path} is not a description of features: "):
        text.open_split(dataclasses.replace(config, dir=tmp_path / "data"), "train")
