"""Random access to the images of a folder, of a list of files or of a TFDS data set.

A source has a length, `label_names`, a `description` and `source[i]`, which decodes image i or
raises `UnreadableImageError`. Everything after (order, crops, batches) is in `loader.py`.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from gpstoken_jax.data import folder as folder_lib
from gpstoken_jax.data import images
from gpstoken_jax.data.examples import Example, ImageSource
from gpstoken_jax.data.tfds import TfdsSource, open_tfds
from gpstoken_jax.runtime import buckets, storage
from gpstoken_jax.runtime.fingerprints import fingerprint_files

_FILES_COMPARED = 1000
_PLACES = ("folder", "list", "tars", "parquet", "tfds_name", "tfds_dir")  # fields that name data


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Reads the files of one split of a folder; nothing is prepared beforehand."""

    files: tuple[folder_lib.ImageFile, ...]
    label_names: tuple[str, ...]
    left_out: tuple[folder_lib.LeftOut, ...]
    description: str
    at_least: int | None = None  # see `images.decode`

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        file = self.files[index]
        decoded = images.decode(images.read_bytes(file.path), at_least=self.at_least)
        return Example(decoded.picture, file.label, file.name, decoded.size)

    def name(self, index: int) -> str:
        """Path of an image, below the split's folder."""
        return self.files[index].name

    def fingerprint(self, *, content: bool = False) -> str:
        """A digest that changes with the images, their names or their classes.

        Args:
            content: Read all files, instead of trusting their sizes and dates.

        Raises:
            storage.StorageError: When a file cannot be read.
        """
        return fingerprint(self.files, self.label_names, content)


def fingerprint(
    files: Sequence[folder_lib.ImageFile], label_names: Sequence[str], content: bool = False
) -> str:
    """A digest of image files: names, classes, splits, and sizes and dates or contents."""
    named = [(f"{file.name} {file.label} {file.split}", file.path) for file in files]
    digest = storage.retry(lambda: fingerprint_files(named, content=content), "the image files")
    return f"{digest} {hashlib.sha256(repr(label_names).encode()).hexdigest()[:8]}"


