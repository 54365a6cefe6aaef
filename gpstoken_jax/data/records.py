"""Writing a TFDS data set of image files as array_record, without TensorFlow.

A record holds the encoded image (the file's own bytes when it is a plain 8-bit RGB JPEG or PNG,
otherwise a lossless PNG of the converted pixels; or a smaller image), label, name and upright
height and width.
"""

import json
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer, naming

from gpstoken_jax.data import folder, images
from gpstoken_jax.data.shrinking import Shrinking

NAME, VERSION = "image_files", "1.0.0"
SHRUNKEN = "shrunken"
_DESCRIPTION = "Images of a folder, made by gpstoken prepare_data"
_KEPT_FORMATS = ("JPEG", "MPO", "PNG")


def make_record(
    file: folder.ImageFile, shrinking: Shrinking | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Reads a file and makes its record, of a smaller image if asked for.

    Returns:
        The record and what was converted, in words; empty when the file's bytes are kept.

    Raises:
        images.UnreadableImageError: When the file cannot become RGB pixels.
        storage.StorageError: When the system cannot read it.
    """
    data = images.read_bytes(file.path)
    decoded = images.decode(data, at_least=shrinking.at_least if shrinking else None)
    conversions, (height, width) = decoded.conversions, decoded.size
    if shrinking and min(decoded.size) > shrinking.short_side:
        conversions += (SHRUNKEN,)
        data, (height, width) = shrinking.encode(decoded.picture)
    elif decoded.format not in _KEPT_FORMATS:
        conversions += (f"{decoded.format} stored as PNG",)
    if conversions and SHRUNKEN not in conversions:
        data = images.encode_png(decoded.pixels, compress_level=3)
    record = {
        "image": data,
        "label": file.label,
        "name": file.name,
        "height": height,
        "width": width,
    }
    return record, conversions


class RecordFormat:
    """Layout of a data set's records in files.

    Args:
        label_names: Names of its classes.
        shrinking: Told in the description.
    """

    def __init__(self, label_names: Sequence[str], shrinking: Shrinking | None = None):
        self._description = f"{_DESCRIPTION}, {shrinking}." if shrinking else f"{_DESCRIPTION}."
        self._features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=[escape_class(n) for n in label_names]),
                "name": tfds.features.Text(),
                "height": np.int32,
                "width": np.int32,
            }
        )
        info = self._features.get_serialized_info()
        self._serializer = example_serializer.ExampleSerializer(info)

    def write(self, path: str | pathlib.Path, records: Iterable[Mapping[str, Any]]) -> int:
        """Writes a file of records and returns their length in bytes."""
        writer = ArrayRecordWriter(str(path), "group_size:1")
        try:
            length = 0
            for record in records:
                data = self._serializer.serialize_example(self._features.encode_example(record))
                writer.write(data)
                length += len(data)
        finally:
            writer.close()
        return length

    def metadata(
        self, splits: Mapping[str, Sequence[int]], lengths: Mapping[str, int]
    ) -> dict[str, bytes]:
        """The small files that TFDS finds the records by.

        Args:
            splits: Records in each file of a split.
            lengths: Of all records of a split, in bytes.

        Returns:
            Their contents by name.
        """
        infos = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=list(counts),
                num_bytes=lengths[split],
                filename_template=naming.ShardedFileTemplate(
                    data_dir=pathlib.Path(), dataset_name=NAME, split=split,
                    filetype_suffix="array_record",
                ),
            )
            for split, counts in splits.items()
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as directory:
            identity = tfds.core.dataset_info.DatasetIdentity(
                name=NAME, version=tfds.core.Version(VERSION), data_dir=directory, module_name=NAME
            )
            info = tfds.core.DatasetInfo(
                builder=identity,
                description=self._description,
                features=self._features,
                disable_shuffling=True,  # reading shuffles; on disk the order is that of the names
            )
            info.set_file_format("array_record")
            info.set_splits(tfds.core.splits.SplitDict(infos))
            info.write_to_directory(directory)
            return {path.name: path.read_bytes() for path in pathlib.Path(directory).iterdir()}


def shard_name(split: str, shard: int, shards: int) -> str:
    """The name of a file of records, relative to the directory of the data set."""
    return f"{NAME}/{VERSION}/{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def described_shrinking(description: str) -> str:
    """The words on how images were shrunken, of the description of a data set of ours."""
    return description.strip().removeprefix(_DESCRIPTION).removesuffix(".")


def escape_class(name: str) -> str:
    """A class's name as TFDS keeps it: one line, without spaces at its ends, never blank."""
    if name and name == name.strip() and name.isprintable() and not name.startswith('"'):
        return name
    return json.dumps(name)


def unescape_class(text: str) -> str:
    """The inverse of `escape_class`."""
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:  # written before there were escapes
        return text
