"""Files that are there whole or not at all, and a seal that shows when one was damaged.

A sealed file holds the SHA-256 of its own bytes, taken with the digest's place filled with zeros.
It lies where the format has room for a text: a field of a JSON object, the metadata of a
safetensors file, the comment of a zip archive. So one file can be copied alone, is read by any
reader of its format, and no bit of it can change unnoticed.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import mmap
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from gpstoken_jax.runtime.buckets import RemoteFile, open_file
from gpstoken_jax.runtime.storage import StorageError

_SEAL = b"gpstoken-seal:sha256:"
_DIGITS = 64
UNSEALED = (_SEAL + b"0" * _DIGITS).decode()
"""The text to put into a file for ``seal_bytes`` to fill in."""
SEAL_KEY = "seal"
_BY_CONTENT = (None, errno.EINVAL)  # of a seek that damaged content asks for
TEMPORARY_SUFFIX = ".gpstoken-tmp"
_UMASK = os.umask(0o077)  # asking for it sets it
os.umask(_UMASK)


class DamagedFileError(ValueError):
    """A file is not what was written; the message names it and says what to do."""


@contextlib.contextmanager
def reading(
    path: str | Path, expected: str, error: type[Exception] = DamagedFileError, remedy: str = ""
) -> Iterator[None]:
    """Turns whatever a reader raises on a file's content into one class of error.

    Around the reading of bytes that others made, where parsers raise nearly anything; a file that
    cannot be opened is best noticed before, as an ordinary OSError.

    Args:
      path: the file that is being read, for the message.
      expected: what it should be, e.g. ``"a .npz file"``.
      error: the reader's documented class; one of these that is raised inside keeps its words.
      remedy: what to do about a file that is damaged or another one.
    """
    end = remedy and f": {remedy}"
    try:
        yield
    except error as known:
        if str(path) in str(known):
            raise
        raise error(f"{path} was not read: {known}") from known
    except DamagedFileError as damaged:
        raise error(str(damaged)) from damaged
    except MemoryError as cause:
        raise error(f"{path} was not read: it asks for more memory than there is") from cause
    except Exception as cause:
        if isinstance(cause, StorageError) or getattr(cause, "errno", None) not in _BY_CONTENT:
            raise  # the storage failed, which says nothing of the file
        reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
        raise error(f"{path} is damaged or not {expected} ({reason}){end}") from cause


@contextlib.contextmanager
def open_new(path: str | Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Opens a file for writing that appears under its name when it is complete, and not before.

    A file of that name is replaced. After an error or a kill, what was there before is untouched.

    Args:
      path: the file; its directory must exist.
      durable: wait until the disk has it, so that it also survives a loss of power.

    Raises:
      OSError: if it cannot be written.
    """
    path = Path(path)
    file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below, before it gets its name
        dir=path.parent, prefix=".", suffix=TEMPORARY_SUFFIX, delete=False
    )
    try:
        with file:
            _try_lock(file)  # as long as it is open, it is no leftover
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(file.name, 0o666 & ~_UMASK)
        os.replace(file.name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(file.name)
        raise
    if durable:
        _sync_directory(path.parent)


def write_file(path: str | Path, data: bytes | str, *, durable: bool = True) -> None:
    """Writes a file whole or not at all; text as UTF-8. See ``open_new``."""
    with open_new(path, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def seal_bytes(data: bytes) -> bytes:
    """Fills in the seal of a file's content.

    Args:
      data: the content, with the text ``UNSEALED`` somewhere in it.

    Raises:
      ValueError: if that text is not there.
    """
    start = data.find(UNSEALED.encode())
    if start < 0:
        raise ValueError("there is no place for a seal in this content")
    start += len(_SEAL)
    return data[:start] + _digest(data, start) + data[start + _DIGITS :]


def check_seal(data: bytes | mmap.mmap, path: str | Path, *, required: bool = True) -> bool:
    """Compares a file's content with its seal.

    Args:
      data: the whole content.
      path: where it is from, for the message.
      required: whether a file without a seal is an error; those of other programs have none.

    Returns:
      Whether there is a seal.

    Raises:
      DamagedFileError: if the content is not what was sealed.
    """
    starts = []
    start = data.find(_SEAL)
    while start >= 0:
        starts.append(start + len(_SEAL))
        start = data.find(_SEAL, start + 1)
    if not starts and not required:
        return False
    # Text that looks like a seal may occur in a name; the real one verifies.
    if not any(data[s : s + _DIGITS] == _digest(data, s) for s in starts):
        raise DamagedFileError(
            f"{path} is damaged: its content does not match its checksum; restore it from a copy "
            "or make it again"
        )
    return True


def check_sealed_file(path: str | Path, *, required: bool = True) -> bool:
    """Compares a file with its seal, without holding it in memory. See ``check_seal``."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise DamagedFileError(f"{path} is damaged: it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return check_seal(data, path, required=required)


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Writes a sealed JSON object, whole or not at all, and without all of its text in memory."""
    sealed, digest = {SEAL_KEY: UNSEALED} | dict(value), hashlib.sha256()
    with open_new(path) as file:
        for piece in json.JSONEncoder(indent=2).iterencode(sealed):
            digest.update(piece.encode())
            file.write(piece.encode())
        digest.update(b"\n")
        file.write(b"\n")
        file.seek(len(f'{{\n  "{SEAL_KEY}": "'.encode() + _SEAL))
        file.write(digest.hexdigest().encode())


def sealed_json(value: Mapping[str, Any], indent: int = 2) -> bytes:
    """The content of a sealed JSON file, in memory."""
    text = json.dumps({SEAL_KEY: UNSEALED} | dict(value), indent=indent)
    return seal_bytes(text.encode() + b"\n")


def sealed_safetensors(
    tensors: Mapping[str, Any], key: str, about: Mapping[str, Any], **metadata: str
) -> bytes:
    """The content of a sealed safetensors file; equal contents are equal bytes.

    Args:
      tensors: NumPy arrays by name.
      key: of the metadata that holds the seal and ``about``, as one JSON text.
      about: anything that JSON can hold.
      metadata: further entries.
    """
    from safetensors.numpy import save

    text = json.dumps({SEAL_KEY: UNSEALED} | dict(about))
    return seal_bytes(save(dict(tensors), {**metadata, key: text}))


def write_npz(path: str | Path, arrays: Mapping[str, Any], *, durable: bool = True) -> None:
    """Writes NumPy arrays as a sealed ``.npz``, whole or not at all; its seal is a zip comment.

    Arrays that are mapped from files are never all in memory.
    """
    import numpy as np

    with open_new(path, durable=durable) as file:
        np.savez(file, **arrays)
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = UNSEALED.encode()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(-_DIGITS, os.SEEK_END)  # the comment's end is the file's
        file.write(digest.encode())


def read_json(path: str | Path, *, required: bool = False) -> dict[str, Any]:
    """Reads a JSON object and checks its seal.

    Args:
      path: the file.
      required: whether a file without a seal is an error; early versions wrote none.

    Raises:
      DamagedFileError: if it is no JSON object, or not what was written.
      OSError: if it cannot be read.
    """
    data = Path(path).read_bytes()
    sealed = check_seal(data, path, required=required)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, of endless nesting
        raise DamagedFileError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedFileError(f"{path} is damaged: it holds no JSON object")
    if SEAL_KEY in value and not sealed:
        raise DamagedFileError(f"{path} is damaged: its seal is not readable")
    return {key: item for key, item in value.items() if key != SEAL_KEY}


def digest_file(path: str | Path | RemoteFile) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_temporary_files(directory: str | Path) -> None:
    """Removes what killed processes had begun to write into a directory that is ours."""
    for path in Path(directory).rglob(f".*{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if _try_lock(file):
                path.unlink()


def _try_lock(file: IO[bytes]) -> bool:
    """Locks an open file against other processes; whether that was possible."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _digest(data: bytes | mmap.mmap, start: int) -> bytes:
    """Hexadecimal SHA-256 of ``data`` with the digits from ``start`` as zeros."""
    digest = hashlib.sha256()
    with memoryview(data) as view:
        digest.update(view[:start])
        digest.update(b"0" * _DIGITS)
        digest.update(view[start + _DIGITS :])
    return digest.hexdigest().encode()


def _sync_directory(directory: Path) -> None:
    """Makes a rename durable where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
