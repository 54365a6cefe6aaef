"""Images inside larger files, listed as the files of a folder are: shards, their index, splits.

An index tells where each image lies. It is made once, kept in the user's cache directory, and made
again when a shard's size or date has changed.
"""

import contextlib
import dataclasses
import fnmatch
import glob
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpstoken_jax.data.folder import (
    NO_LABEL,
    SPLIT_FOLDERS,
    FolderListing,
    ImageFile,
    LeftOut,
    hold_out,
    printable_name,
)
from gpstoken_jax.runtime import buckets, storage
from gpstoken_jax.runtime.files import DamagedFileError, check_sealed_file, write_npz
from gpstoken_jax.runtime.progress import Progress

_VERSION = 2  # of the index
_MOST_CLASSES = 10**6  # where only numbers tell them; one damaged label shall not make more


class Row(NamedTuple):
    """An image in a shard: its name there, its place, and its class by name or number."""

    name: str
    start: int
    length: int
    label: str | int | None


def as_label(value: Any) -> str | int | None:
    """A label as a shard has it: a word, or a whole number of any type; None for all else."""
    if isinstance(value, bool | int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    return value if isinstance(value, str) else None


@dataclasses.dataclass(frozen=True)
class Contents:
    """Everything in a shard.

    Attributes:
        rows: The images.
        left_out: Names of everything else, with reasons.
        label_names: Names of the classes by number, where the shard has them.
    """

    rows: Sequence[Row]
    left_out: Sequence[tuple[str, str]] = ()
    label_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Packing:
    """A kind of shard: the ending of its files, its index, and where one of its images is read."""

    suffix: str
    index: Callable[[str], Contents]
    locate: Callable[[str, int, int, int], buckets.Packed]  # path, its date, start and length


def list_packed(place: str, packing: Packing, val_fraction: float = 0.0) -> FolderListing:
    """Lists the images of shards, in the order of the shards' names.

    Args:
        place: A directory, a file, or a pattern with ``*`` or ``{000..146}``; or in a bucket.
        packing: Their kind.
        val_fraction: Share held out as split "val", as of `folder.list_folder`, where the names of
            the shards tell no splits.

    Raises:
        FileNotFoundError: When there is no such shard.
        ValueError: When one cannot be read, or there is no image in them; names it.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    shards = find_shards(place, packing.suffix)
    contents = _contents(shards, packing)
    splits = _splits(place, [*shards])
    parts = list(zip(_stems([*shards]), shards, contents, strict=True))
    left_out = [
        LeftOut(f"{stem}/{printable_name(name)}", why)
        for stem, _, part in parts
        for name, why in part.left_out
    ]
    if not any(part.rows for _, _, part in parts):
        raise ValueError(f"no image found in {place} ({len(left_out)} other members)")
    number, label_names = _classes(contents, place)
    files, known = [], set()
    for (stem, shard, part), split in zip(parts, splits, strict=True):
        _, date = shards[shard]
        for row in part.rows:
            name = f"{stem}/{printable_name(row.name)}"
            if name in known:
                left_out.append(LeftOut(name, "another one has this name"))
                continue
            known.add(name)
            path = packing.locate(shard, date, row.start, row.length)
            files.append(ImageFile(path, name, number[row.label], split or "train"))
    if not any(splits):
        held_out = hold_out([file.name for file in files], val_fraction)
        files = [file._replace(split="val") if file.name in held_out else file for file in files]
    return FolderListing(place, tuple(files), label_names, tuple(left_out))


def find_shards(place: str, suffix: str) -> dict[str, tuple[int, int]]:
    """The files that a directory, a path or a pattern names, sorted, with bytes and date.

    Raises:
        FileNotFoundError: When one that is named, or any, is not there.
        StorageError: When the bucket cannot be reached.
    """
    if buckets.is_url(place):
        return _find_objects(buckets.check_url(place), suffix)
    found = _find_files(os.path.expanduser(place), suffix)
    return {path: storage.retry(lambda path=path: buckets.stat_file(path), path) for path in found}


def _find_files(place: str, suffix: str) -> list[str]:
    if os.path.isfile(place):  # a literal name beats a pattern
        return [place]
    if os.path.isdir(place):
        found = sorted(str(path) for path in Path(place).rglob(f"*{suffix}") if path.is_file())
        if not found:
            raise FileNotFoundError(f"there is no file *{suffix} in {place}")
        return found
    found = []
    for path in _expand_braces(place):
        matches = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
        if not matches or not os.path.isfile(matches[0]):
            raise FileNotFoundError(f"there is no file {path}")
        found += matches
    return sorted(set(found))


def _find_objects(place: str, suffix: str) -> dict[str, tuple[int, int]]:
    """As ``_find_files``, of all that is below the place, or below where its pattern begins."""
    root = place
    while re.search(r"[*?\[{]", root):
        root = root.rpartition("/")[0]
    there = {
        f"{root}/{name}".rstrip("/"): buckets.stat_file(buckets.RemoteFile(place, found))
        for name, found in buckets.list_objects(root).items()
    }
    if place in there:
        return {place: there[place]}
    if root == place:
        found = [path for path in there if path.endswith(suffix)]
        if not found:
            raise FileNotFoundError(f"there is no object *{suffix} at {place}")
    else:
        found = []
        for pattern in _expand_braces(place):
            matches = [path for path in there if _matches(path, pattern)]
            if not matches:
                raise FileNotFoundError(f"there is no object {pattern}")
            found += matches
    return {path: there[path] for path in sorted(set(found))}


def _matches(path: str, pattern: str) -> bool:
    """Tells whether a path is of a pattern whose ``*`` ends at a slash, as ``glob`` has it."""
    pairs = [*itertools.zip_longest(path.split("/"), pattern.split("/"), fillvalue="")]
    return all(fnmatch.fnmatchcase(*pair) for pair in pairs)


def _expand_braces(pattern: str) -> list[str]:
    """Paths with ``{000..146}`` and ``{a,b}`` written out."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        first, last = numbers.groups()
        parts = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    else:
        parts = match[1].split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [path for part in parts for path in _expand_braces(head + part + tail)]


def _stems(shards: Sequence[str]) -> list[str]:
    """Short names of the shards: without the directories that all share, and the suffix."""
    if len(shards) == 1:
        return [printable_name(Path(shards[0]).stem)]
    root = os.path.commonpath([os.path.dirname(path) for path in shards])
    return [printable_name(os.path.splitext(os.path.relpath(path, root))[0]) for path in shards]


def _splits(place: str, shards: Sequence[str]) -> list[str]:
    """Split of each shard by a word in its name, as of folders; all empty if there are none."""
    found = []
    for stem in _stems(shards):
        words = re.split(r"[^a-z]+", stem.lower())
        found.append(next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), ""))
    named = set(found) - {""}
    if not named or "" not in found:
        return found
    raise ValueError(
        f"{place} has shards of {', '.join(sorted(named))} by their names, and others: "
        f"{shards[found.index('')]} is of no split"
    )


