"""Image data: nothing lost or read twice, views as described, exact resumption, and errors that say what to do."""
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import itertools
import json
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

from experiments.data import images
from experiments.vision_config import PRESETS, Batch, ImageConfig
from tests.experiments import small_imagenet

PLAIN = ImageConfig(augment=False)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> ImageConfig:
    """The production settings, with a small data set in ImageNet's place."""
    directory = tmp_path_factory.mktemp("imagenet")
    small_imagenet.write(directory)
    return dataclasses.replace(PRESETS["imagenet"].config.data, dir=directory, image_size=16)


def take(config: ImageConfig, count: int, *, state: Any = None, **options: Any) -> list[Batch]:
    """The next batches, from the start or from a state."""
    iterator = images.train_iterator(config, **{"batch_size": 8, "seed": 3, **options})
    if state is not None:
        iterator.set_state(json.loads(json.dumps(state)))
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_digits_are_split_by_class_and_none_is_lost() -> None:
    splits = {split: images.digits(split) for split in ("train", "validation")}
    assert {split: len(records) for split, records in splits.items()} == {"train": 1297, "validation": 500}
    assert np.bincount([record["label"] for record in splits["validation"]]).tolist() == [50] * 10
    raw = sklearn.datasets.load_digits()
    everything = sorted((int(label), *image.ravel()) for image, label in zip(raw.images, raw.target, strict=True))
    read = sorted((r["label"], *(r["image"].ravel() / 15)) for records in splits.values() for r in records)
    assert read == everything
    config = PRESETS["digits"].config.model
    pixels = np.stack([record["image"] for record in splits["train"]]) / 255
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [*config.pixel_mean, *config.pixel_stddev], atol=1e-3)


def test_every_epoch_has_every_digit_once_in_an_order_of_its_own() -> None:
    # 1,297 is prime: no batch ends an epoch.
    drawn = np.concatenate([batch.images for batch in take(PLAIN, 325)])[: 2 * 1297].reshape(2, 1297, -1)
    known = np.stack([record["image"].ravel() for record in images.digits("train")])
    for epoch in drawn:
        np.testing.assert_array_equal(np.sort(epoch.view("S64").ravel()), np.sort(known.view("S64").ravel()))
    orders = [*drawn, np.concatenate([batch.images for batch in take(PLAIN, 163, seed=4)])[:1297].reshape(1297, -1)]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).all(axis=1).mean() < 0.05


@pytest.mark.parametrize("name", ["digits", "imagenet"])
def test_batches_depend_on_the_seed_alone_and_go_on_anywhere(name: str, imagenet: ImageConfig) -> None:
    config = ImageConfig() if name == "digits" else imagenet
    whole = take(config, 12)
    example = config.example
    for batch in whole:
        assert batch.images.shape == (8, *example.images.shape) and batch.images.dtype == example.images.dtype
        assert batch.labels.shape == (8,) and batch.labels.dtype == example.labels.dtype
    assert_same(take(config, 12), whole)
    assert not np.array_equal(take(config, 1, seed=4)[0].images, whole[0].images)

    iterator = images.train_iterator(config, batch_size=8, seed=3)
    for _ in range(5):
        next(iterator)
    state = iterator.get_state()
    iterator.close()
    assert_same(take(config, 7, state=state), whole[5:])

    rows = np.array([1, 2, 7])
    share = [Batch(batch.images[rows], batch.labels[rows]) for batch in whole[5:]]
    assert_same(take(config, 7, state=state, rows=rows), share)


def test_digits_move_by_a_pixel() -> None:
    image = np.arange(1, 65, dtype=np.uint8).reshape(8, 8, 1)
    rng = np.random.default_rng(0)
    moved = {images.shift(image, rng).tobytes() for _ in range(200)}
    expected = set()
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        rolled = np.roll(image, (down, right), axis=(0, 1))
        rolled[{1: slice(0, 1), -1: slice(7, 8), 0: slice(0)}[down]] = 0
        rolled[:, {1: slice(0, 1), -1: slice(7, 8), 0: slice(0)}[right]] = 0
        expected.add(rolled.tobytes())
    assert moved == expected


def slopes(view: PIL.Image.Image) -> tuple[float, float, float, float]:
    """Where the first pixel's centre lies on the photograph below, and the distance of two pixels, for x and for y."""
    pixels = np.asarray(view, np.float64)
    steps = np.arange(4, len(pixels) - 4)  # bicubic resampling bends a ramp at its ends
    right, left = np.polyfit(steps, pixels[4:-4, 4:-4, 0].mean(axis=0), 1)
    down, top = np.polyfit(steps, pixels[4:-4, 4:-4, 1].mean(axis=1), 1)
    return left, right, top, down