def likeness(source: FolderSource | TfdsSource) -> dict[str, Any]:
    """Describes what copies of a data set share, whatever their dates: names, classes, contents.

    Of a thousand files, the sizes and how they begin.

    Raises:
        storage.StorageError: When a file cannot be read.
    """
    if isinstance(source, FolderSource):
        names = [(file.name, file.label) for file in source.files]
        paths = [file.path for file in source.files]
    else:
        names, paths = source.shard_ends, source.shards

    def look(path: str | os.PathLike | buckets.RemoteFile) -> tuple[int, bytes]:
        if isinstance(path, buckets.Packed) and path.costly:
            return 0, b""  # names and classes have to do
        with buckets.open_file(path, 4096) as file:
            return buckets.stat_file(path)[0], file.read(4096)

    some = paths[:: max(len(paths) // _FILES_COMPARED, 1)]
    heads = [storage.retry(functools.partial(look, path), path) for path in some]
    return {
        "images": len(source),
        "classes": list(source.label_names),
        "names": hashlib.sha256(repr(names).encode("utf-8", "surrogatepass")).hexdigest()[:16],
        "files": hashlib.sha256(repr(heads).encode()).hexdigest()[:16],
    }


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some images of a source, as a source."""

    source: ImageSource
    positions: list[int]

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.source.label_names

    @property
    def description(self) -> str:
        return self.source.description

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.positions[index]]

    def name(self, index: int) -> str:
        return self.source.name(self.positions[index])

    def fingerprint(self, *, content: bool = False) -> str:
        return f"{self.source.fingerprint(content=content)} {self.positions}"


def drafted(source: ImageSource, side: int) -> ImageSource:
    """The source, which may decode JPEG files at a fraction of their size, of ``side`` at least."""
    if isinstance(source, Subset):
        return dataclasses.replace(source, source=drafted(source.source, side))
    if hasattr(source, "at_least"):
        return dataclasses.replace(source, at_least=side)
    return source


def name_data(data_config: ConfigDict, given: Mapping[str, str | None]) -> bool:
    """Makes a configuration name the data of flags instead of its own; False if they name none."""
    named = {name: value for name, value in given.items() if value is not None}
    if named:
        data_config.update(dict.fromkeys(_PLACES) | named)
    return bool(named)


def data_paths(data_config: ConfigDict) -> list[str]:
    """Lists the paths that a configuration reads its data from."""
    return [path for name in _PLACES if name != "tfds_name" and (path := data_config.get(name))]


class DataSet:
    """The data set that a configuration names; its files are listed once for all splits.

    Args:
        data_config: ConfigDict (or any object) with `folder`, `list`, `tars`, `parquet`,
            `tfds_name`, `tfds_dir` and `val_fraction`. One of the first four, or one or both of the
            TFDS fields, is set.
    """

    def __init__(self, data_config: Any):
        self._config = data_config
        self._listing: folder_lib.FolderListing | None = None

    def open(self, split: str) -> FolderSource | TfdsSource:
        """Opens a split: "train", "val", "all", or of TFDS any, e.g. "train[:10%]". Never empty.

        Raises:
            ValueError: When no data set is named, two are, or the split does not exist or is empty.
            FileNotFoundError: When the folder or the prepared data set does not exist.
        """
        config, kind = self._config, self._kind()
        if kind == "tfds":
            return open_tfds(config.tfds_name, config.tfds_dir, split)
        if self._listing is None:
            self._listing = list_images(kind, getattr(config, kind), config.val_fraction)
        return _open_listing(self._listing, split, kind)

    def _kind(self) -> str:
        config = self._config
        kinds = {
            "folder": ("a folder", config.folder),
            # Runs of old versions lack the next three.
            "list": ("a list", getattr(config, "list", None)),
            "tars": ("tar shards", getattr(config, "tars", None)),
            "parquet": ("parquet shards", getattr(config, "parquet", None)),
            "tfds": ("a TFDS data set", config.tfds_name or config.tfds_dir),
        }
        given = [kind for kind, (_, place) in kinds.items() if place]
        if len(given) == 1:
            return given[0]
        names = " and ".join(kinds[kind][0] for kind in given)
        raise ValueError(
            (f"both {names} are given" if given else "no data given")
            + ": set one of data.folder=DIR (a directory of images), data.list=FILE (their paths, "
            "one a line), data.tars, data.parquet and data.tfds_dir=DIR "
            "(made by `gpstoken prepare_data --folder DIR --output DATA_DIR`)"
        )


def list_images(kind: str, place: str, val_fraction: float) -> folder_lib.FolderListing:
    """Lists the images of a "folder", of a "list", or of shards: "tars" or "parquet".

    Raises:
        ValueError, OSError: As `folder.list_folder`, `folder.read_list`, `packed.list_packed`.
    """
    if kind == "folder":
        return folder_lib.list_folder(place, val_fraction)
    if kind == "list":
        return folder_lib.read_list(place, val_fraction)
    from gpstoken_jax.data import packed, parquet, tars

    packing = tars.PACKING if kind == "tars" else parquet.PACKING
    return packed.list_packed(place, packing, val_fraction)


def open_source(data_config: Any, split: str) -> FolderSource | TfdsSource:
    """Opens a split of the data set that a configuration names; see `DataSet`."""
    return DataSet(data_config).open(split)


def open_list(
    path: str | os.PathLike, split: str = "all", val_fraction: float = 0.0
) -> FolderSource:
    """Opens one split of the images that a text file lists; see `folder.read_list` for its lines.

    Raises:
        ValueError: When the split does not exist or a line names no file.
        FileNotFoundError: When there is no such list.
    """
    return _open_listing(folder_lib.read_list(path, val_fraction), split, "list")


def open_folder(
    folder: str | os.PathLike, split: str = "all", val_fraction: float = 0.0
) -> FolderSource:
    """Opens one split of a directory of images; see `folder.list_folder` for its layout.

    Raises:
        ValueError: When the split does not exist.
        FileNotFoundError, NotADirectoryError: When there is no such directory.
    """
    return _open_listing(folder_lib.list_folder(folder, val_fraction), split, "folder")


def _open_listing(listing: folder_lib.FolderListing, split: str, kind: str) -> FolderSource:
    files = listing.split(split)
    if not files:
        known = ", ".join(sorted(folder_lib.count_by_split(listing.files)))
        raise ValueError(f"{listing.root} has no split {split!r}; it has {known} and all")
    description = f"{kind} {listing.root}, split {split}: {len(files)} images"
    return FolderSource(files, listing.label_names, listing.left_out, description)
