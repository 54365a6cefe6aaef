"""A cell that compares images which have no originals, as a generator's, with saved statistics."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from gpstoken_jax import data
from gpstoken_jax.data.loader import ReadAhead
from gpstoken_jax.data.sources import FolderSource, open_folder
from gpstoken_jax.evaluation.evaluator import Evaluator
from gpstoken_jax.evaluation.job import Job, Subject
from gpstoken_jax.evaluation.methods import GivenImages
from gpstoken_jax.evaluation.pair_job import DEFAULT_BATCH_SIZE
from gpstoken_jax.evaluation.protocol import fingerprint, shared_protocol
from gpstoken_jax.evaluation.settings import Settings
from gpstoken_jax.tokens.coding import Subset


def plan_samples(images: Path, settings: Settings) -> Job:
    """Looks at the folder. The images, all of one size, are taken as they are.

    Raises:
      ValueError, OSError: if there are none, or the first cannot be read.
    """
    source = open_folder(images)
    height, width = source[0].size
    return Job(
        name=images.resolve().name,
        place=images,
        num_images=len(source),
        pixels=height * width * len(source),
        description=f"{source.description}; {height} x {width} pixels",
        open=partial(_open, source, (height, width), images, settings),
    )


def _open(source: FolderSource, size: tuple[int, int], images: Path, settings: Settings) -> Subject:
    evaluator = Evaluator(
        GivenImages(),
        lpips_weights=None,
        rounding="round",
        network=settings.network,
        compared=False,
    )
    protocol = {
        "images_folder": str(images),
        "data_name": images.resolve().name,
        "data": source.description,
        "data_crc32": fingerprint(source),
        "size": f"{size[0]} x {size[1]}",
        "crop": "none",
    }
    return Subject(
        protocol=protocol | shared_protocol(settings, "as the files have it"),
        title=f"{images} beside the statistics of {settings.reference_name}",
        label=images.resolve().name,
        evaluator=evaluator,
        batches=partial(SampleBatches, source, size, settings.batch_size or DEFAULT_BATCH_SIZE),
    )


class SampleBatches:
    """Every image once.

    Iterating raises ValueError at one of another size, or that cannot be read: it would be missing.
    """

    def __init__(
        self,
        source: FolderSource,
        size: tuple[int, int],
        batch_size: int,
        positions: Iterable[int] | None,
    ):
        shares = (jax.process_index(), jax.process_count())
        if positions is not None:
            source, shares = Subset(source, list(positions)), (0, 1)
        self._size = size
        self._batches = data.eval_batches(source, ReadAhead(), size, batch_size, *shares)
        self.unreadable = self._batches.unreadable

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            for name, reason in self._batches.unreadable.reasons.items():
                raise ValueError(f"{name} cannot be read: {reason}")
            for name, (height, width) in zip(batch["name"], batch["size"].tolist(), strict=True):
                if name and (height, width) != self._size:
                    raise ValueError(
                        f"{name} is {height} x {width} pixels, the first image "
                        f"{self._size[0]} x {self._size[1]}: generated images have one size"
                    )
            yield batch | {"given": batch["image"]}
