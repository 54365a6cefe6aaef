"""Tar shards of the WebDataset convention: members whose names share all before the first dot.

``n01440764/10026.jpg`` with ``n01440764/10026.cls`` (a number or a word) or ``.json`` (an object
with ``"label"``) is one image with its label. Images are read where they lie in the shard.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from gpstoken_jax.data import images
from gpstoken_jax.data.packed import Contents, Packing, Row, as_label
from gpstoken_jax.runtime import buckets
from gpstoken_jax.runtime.files import reading
from gpstoken_jax.runtime.manifest import OutputError
from gpstoken_jax.runtime.outputs import safe_name

_MOST = 2**20  # bytes of a header or a label
_DIGITS = 20  # of no label
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_IMAGE, _LABEL = "image", "label"


class TarMember(buckets.Packed):
    """Bytes of a shard. Equal ones read the same bytes while the shard has its date."""

    __slots__ = ("date", "length", "path", "start")

    def __init__(self, path: str, date: int, start: int, length: int):
        self.path, self.date, self.start, self.length = path, date, start, length

    def __str__(self) -> str:
        return f"{self.path} (bytes {self.start} to {self.start + self.length})"

    def read(self, most: int | None = None) -> bytes:
        """The content, or as much of it as is asked for."""
        length = self.length if most is None else min(most, self.length)
        return buckets.read_range(self.path, self.start, length)

    def stat(self) -> tuple[int, int]:
        """Bytes, and the shard's date with the place in it."""
        return self.length, self.date + self.start


class _Member(tarfile.TarInfo):
    """A member whose extended header is not read if it is huge: it would be kept in memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > _MOST:
            raise ValueError(f"a header of {self.size} bytes at byte {archive.offset}")
        return super()._proc_member(archive)


def index_tar(path: str) -> Contents:
    """Finds the images and their labels in a tar file.

    Raises:
        ValueError: When it is compressed, no tar file, or cut short; names it.
        OSError: When it cannot be read.
    """
    samples: dict[str, dict[str, Any]] = {}
    left_out = []
    with open(path, "rb") as file, reading(path, "a tar file", ValueError, "make it again"):
        for member in _members(file):
            key, kind, reason = _part_of(member)
            sample = samples.setdefault(key, {}) if not reason else {}
            if not reason and kind in sample:
                reason = f"its sample has another {kind}"
            if reason:
                left_out.append((member.name, reason))
            elif kind == _IMAGE:
                name = member.name.removeprefix("./")
                sample[_IMAGE] = name, member.offset_data, member.size
            else:
                sample[_LABEL], reason = _read_label(file, member)
                left_out += [(member.name, reason)] * bool(reason)
    rows = []
    for key, sample in samples.items():
        if _IMAGE in sample:
            rows.append(Row(*sample[_IMAGE], sample.get(_LABEL)))
        else:
            left_out.append((key.removeprefix("/"), "a label without an image"))
    return Contents(rows, left_out)


def _members(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file, to its very end."""
    start = file.read(6)
    if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start == b"\xfd7zXZ\0":
        raise ValueError("it is compressed, and has no random access: unpack it")
    file.seek(0)
    count = 0
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # it would keep all
            place = file.tell()
            yield member
            file.seek(place)
            count += 1
        file.seek(archive.offset)
        block = file.read(tarfile.BLOCKSIZE)
        if block.strip(b"\0") or 0 < len(block) < tarfile.BLOCKSIZE:
            raise ValueError(f"it is cut short or damaged after {count} members")


def _part_of(member: tarfile.TarInfo) -> tuple[str, str, str | None]:
    """Key of a member's sample, image or label, and the reason if it is neither."""
    name = member.name.removeprefix("./")
    folder, base = os.path.split(name)
    stem, _, extension = base.partition(".")
    last = extension.rpartition(".")[2].lower()
    kind = _LABEL if extension.lower() in ("cls", "json") else _IMAGE
    reason = None
    try:
        safe_name(name)
    except OutputError:
        reason = "its name leaves the directory that it would be in"
    if not member.isfile():
        reason = reason or "not a regular file"
    elif kind == _IMAGE and f".{last}" not in images.EXTENSIONS:
        reason = reason or "no image and no label"
    elif kind == _LABEL and member.size > _MOST:
        reason = reason or f"a label of {member.size} bytes"
    return f"{folder}/{stem}", kind, reason


def _read_label(file: IO[bytes], member: tarfile.TarInfo) -> tuple[int | str | None, str]:
    """The label in a member, or why it cannot be read; neither where it is of other things."""
    file.seek(member.offset_data)
    value: Any = file.read(member.size).decode("utf-8", "replace").strip()
    if member.name.lower().endswith(".json"):
        try:
            about = json.loads(value)
        except (ValueError, RecursionError):
            return None, "no JSON"
        if not isinstance(about, dict) or about.get("label") is None:
            return None, ""
        value = about["label"]
    elif value.removeprefix("-").isdecimal():
        value = int(value) if len(value) < _DIGITS else None
    label = as_label(value or None if isinstance(value, str) else value)
    return label, "" if label is not None else "its label is neither a number nor a word"


PACKING = Packing(".tar", index_tar, TarMember)
