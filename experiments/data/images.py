"""Reads scikit-learn's digits, or ImageNet as TFDS stores it, as batches of images and labels."""
# SPDX-License-Identifier: Apache-2.0

import functools
import io
import math
import sys
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
import PIL.Image
import sklearn.datasets
import tensorflow_datasets as tfds

from experiments.data.tfds_records import Records, open_records
from experiments.vision_config import Batch, ImageConfig, VitConfig

DIGITS = "digits"
"""The data set of that name is in scikit-learn: 1,797 digits of 8 x 8 pixels, in 17 shades of grey."""
HELD_OUT = 50
"""The last so many digits of each class are for validation, in all 500; the other 1,297 are for training."""
CENTRE = 0.875
"""A photograph is judged by the square in its centre, whose side is this share of the shorter one."""


def digits(split: str) -> list[dict[str, Any]]:
    """One split of the digits, in the order of the file.

    Args:
        split: `train` or `validation`.

    Returns:
        `image`, uint8 `[8, 8, 1]` up to 240, and `label`.
    """
    values, labels = sklearn.datasets.load_digits(return_X_y=True)
    held_out = np.concatenate([np.flatnonzero(labels == label)[-HELD_OUT:] for label in np.unique(labels)])
    chosen = np.isin(np.arange(len(labels)), held_out, invert=split == "train")
    images = (15 * values[chosen]).astype(np.uint8).reshape(-1, 8, 8, 1)
    return [{"image": image, "label": label} for image, label in zip(images, labels[chosen].tolist(), strict=True)]


def open_split(config: ImageConfig, split: str) -> Records | list[dict[str, Any]]:
    """Opens one split for random access. Never downloads, builds or asks the network for anything.

    Args:
        config: What to read, and where it is.
        split: `train` or `validation`.

    Returns:
        The records: dicts whose `image` is an array of a digit, or else the bytes of a file, and whose `label` is an
        integer.

    Raises:
        FileNotFoundError: There are no array_record files of it, or not all of them.
        ValueError: It has no feature `image` or `label`.
    """
    if config.name == DIGITS:
        return digits(split)
    advice = (
        "`tfds build imagenet2012 --file_format=array_record` makes ImageNet from its archives, which have to be "
        "fetched by hand from image-net.org, and `tfds convert_format --dataset_version_dir=... "
        "--out_file_format=array_record` turns a copy of TFRecord files into array_record; "
        "--data.dir and --data.name say what to read"
    )
    # Decoded here, because TFDS neither makes a grey or CMYK photograph RGB nor crops it before it is an array.
    decoders = {"image": tfds.decode.SkipDecoding()}
    return open_records(config.dir, config.name, split, features=("image", "label"), advice=advice, decoders=decoders)


def check_fits(config: ImageConfig, model: VitConfig) -> None:
    """Checks that the images are what the network takes.

    Args:
        config: The data.
        model: The network.

    Raises:
        ValueError: Their sizes or their channels differ, or digits are asked for in another form than theirs.
    """
    if config.name == DIGITS and (config.image_size, config.channels) != (8, 1):
        raise ValueError(
            f"digits are 8 x 8 and grey: pass --data.image-size 8 --data.channels 1 instead of {config.image_size} "
            f"and {config.channels}, or another --data.name."
        )
    if config.image_size != model.image_size:
        raise ValueError(
            f"data.image_size={config.image_size} and model.image_size={model.image_size} differ: pass the same."
        )
    channels = len(model.pixel_mean), len(model.pixel_stddev)
    if channels != (config.channels, config.channels):
        raise ValueError(
            f"model.pixel_mean and model.pixel_stddev have {channels[0]} and {channels[1]} channels and images have "
            f"data.channels={config.channels}: pass one number a channel."
        )


