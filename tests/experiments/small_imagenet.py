"""Writes a few digits, enlarged, as photographs in the place and the form of TFDS's ImageNet."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from experiments.data.images import digits

SIZES = {"train": 40, "validation": 10}
"""Photographs in each split."""


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, misc]
    """ImageNet's three features; JPEG files of different heights, every fifth of them grey."""

    VERSION = tfds.core.Version("5.1.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=1000),
                "file_name": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, record in enumerate(digits(split)[: SIZES[split]]):
            photograph = PIL.Image.fromarray(np.repeat(record["image"], 3, axis=2)).resize((48, 40 + number))
            file = io.BytesIO()
            (photograph if number % 5 else photograph.convert("L")).save(file, "JPEG", quality=95)
            name = f"{split}-{number}.JPEG"
            yield name, {"image": file.getvalue(), "label": record["label"], "file_name": name}


def write(directory: pathlib.Path) -> None:
    """Writes the data set, as array_record, into a directory to be passed as `data.dir`."""
    with contextlib.redirect_stdout(None):
        Imagenet2012(data_dir=directory, file_format="array_record").download_and_prepare()
