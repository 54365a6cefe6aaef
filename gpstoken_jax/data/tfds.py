"""Prepared TFDS data sets (array_record files), read without TensorFlow."""

import bisect
import dataclasses
import hashlib
import itertools
import os
import pathlib
import pickle
from typing import Any

from gpstoken_jax.data import folder as folder_lib
from gpstoken_jax.data import images
from gpstoken_jax.data.examples import Example
from gpstoken_jax.runtime import buckets, storage
from gpstoken_jax.runtime.fingerprints import fingerprint_files
from gpstoken_jax.runtime.manifest import MANIFEST, read_manifest

KIND = "data set"  # of a directory that prepare_data makes


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
