"""A TFDS builder that writes image files as array_record, without TensorFlow.

A record holds the encoded image (the file's own bytes when it is a plain 8-bit RGB JPEG or PNG,
otherwise a lossless PNG of the converted pixels), label, name and upright height and width.
"""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from gpstoken_jax.data import folder, images

_KEPT_FORMATS = ("JPEG", "MPO", "PNG")
Item = TypeVar("Item")
Result = TypeVar("Result")


def encode_record(file: folder.ImageFile) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Reads a file and makes its record.

    Returns:
        The record and what was converted, in words; empty when the file's bytes are kept.

    Raises:
        images.UnreadableImageError: When the file cannot become RGB pixels.
    """
    data = images.read_bytes(file.path)
    decoded = images.decode(data)
    conversions = decoded.conversions
    if decoded.format not in _KEPT_FORMATS:
        conversions += (f"{decoded.format} stored as PNG",)
    height, width = decoded.pixels.shape[:2]
    record = {
        "image": images.encode_png(decoded.pixels, compress_level=3) if conversions else data,
        "label": file.label,
        "name": file.name,
        "height": height,
        "width": width,
    }
    return record, conversions


class ImageFiles(tfds.core.GeneratorBasedBuilder):
    """Writes the files of a listing, in the listing's order, one TFDS split for each of theirs.

    Args:
        listing: The files, their labels and splits.
        data_dir: Directory in which image_files/1.0.0 is made.
        on_file: Called for each file with its record and conversions, or with the error.
        num_threads: Files decoded at a time.
    """

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks beside the code for checksums of downloads; there are none, and looking would need
    # a package (importlib_resources) that TFDS does not install.
    code_path = None

    def __init__(
        self,
        *,
        listing: folder.FolderListing,
        data_dir: str,
        on_file: Callable[[folder.ImageFile, Any], None],
        num_threads: int,
    ):
        self._listing = listing
        self._on_file = on_file
        self._num_threads = num_threads
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of a folder, made by prepare_data.py.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=list(self._listing.label_names)),
                    "name": tfds.features.Text(),
                    "height": np.int32,
                    "width": np.int32,
                }
            ),
            disable_shuffling=True,  # reading shuffles; on disk the order is that of the names
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        splits = folder.count_by_split(self._listing.files)
        return {split: self._generate_examples(split) for split in sorted(splits)}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        files = self._listing.split(split)
        for key, (file, outcome) in enumerate(_in_order(_try_encode, files, self._num_threads)):
            self._on_file(file, outcome)
            if not isinstance(outcome, images.UnreadableImageError):
                yield key, outcome[0]


def _try_encode(file: folder.ImageFile) -> tuple[folder.ImageFile, Any]:
    try:
        return file, encode_record(file)
    except images.UnreadableImageError as error:
        return file, error


def _in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[Result]:
    """Maps in threads, in order, with few results waiting: images are large."""
    remaining = iter(items)
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        first = itertools.islice(remaining, 2 * num_threads)
        waiting = collections.deque(pool.submit(function, item) for item in first)
        while waiting:
            yield waiting.popleft().result()
            for item in itertools.islice(remaining, 1):
                waiting.append(pool.submit(function, item))