def shift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves an image `[S, S, C]` by up to a pixel in each direction; zeros come in."""
    down, right = rng.integers(3, size=2)
    padded = np.zeros((len(image) + 2, len(image) + 2, image.shape[2]), image.dtype)
    padded[1:-1, 1:-1] = image
    return padded[down : down + len(image), right : right + len(image)]


def random_view(photograph: PIL.Image.Image, size: int, rng: np.random.Generator) -> PIL.Image.Image:
    """Scales a random part of a photograph to a square, and mirrors it or not.

    Args:
        photograph: Of any size.
        size: Side of the square in pixels.
        rng: Draws 8% to 100% of the area, sides in a ratio of 3:4 to 4:3, the place, and the mirror.

    Returns:
        The square; of the whole photograph if ten parts drawn do not fit into it.
    """
    width, height = photograph.size
    box: tuple[float, float, float, float] = (0, 0, width, height)
    for _ in range(10):
        area = rng.uniform(0.08, 1) * width * height
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            box = (left, top, left + w, top + h)
            break
    view = photograph.resize((size, size), PIL.Image.Resampling.BICUBIC, box=box)
    return view.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def central_view(photograph: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """Scales the square in the centre of a photograph to `size` pixels."""
    width, height = photograph.size
    side = CENTRE * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return photograph.resize((size, size), PIL.Image.Resampling.BICUBIC, box=box)


def example(config: ImageConfig, record: dict[str, Any], rng: np.random.Generator | None = None) -> Batch:
    """Turns a record into an example.

    Args:
        config: What images are to be.
        record: As `open_split` gives them.
        rng: Draws the view of it; None takes the one to validate on.

    Returns:
        Pixels, uint8 `[S, S, C]`, and the class, int32 `[]`.
    """
    image = record["image"]
    if config.name == DIGITS:
        pixels = image if rng is None else shift(image, rng)
    else:
        photograph = PIL.Image.open(io.BytesIO(image)).convert("L" if config.channels == 1 else "RGB")
        size = config.image_size
        view = central_view(photograph, size) if rng is None else random_view(photograph, size, rng)
        pixels = np.asarray(view).reshape(size, size, config.channels)
    return Batch(pixels, np.int32(record["label"]))


def train_iterator(config: ImageConfig, *, batch_size: int, seed: int, rows: np.ndarray | None = None) -> Any:
    """Batches of the train split without end. Each epoch has its own order and its own views.

    Args:
        config: What to read, and where it is.
        batch_size: Images in a batch, over all processes.
        seed: Decides the order and the views.
        rows: Which rows of each batch to yield, ascending; None yields all. No other images are read.

    Returns:
        A `grain.DatasetIterator` of `Batch` with len(rows) images. The next batches are prepared in threads. Its state
        is the same on every process, small and fit for JSON.

    Raises:
        FileNotFoundError: The data set is not there.
        ValueError: It is something else.
    """
    rows = np.arange(batch_size) if rows is None else rows
    # Grain adds the epoch to a seed: seeds 0 and 1 would give the same orders an epoch apart.
    order, views = (int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(2))
    examples = grain.MapDataset.source(open_split(config, "train")).shuffle(order).repeat()
    read = functools.partial(example, config)
    if config.augment:
        examples = examples.random_map(read, seed=views)
    else:
        examples = examples.map(read)
    steps = grain.MapDataset.range(sys.maxsize // batch_size)
    batches = steps.map(lambda step: _stack([examples[step * batch_size + row] for row in rows.tolist()]))
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=16, prefetch_buffer_size=16)))


def validation_batches(config: ImageConfig, *, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]:
    """The whole validation split in its order. Every process gets the same batches.

    Args:
        config: What to read, and where it is.
        batch_size: Images in a batch.

    Yields:
        A batch and which of its images are real, `[B]`, bool. Only the end of the last batch is not: it repeats an
        image, so that all batches have one shape.
    """
    records = open_split(config, "validation")
    starts = grain.MapDataset.range(0, len(records), batch_size)

    def read(start: int) -> tuple[Batch, np.ndarray]:
        index = np.arange(start, start + batch_size)
        images = [example(config, records[i]) for i in np.minimum(index, len(records) - 1).tolist()]
        return _stack(images), index < len(records)

    yield from starts.map(read).to_iter_dataset(grain.ReadOptions(num_threads=16, prefetch_buffer_size=16))


def _stack(examples: list[Batch]) -> Batch:
    """Examples as a batch."""
    return Batch(*map(np.stack, zip(*examples, strict=True)))