def _classes(
    contents: Iterable[Contents], place: str
) -> tuple[dict[str | int | None, int], tuple[str, ...]]:
    """Number of each label, and the names of the classes."""
    labels = {row.label for part in contents for row in part.rows} - {None}
    names = next((part.label_names for part in contents if part.label_names), ())
    if all(isinstance(label, int) for label in labels):
        if labels and min(labels) < 0:
            labels -= {NO_LABEL}
        most = len(names) or _MOST_CLASSES
        if labels and (min(labels) < 0 or max(labels) >= most):
            raise ValueError(f"{place} has labels from {min(labels)} to {max(labels)}")
        if labels and not names:
            names = tuple(map(str, range(max(labels) + 1)))
        number = {label: label for label in labels}
    elif any(isinstance(label, int) for label in labels):
        raise ValueError(f"{place} has both numbers and words for labels")
    else:
        names = tuple(sorted(labels))
        number = {name: i for i, name in enumerate(names)}
    return number | {None: NO_LABEL, NO_LABEL: NO_LABEL}, names


# ---- The index -----------------------------------------------------------------------------------


def _contents(shards: Mapping[str, tuple[int, int]], packing: Packing) -> list[Contents]:
    """Contents of the shards, from an index that was kept, or from the shards."""
    state = [
        [path if buckets.is_url(path) else os.path.abspath(path), *stat]
        for path, stat in shards.items()
    ]
    place = _index_place([packing.suffix, *(path for path, *_ in state)])
    if place and (kept := _read_index(place, state)) is not None:
        return kept
    progress = Progress(len(shards), label="looking for images: ", unit="shards")
    contents = []
    for path in shards:
        with buckets.local_copy(path) as copy:
            contents.append(storage.retry(lambda copy=copy: packing.index(copy), copy))
        progress.advance(1)
    if place:
        with contextlib.suppress(OSError):  # a full disk: it is made anew the next time
            _write_index(place, state, contents)
    return contents


def _index_place(shards: Sequence[str]) -> Path | None:
    """The index's file in the user's cache directory; None where there is no place for one.

    Its name is told by the kind of the shards, which comes first, and their paths.
    """
    name = hashlib.sha256("\0".join(shards).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = cache / "gpstoken_jax" / "shards"
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # read-only, or a user that the system does not know
        return None
    return directory / f"{name}.npz" if os.access(directory, os.W_OK) else None


def _write_index(path: Path, state: list, contents: Sequence[Contents]) -> None:
    rows = [row for part in contents for row in part.rows]
    labels = list(dict.fromkeys(row.label for row in rows))
    number = {label: i for i, label in enumerate(labels)}
    facts = {
        "version": _VERSION,
        "shards": state,
        "labels": labels,
        "left_out": [part.left_out for part in contents],
        "label_names": [part.label_names for part in contents],
    }
    names = json.dumps([row.name for row in rows])
    arrays = {
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
        "names": np.frombuffer(names.encode(), np.uint8),
        "ends": np.cumsum([len(part.rows) for part in contents]),
        "place": np.array([(row.start, row.length) for row in rows], np.int64).reshape(-1, 2),
        "label": np.array([number[row.label] for row in rows], np.int32),
    }
    write_npz(path, arrays)


def _read_index(path: Path, state: list) -> list[Contents] | None:
    """The index if it is there, whole, and of these shards."""
    try:
        check_sealed_file(path)
        with np.load(path) as file:
            facts = json.loads(file["facts"].tobytes())
            if facts["version"] != _VERSION or facts["shards"] != state:
                return None
            names = json.loads(file["names"].tobytes())
            ends, label = file["ends"].tolist(), file["label"].tolist()
            places = file["place"].tolist()
    except (OSError, DamagedFileError, KeyError, ValueError):
        return None
    rows = [
        Row(name, *place, facts["labels"][number])
        for name, place, number in zip(names, places, label, strict=True)
    ]
    return [
        Contents(rows[start:end], [tuple(entry) for entry in left_out], tuple(label_names))
        for (start, end), left_out, label_names in zip(
            itertools.pairwise([0, *ends]), facts["left_out"], facts["label_names"], strict=True
        )
    ]
