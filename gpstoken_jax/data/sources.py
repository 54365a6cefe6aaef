"""Random access to the images of a folder, of a list of files or of a TFDS data set.

A source has a length, `label_names`, a `description` and `source[i]`, which decodes image i or
raises `UnreadableImageError`. Everything after (order, crops, batches) is in `loader.py`.
"""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from gpstoken_jax.data import folder as folder_lib
from gpstoken_jax.data import images
from gpstoken_jax.data.resize import Picture, size_of, to_array
from gpstoken_jax.runtime import buckets, storage
from gpstoken_jax.runtime.fingerprints import fingerprint_files
from gpstoken_jax.runtime.outputs import MANIFEST, read_manifest

KIND = "data set"  # of a directory that prepare_data makes
_FILES_COMPARED = 1000
_PLACES = ("folder", "list", "tars", "parquet", "tfds_name", "tfds_dir")  # fields that name data


@dataclasses.dataclass(frozen=True)
class Example:
    """One decoded image with what is known about it.

    Attributes:
        picture: Upright RGB in 0..255, as an array or a PIL image.
        label: Index into the source's `label_names`, or -1.
        name: Path relative to the folder it came from, or the data set's own file name.
        original_size: (height, width) before `picture` was cut; None if it is all of it.
    """

    picture: Picture
    label: int
    name: str
    original_size: tuple[int, int] | None = None

    @functools.cached_property
    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture as an array, which may be read-only."""
        return to_array(self.picture)

    @property
    def size(self) -> tuple[int, int]:
        """Original (height, width), upright."""
        return self.original_size or size_of(self.picture)


class ImageSource(Protocol):
    """Interface of a data set to the loader."""

    label_names: tuple[str, ...]
    description: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """Name of an image."""

    def fingerprint(self, *, content: bool = False) -> str:
        """A digest that changes with the images, their names or their classes."""


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


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """Reads a prepared TFDS data set (array_record files) without TensorFlow."""

    records: Any  # tfds data source that leaves the image encoded
    image_key: str
    label_key: str | None
    name_key: str | None
    label_names: tuple[str, ...]
    description: str
    split: str
    shards: tuple[str, ...]  # the files
    shard_ends: tuple[int, ...]  # number of the first record after each
    at_least: int | None = None  # see `images.decode`

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record = self._read(index)
        encoded = record[self.image_key]
        decoded = images.decode(bytes(encoded), at_least=self.at_least)
        label = int(record[self.label_key]) if self.label_key else folder_lib.NO_LABEL
        return Example(decoded.picture, label, self._name_of(record, index), decoded.size)

    def name(self, index: int) -> str:
        """The name of record `index`; by its number when the record itself cannot be read."""
        try:
            record = self._read(index)
        except images.UnreadableImageError:
            return self._number_name(index)
        return self._name_of(record, index)

    def fingerprint(self, *, content: bool = False) -> str:
        """A digest that changes with the files of records; see `FolderSource`."""
        files = [(os.path.basename(path), path) for path in self.shards]
        digest = storage.retry(lambda: fingerprint_files(files, content=content), self.description)
        classes = hashlib.sha256(repr((self.split, self.shard_ends, self.label_names)).encode())
        return f"{digest} {classes.hexdigest()[:8]}"

    def _read(self, index: int) -> dict[str, Any]:
        try:
            return self.records[index]
        except Exception:  # of C++, the same ones for a damaged file and for a faulty disk
            path = self.shards[bisect.bisect_right(self.shard_ends, index)]
            return storage.retry(lambda: self._read_anew(index, path), path)

    def _read_anew(self, index: int, path: str) -> dict[str, Any]:
        """Reads a record with a reader of its own; one that has failed once stays failed.

        Raises:
            images.UnreadableImageError: When the file can be read, but not as records.
            OSError: When the system cannot read the file.
        """
        try:
            return pickle.loads(pickle.dumps(self.records))[index]
        except Exception as error:
            storage.read_through(path)
            raise images.UnreadableImageError(f"record cannot be read: {error}") from error

    def _name_of(self, record: dict[str, Any], index: int) -> str:
        if self.name_key is None:
            return self._number_name(index)
        value = record[self.name_key]
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)

    def _number_name(self, index: int) -> str:
        return f"{self.split}-{index:08d}"


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


def open_tfds(name: str | None, data_dir: str | None, split: str) -> TfdsSource:
    """Opens one split of a prepared TFDS data set.

    Args:
        name: TFDS name such as "imagenet2012" or "my_set:1.0.0"; None to take the only data set
            that lies in `data_dir`.
        data_dir: Directory of data sets, or of one (where dataset_info.json is); None for TFDS's
            own default directory.
        split: Any split of it; "val" also finds "validation" and the other way round.

    Raises:
        FileNotFoundError: When it is not prepared there.
        ValueError: When the split does not exist, its records hold no image, or its files are not
            array_record.
    """
    import tensorflow_datasets as tfds  # here, so that reading folders does not wait for it

    builder = _find_builder(tfds, name, data_dir)
    split = _existing_split(builder, split)
    features = builder.info.features
    image_key = _image_key(tfds, features)
    try:
        records = builder.as_data_source(
            split=split, decoders={image_key: tfds.decode.SkipDecoding()}
        )
    except NotImplementedError as error:
        raise ValueError(
            f"{builder.data_dir} is not stored as array_record, the only format that can be read "
            "without TensorFlow: prepare it again with --file_format=array_record"
        ) from error
    if len(records) == 0:
        raise ValueError(f"split {split!r} of {builder.data_dir} is empty")
    label_key = "label" if "label" in features else None
    names = getattr(features[label_key], "names", ()) if label_key else ()
    shrunken = ""
    if builder.name == "image_files":  # one of ours
        from gpstoken_jax.data.records import described_shrinking, unescape_class

        names = map(unescape_class, names)
        shrunken = described_shrinking(builder.info.description)
    name_key = next(
        (key for key in ("name", "file_name", "filename", "id") if key in features), None
    )
    description = f"TFDS {builder.info.full_name}, split {split}: {len(records)} images{shrunken}"
    files = builder.info.splits[split].file_instructions
    return TfdsSource(
        records,
        image_key,
        label_key,
        name_key,
        tuple(names),
        description,
        split,
        tuple(str(file.filename) for file in files),
        tuple(itertools.accumulate(file.take for file in files)),
    )


def _find_builder(tfds: Any, name: str | None, data_dir: str | None) -> Any:
    """Returns the builder of a data set that is prepared on disk."""
    if data_dir:
        data_dir = buckets.fetch(data_dir)
    if name:
        if data_dir:
            _check_files(data_dir)
        try:
            builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
        except tfds.core.DatasetNotFoundError as error:
            raise FileNotFoundError(f"TFDS knows no data set {name!r}: {error}") from error
        if not builder.is_prepared():
            raise FileNotFoundError(
                f"the data set {name!r} is not prepared in {builder.data_dir}: run "
                f"`tfds build {name} --file_format=array_record` once, with --data_dir if needed"
            )
        return builder
    found = _find_prepared(data_dir)
    if len(found.parents) > 1:
        _check_files(found.parents[1])
    return tfds.builder_from_directory(str(found))


def _check_files(directory: pathlib.Path) -> None:
    """Compares the small files of a data set of ours with what was written, if there is one.

    Records are not read here; they have checksums of their own, which count when they are read.

    Raises:
        DamagedFileError: When one differs.
    """
    if not (directory / MANIFEST).exists():
        return  # someone else's, prepared by an early version, or moved alone
    manifest = read_manifest(directory, KIND)
    for name in manifest.files:
        if name.endswith((".json", ".txt")):
            manifest.check(name)


def _find_prepared(data_dir: pathlib.Path) -> pathlib.Path:
    """Finds the only prepared data set in a directory or up to three levels below it."""
    found = [
        path.parent
        for depth in range(4)
        for path in sorted(data_dir.glob("*/" * depth + "dataset_info.json"))
        if "incomplete" not in path.parent.name
    ]
    if not found:
        raise FileNotFoundError(
            f"no prepared data set in {data_dir}: make one with "
            "`gpstoken prepare_data --folder DIR --output DATA_DIR`"
        )
    if len(found) > 1:
        raise ValueError(
            f"{data_dir} holds several data sets, name one as data.tfds_dir: "
            + ", ".join(map(str, found))
        )
    return found[0]


def _existing_split(builder: Any, split: str) -> str:
    """Checks a split (also "train[:10%]") and resolves val / validation."""
    base, bracket, rest = split.partition("[")
    known = set(builder.info.splits)
    twin = {"val": "validation", "validation": "val"}.get(base)
    if base not in known and twin in known:
        return twin + bracket + rest
    if base not in known and base != "all" and "+" not in split:
        raise ValueError(
            f"{builder.data_dir} has no split {split!r}; it has {', '.join(sorted(known))} and all"
        )
    return split


def _image_key(tfds: Any, features: Any) -> str:
    keys = [key for key, value in features.items() if isinstance(value, tfds.features.Image)]
    if "image" in keys:
        return "image"
    if len(keys) != 1:
        raise ValueError(
            f"which feature is the image? Found {keys or 'none'} among {list(features)}"
        )
    return keys[0]
