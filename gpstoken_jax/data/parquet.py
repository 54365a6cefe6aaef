"""Parquet shards as the Hugging Face hub has them: a column of images and one of labels.

Only whole row groups can be read. So reading in a random order reads a row group for every image;
`gpstoken prepare_data --parquet` makes a data set of which that is not so.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any

from gpstoken_jax.data.images import UnreadableImageError
from gpstoken_jax.data.packed import Contents, Packing, Row, as_label
from gpstoken_jax.runtime import buckets
from gpstoken_jax.runtime.files import reading

_IMAGES = ("image", "img", "jpg", "png", "bytes")
_LABELS = ("label", "labels", "cls", "fine_label", "class")
_GROUPS_KEPT = 4


class ParquetRow(buckets.Packed):
    """The image of a row: its row group and its number in that."""

    __slots__ = ("date", "group", "path", "row")
    costly = True

    def __init__(self, path: str, date: int, group: int, row: int):
        self.path, self.date, self.group, self.row = path, date, group, row

    def __str__(self) -> str:
        return f"{self.path} (row {self.row} of group {self.group})"

    def read(self, most: int | None = None) -> bytes:
        """The content, or as much of it as is asked for.

        Raises:
            UnreadableImageError: When the row group is damaged.
            OSError: When the shard cannot be read.
        """
        with reading(self.path, "a parquet file", UnreadableImageError):
            data = _read_group(self.path, self.date, self.group)[self.row].as_py() or b""
        return data[:most]

    def stat(self) -> tuple[int, int]:
        """No length, which only reading tells, and the shard's date with the place in it."""
        return 0, self.date + (self.group << 20) + self.row


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            "parquet files need pyarrow: pip install 'gpstoken_jax[parquet]'"
        ) from error
    return parquet


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    """Opens a shard; of one in a bucket only what is asked for is read."""
    with contextlib.ExitStack() as stack:
        file = path
        if buckets.is_url(path):
            stack.enter_context(buckets.speaking_of(path))
            file = stack.enter_context(buckets.file_system(path).open(path, "rb"))
        yield stack.enter_context(_parquet().ParquetFile(file))


@functools.lru_cache(maxsize=_GROUPS_KEPT)
def _read_group(path: str, date: int, group: int) -> Any:
    """The images of a row group; ``date`` is that of the file, so that another one is read."""
    with _open(path) as file:
        column, inside = _image_column(file)
        table = file.read_row_group(group, columns=[".".join([column, *inside])])
    array = table.column(column).combine_chunks()
    return array.field(inside[0]) if inside else array


def _image_column(file: Any) -> tuple[str, list[str]]:
    """Name of the column of images, and of the field in it that has the bytes."""
    import pyarrow as pa

    for field in sorted(file.schema_arrow, key=lambda field: field.name not in _IMAGES):
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return field.name, ["bytes"]
        if field.name in _IMAGES and (
            pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
        ):
            return field.name, []
    columns = ", ".join(f"{field.name} ({str(field.type)[:60]})" for field in file.schema_arrow)
    raise ValueError(
        f"no column of images, a struct with bytes or binary called {' or '.join(_IMAGES)}, "
        f"among {columns}"
    )


def index_parquet(path: str) -> Contents:
    """Finds the images and their labels in a parquet file.

    Raises:
        ValueError: When pyarrow is missing, or it is no such file; names it.
        OSError: When it cannot be read.
    """
    parquet = _parquet()
    open(path, "rb").close()  # what the system says of it
    with reading(path, "a parquet file of images", ValueError), parquet.ParquetFile(path) as file:
        column, inside = _image_column(file)
        _check_bytes(file, ".".join([column, *inside]))
        has_path = inside and file.schema_arrow.field(column).type.get_field_index("path") >= 0
        label = next((name for name in _LABELS if name in file.schema_arrow.names), None)
        rows, strange = [], 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            wanted = [f"{column}.path"] * bool(has_path) + [label] * bool(label)
            table = file.read_row_group(group, columns=wanted)
            paths, labels = [None] * count, [None] * count
            if has_path:
                paths = table.column(column).combine_chunks().field("path").to_pylist()
            if label:
                labels = table.column(label).to_pylist()
            for row in range(count):
                name = f"{len(rows):08d}" + (f"-{paths[row].split('/')[-1]}" if paths[row] else "")
                rows.append(Row(name, group, row, as_label(labels[row])))
                strange += labels[row] is not None and rows[-1].label is None
        left_out = [(label, f"{strange} of its labels are neither whole numbers nor words")]
        return Contents(rows, left_out * bool(strange), _names(file.schema_arrow, label))


def _check_bytes(file: Any, column: str) -> None:
    """Raises ValueError if a column is known to have no images, only places where they were."""
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    parts = [group.column(i) for group in groups for i in range(group.num_columns)]
    parts = [part for part in parts if part.path_in_schema == column and part.num_values]
    if parts and all(
        part.statistics and part.statistics.null_count == part.num_values for part in parts
    ):
        raise ValueError(f"{column} is empty in every row: the images are not in the file")


def _names(schema: Any, label: str | None) -> tuple[str, ...]:
    """Names of the classes, where the hub's library has written them into the file."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


PACKING = Packing(".parquet", index_parquet, ParquetRow)