def photograph(width: int, height: int) -> PIL.Image.Image:
    """Red is the number of the column, green that of the row."""
    green, red = np.mgrid[:height, :width].astype(np.uint8)
    return PIL.Image.fromarray(np.stack([red, green, np.zeros_like(red)], axis=2))


def test_central_view_is_the_square_in_the_centre() -> None:
    left, right, top, down = slopes(images.central_view(photograph(240, 160), 32))
    side = 0.875 * 160
    np.testing.assert_allclose([right, down], side / 32, rtol=0.01)
    first = 0.5 * side / 32 - 0.5
    np.testing.assert_allclose([left, top], [(240 - side) / 2 + first, (160 - side) / 2 + first], atol=0.5)


def test_random_views_have_the_areas_and_shapes_of_the_recipe() -> None:
    rng, source = np.random.default_rng(0), photograph(240, 160)
    drawn = np.array([slopes(images.random_view(source, 32, rng)) for _ in range(300)])
    width, height = np.abs(drawn[:, 1]) * 32, drawn[:, 3] * 32
    area, ratio = width * height / (240 * 160), width / height
    assert 0.07 < area.min() < 0.12 and 0.8 < area.max() < 1.01
    assert 0.74 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.35
    assert abs(np.mean(drawn[:, 1] < 0) - 0.5) < 0.1, "half of them are mirrored"
    # A strip has no part of these shapes that is large enough: the whole of it is taken.
    _, right, _, _ = slopes(images.random_view(photograph(250, 10), 32, rng))
    np.testing.assert_allclose(abs(right) * 32, 250, rtol=0.02)


def test_photographs_are_read_from_tfds_without_tensorflow(imagenet: ImageConfig) -> None:
    batches = list(images.validation_batches(imagenet, batch_size=4))
    assert [real.tolist() for _, real in batches] == [[True] * 4, [True] * 4, [True, True, False, False]]
    labels = np.concatenate([batch.labels[real] for batch, real in batches])
    assert sorted(labels.tolist()) == sorted(r["label"] for r in images.digits("validation")[:10])
    pixels = np.concatenate([batch.images for batch, _ in batches])
    assert pixels.shape == (12, 16, 16, 3) and pixels.dtype == np.uint8
    # Digits are grey, whatever the file was, and JPEG keeps them so.
    assert np.ptp(pixels.astype(int), axis=3).max() < 10 < pixels.std()


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_every_photograph_becomes_rgb(mode: str, imagenet: ImageConfig, tmp_path: pathlib.Path) -> None:
    PIL.Image.new("RGB", (40, 30), (128, 128, 128)).convert(mode).save(tmp_path / "a.jpeg")
    record = {"image": (tmp_path / "a.jpeg").read_bytes(), "label": 7}
    pixels, label = images.example(imagenet, record)
    assert label == 7 and pixels.shape == (16, 16, 3)
    np.testing.assert_allclose(pixels, 128, atol=3)


def test_missing_and_foreign_data(imagenet: ImageConfig, tmp_path: pathlib.Path) -> None:
    absent = dataclasses.replace(imagenet, dir=tmp_path)
    advice = "`tfds build imagenet2012 --file_format=array_record` makes ImageNet.*--data.dir and --data.name"
    there = f"in {re.escape(str(tmp_path))}; that folder has no data set"
    missing = f"no train split of imagenet2012:5.1.0, as array_record, {there}. {advice}"
    with pytest.raises(FileNotFoundError, match=missing):
        images.train_iterator(absent, batch_size=4, seed=0)
    copy = dataclasses.replace(imagenet, dir=tmp_path / "copy")
    shutil.copytree(imagenet.dir, copy.dir)
    (shard,) = copy.dir.rglob("*validation*")
    shard.unlink()
    with pytest.raises(
        FileNotFoundError, match=f"imagenet2012:5.1.0 is incomplete, {re.escape(str(shard))} is missing"
    ):
        images.open_split(copy, "validation")


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ({"image_size": 16}, {}, "digits are 8 x 8 and grey: pass --data.image-size 8 --data.channels 1 instead of 16"),
        ({}, {"image_size": 16}, "data.image_size=8 and model.image_size=16 differ"),
        ({}, {"pixel_mean": (0.1, 0.2)}, "have 2 and 1 channels and images have data.channels=1"),
    ],
)
def test_data_must_fit_the_network(data: dict[str, Any], model: dict[str, Any], message: str) -> None:
    config = PRESETS["digits"].config
    with pytest.raises(ValueError, match=message):
        images.check_fits(dataclasses.replace(config.data, **data), dataclasses.replace(config.model, **model))
