"""Layouts of real images: out of a directory of tokens, or by cutting up the images themselves."""

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gpstoken_jax import data
from gpstoken_jax.data.transforms import to_unit_range
from gpstoken_jax.generation.layouts.file import Layouts
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.tokens import open_tokens

_BATCH = 64  # images at a time


def layouts_of_tokens(directory: str | Path) -> Layouts:
    """The initial Gaussians of a directory of tokens that encode.py wrote.

    Raises:
      TokensError: if there are no finished tokens, or they are in bits.
    """
    tokens = open_tokens(directory)
    tokens.check_initial_geometry()
    rows = [tokens.read(start, start + 1024)[0] for start in range(0, len(tokens), 1024)]
    header = tokens.header
    partition = {key: value for key, value in header["partition"].items() if key != "num_tokens"}
    return Layouts(
        geometry=np.concatenate([part["initial_geometry"] for part in rows]),
        label=np.concatenate([part["label"] for part in rows]),
        label_names=tuple(header["label_names"]),
        image_size=header["model"]["image_size"],
        partition=partition,
        source=f"tokens of {header['data']}",
    )


def layouts_of_images(
    source: data.ImageSource,
    config: ConfigDict,
    image_size: int,
    num_tokens: int,
    *,
    passes: int = 0,
    seed: int = 0,
    **partition: Any,
) -> Layouts:
    """Partitions the images of a source.

    Args:
      source: the images.
      config: a ``data`` section; how to crop, where ``passes`` asks for training crops.
      image_size: side that images are brought to.
      num_tokens: L.
      passes: 0 takes the central square of every image, once; more take that many of the training's
        crops of every image instead (random ones, mirrored, as the config says).
      seed: decides those crops.
      **partition: ``weight`` and ``min_size`` of ``partition_images``.

    Raises:
      ValueError: if no image can be read, or the image has no room for so many tokens.
    """
    cut = jax.jit(partial(partition_images, num_tokens=num_tokens, **partition))
    if passes:
        total = passes * len(source)
        batches = _training_crops(source, config, image_size, total, seed)
    else:
        total = len(source)
        batches = _centre_crops(source, config, image_size)
    progress, geometry, label = Progress(total), [], []
    for images, labels in batches:
        fill = [(0, _BATCH - len(images))] + [(0, 0)] * 3  # one shape, one compilation
        geometry.append(np.asarray(cut(np.pad(images, fill, mode="edge"))[0])[: len(images)])
        label.append(labels)
        progress.advance(len(images))
    if not geometry:
        raise ValueError(f"no image can be read: {source.description}")
    crops = f"{passes} {config.crop} crops an image" if passes else "centre crops"
    return Layouts(
        geometry=np.concatenate(geometry),
        label=np.concatenate(label),
        label_names=tuple(source.label_names),
        image_size=image_size,
        partition=dict(partition),
        source=f"{source.description}, {crops}",
    )


def _centre_crops(
    source: data.ImageSource, config: ConfigDict, image_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in data.eval_batches(source, config, image_size, _BATCH):
        if (mask := batch["mask"]).any():
            yield batch["image"][mask], batch["label"][mask]


def _training_crops(
    source: data.ImageSource, config: ConfigDict, image_size: int, total: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    batches: Iterable = data.train_batches(source, config, image_size, _BATCH, seed)
    try:
        for start in range(0, total, _BATCH):
            batch, count = next(batches), min(_BATCH, total - start)
            yield to_unit_range(batch["image"][:count]), batch["label"][:count]
    finally:
        batches.close()


def select_labels(layouts: Layouts, label_names: tuple[str, ...]) -> Layouts:
    """The same layouts, classes numbered as in ``label_names``; others are left out.

    Raises:
      ValueError: if none is left.
    """
    number = {name: i for i, name in enumerate(label_names)}
    new = np.array([number.get(name, -2) for name in layouts.label_names] + [-1], np.int32)
    label = new[layouts.label]  # -1 finds the last one
    kept = label >= -1
    if not kept.any():
        raise ValueError(f"no layout is of a class among {', '.join(label_names)}")
    return dataclasses.replace(
        layouts, geometry=layouts.geometry[kept], label=label[kept], label_names=label_names
    )
