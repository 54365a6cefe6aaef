"""Layouts of real images: out of a directory of tokens, or by cutting up the images themselves."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32
from ml_collections import ConfigDict
from safetensors.numpy import load, save

from gpstoken_jax import data
from gpstoken_jax.data.transforms import to_unit_range
from gpstoken_jax.generation.layouts.file import Layouts
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.runtime.compiling import compiling
from gpstoken_jax.runtime.outputs import Output
from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.tokens import open_tokens

PART = 1024  # images of a part, of whole batches
_BATCH = 64  # images at a time
_Crops = Iterator[tuple[np.ndarray, np.ndarray]]  # batches of images and labels


def layouts_of_tokens(directory: str | Path) -> Layouts:
    """The initial Gaussians of a directory of tokens that gpstoken encode wrote.

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


@dataclasses.dataclass(frozen=True)
class PartitionedImages:
    """The layouts of a source's images, made in parts that depend on nothing but their number.

    Attributes:
      source: the images.
      config: a ``data`` section; how to crop, where ``passes`` asks for training crops.
      image_size: side that images are brought to.
      num_tokens: L.
      passes: 0 takes the central square of every image, once; more take that many of the training's
        crops of every image instead (random ones, mirrored, as the config says).
      seed: decides those crops.
      partition: ``weight`` and ``min_size`` of ``partition_images``.
    """

    source: data.ImageSource
    config: ConfigDict
    image_size: int
    num_tokens: int
    passes: int = 0
    seed: int = 0
    partition: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def parts(self) -> Sequence[range]:
        """Images or crops of each part, by their place in the data or in the order of training."""
        total = max(1, self.passes) * len(self.source)
        return [range(start, min(start + PART, total)) for start in range(0, total, PART)]

    def layouts(self) -> Layouts:
        """All of them.

        Raises:
          ValueError: if no image can be read, or the image has no room for so many tokens.
        """
        return self._join(self._make(self.parts))

    def write(self, output: Output, share: tuple[int, int]) -> None:
        """Writes a share, I of N, of the parts; those that are there stay."""
        parts = self.parts
        first, end = (len(parts) * i // share[1] for i in (share[0], share[0] + 1))
        todo = [number for number in range(first, end) if not output.has(_name(number))]
        if len(todo) < end - first:
            print(f"{end - first - len(todo)} of {end - first} parts are there already")
        made = self._make([parts[number] for number in todo])
        for number, (geometry, label) in zip(todo, made, strict=True):
            output.write(_name(number), save({"geometry": geometry, "label": label}))

    def all_there(self, output: Output) -> bool:
        """Tells whether the parts of all shares were written."""
        return all(output.has(_name(number)) for number in range(len(self.parts)))

    def read(self, output: Output) -> Layouts:
        """All of them, out of the parts that were written.

        Raises:
          DamagedFileError: if a part is not what was written.
          ValueError: if no image could be read.
        """
        names = map(_name, range(len(self.parts)))
        parts = (load(output.check(name).read_bytes()) for name in names)
        return self._join((part["geometry"], part["label"]) for part in parts)

    def _make(
        self, parts: Iterable[range]
    ) -> Iterator[tuple[Float32[np.ndarray, "n l 5"], Int32[np.ndarray, "n"]]]:
        if not parts:
            return
        shape = _BATCH, self.image_size, self.image_size, 3
        function = partial(partition_images, num_tokens=self.num_tokens, **self.partition)
        with compiling("the partition", f"the partition {shape} {self.num_tokens}"):
            cut = jax.jit(function).lower(jax.ShapeDtypeStruct(shape, np.float32)).compile()
        progress = Progress(sum(map(len, parts)))
        with contextlib.closing(self._crops(parts)) as crops:
            for part in parts:
                geometry, label = [np.zeros((0, self.num_tokens, 5), np.float32)], []
                for start in part[::_BATCH]:
                    images, labels = next(crops)
                    if count := len(images):
                        fill = [(0, _BATCH - count)] + [(0, 0)] * 3  # one shape, one compilation
                        made, _ = cut(np.pad(images, fill, mode="edge"))
                        geometry.append(np.asarray(made)[:count])
                    label.append(labels)
                    progress.advance(min(_BATCH, part.stop - start))
                yield np.concatenate(geometry), np.concatenate(label)

    def _crops(self, parts: Iterable[range]) -> _Crops:
        """Batches of all parts, one after the other; of unreadable images there is no row."""
        if self.passes:
            yield from self._training_crops(parts)
            return
        positions = [position for part in parts for position in part]
        source = data.Subset(self.source, positions)
        for batch in data.eval_batches(source, self.config, self.image_size, _BATCH):
            yield batch["image"][batch["mask"]], batch["label"][batch["mask"]]

    def _training_crops(self, parts: Iterable[range]) -> _Crops:
        batches = data.train_batches(self.source, self.config, self.image_size, _BATCH, self.seed)
        with contextlib.closing(batches):
            for part in parts:
                if (state := batches.get_state())["position"] != part.start:
                    batches.set_state(state | {"position": part.start})
                for start in part[::_BATCH]:
                    batch, count = next(batches), min(_BATCH, part.stop - start)
                    yield to_unit_range(batch["image"][:count]), batch["label"][:count]

    def _join(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> Layouts:
        geometry, label = zip(*parts, strict=True)
        if not any(map(len, label)):
            raise ValueError(f"no image can be read: {self.source.description}")
        crops = (
            f"{self.passes} {self.config.crop} crops an image" if self.passes else "centre crops"
        )
        return Layouts(
            geometry=np.concatenate(geometry),
            label=np.concatenate(label),
            label_names=tuple(self.source.label_names),
            image_size=self.image_size,
            partition=dict(self.partition),
            source=f"{self.source.description}, {crops}",
        )


def _name(number: int) -> str:
    return f"{number:06d}.safetensors"


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
