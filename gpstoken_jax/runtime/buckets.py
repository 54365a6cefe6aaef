"""Places in buckets: ``s3://BUCKET/NAME`` and ``gs://BUCKET/NAME``.

Programs work on local disks. What they read of a bucket is copied to a scratch directory first,
below ``TMPDIR``; what they write grows there, and is copied to the bucket as it grows: see
``Mirror``. The scratch goes with the process; that of a killed one, when another begins.
"""

import atexit
import contextlib
import fcntl
import functools
import importlib.util
import io
import os
import re
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import IO, Any, NamedTuple

from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.runtime.storage import StorageError, check_free_space

_SCHEMES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}  # the package, the extra that brings it
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)  # a drive has one letter
_SCRATCH = "gpstoken-scratch-"
_AT_ONCE = 16  # transfers
_MB, _LARGE = 10**6, 10**8  # bytes; copying more of them shows its progress
_YOUNG = 60.0  # seconds in which a scratch directory gets its lock
Choose = Callable[[str], bool]


class Object(NamedTuple):
    """Size in bytes of an object, when it was written, and what changes with every writing."""

    bytes: int
    written: datetime
    tag: str


def is_url(path: str | Path) -> bool:
    """Tells whether a path begins with a scheme, as ``s3://``; ``Path`` leaves one slash of it."""
    return _URL.match(str(path)) is not None


def check_url(path: str | Path) -> str:
    """Checks that a place with a scheme can be reached from here, and returns it with two slashes.

    Raises:
      ValueError: if there is no such scheme, it names no bucket, or a package is missing.
    """
    scheme, place = _URL.match(str(path)).groups()
    if scheme not in _SCHEMES:
        raise ValueError(
            f"{path}: there is no {scheme}:// here; places are local paths, s3://BUCKET/NAME and "
            "gs://BUCKET/NAME"
        )
    if not all(place.rstrip("/").split("/")) or "/" not in place.rstrip("/"):
        raise ValueError(f"{path} must be {scheme}://BUCKET/NAME")
    package, extra = _SCHEMES[scheme]
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{scheme}:// needs {package}: pip install 'gpstoken_jax[{extra}]'")
    return f"{scheme}://{place.rstrip('/')}"


def fetch(path: str | Path, choose: Callable[[Iterable[str]], Choose] | None = None) -> Path:
    """A local path as it is, its home expanded; of a place in a bucket, a copy on a local disk.

    A process copies what has not changed once; the files have the objects' dates.

    Args:
      path: a file or a directory.
      choose: given the names of all objects below it, tells which of them are wanted.

    Raises:
      FileNotFoundError: if there is nothing of that name in the bucket.
      ValueError: for a scheme that there is not.
      StorageError: if the bucket cannot be reached.
    """
    if not is_url(path):
        return Path(path).expanduser()
    url = check_url(path)
    objects = list_objects(url)
    if not objects:
        raise FileNotFoundError(f"there is nothing at {url}")
    wanted = choose(objects) if choose else bool
    objects = {name: found for name, found in objects.items() if wanted(name or url)}
    before, copy = _copies.get(url, ({}, Path()))
    if before != objects:
        copy = scratch_of(url)
        download(url, copy, objects)
        _copies[url] = objects, copy
    return copy


def exists(path: str | Path) -> bool:
    """Tells whether there is anything, be it a link to nothing, at a place.

    Raises:
      ValueError, StorageError: as of ``fetch``.
    """
    if is_url(path):
        return bool(list_objects(check_url(path)))
    return os.path.lexists(Path(path).expanduser())


def list_objects(url: str) -> dict[str, Object]:
    """The objects below a place by relative name; ``""`` is one of the very name.

    Raises:
      StorageError: if the bucket cannot be reached.
    """
    start = len(url.partition("://")[2]) + 1
    with speaking_of(url):
        found = file_system(url).find(url, detail=True)
    return {
        name[start:]: Object(
            entry["size"],
            entry.get("LastModified") or entry["mtime"],
            str(entry.get("ETag") or entry.get("generation")),
        )
        for name, entry in sorted(found.items())
        if entry["type"] == "file" and not name.endswith("/")  # consoles mark folders so
    }


class RemoteFile(NamedTuple):
    """An object that is read where it is, for ``open_file`` and ``stat_file``."""

    url: str
    object: Object

    def __str__(self) -> str:
        return self.url


class Packed:
    """A file inside another one, for ``open_file`` and ``stat_file``.

    Attributes:
      costly: reading one reads many others, too.
    """

    __slots__ = ()
    costly = False

    def read(self, most: int | None = None) -> bytes:
        """The content, or as much of it as is asked for."""
        raise NotImplementedError

    def stat(self) -> tuple[int, int]:
        """Size in bytes, 0 if it is not known, and a date in nanoseconds."""
        raise NotImplementedError


def open_file(path: str | Path | RemoteFile | Packed, most: int | None = None) -> IO[bytes]:
    """Opens a file for reading; one in a bucket or a file is in memory, at most so many bytes."""
    if isinstance(path, Packed):
        return io.BytesIO(path.read(most))
    if not isinstance(path, RemoteFile):
        return open(path, "rb")
    if not path.object.bytes:
        return io.BytesIO()
    with speaking_of(path.url):
        return io.BytesIO(file_system(path.url).cat_file(path.url, end=most))


def read_range(path: str, start: int, length: int) -> bytes:
    """Reads some bytes of a local file, or of an object."""
    if not is_url(path):
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(length)
    if not length:
        return b""
    with speaking_of(path):
        return file_system(path).cat_file(path, start=start, end=start + length)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A local path as it is; of an object, a copy that is there for a while."""
    if not is_url(path):
        yield path
        return
    copy = scratch_of(path)
    download(path, copy, list_objects(path))
    try:
        yield str(copy)
    finally:
        copy.unlink()


def stat_file(path: str | Path | RemoteFile | Packed) -> tuple[int, int]:
    """Size in bytes and date in nanoseconds; in a bucket those that the listing had."""
    if isinstance(path, Packed):
        return path.stat()
    if isinstance(path, RemoteFile):
        return path.object.bytes, int(path.object.written.timestamp() * 1e9)
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def write_object(url: str, data: bytes) -> None:
    """Writes an object, which is there whole or not at all."""
    with speaking_of(url):
        file_system(url).pipe_file(url, data)


def remove(url: str) -> None:
    """Deletes an object; one that is gone already is no error."""
    with contextlib.suppress(FileNotFoundError), speaking_of(url):
        file_system(url).rm_file(url)


@contextlib.contextmanager
def writing_file(path: str | Path) -> Iterator[Path]:
    """A path on a local disk to write a file at; that of an object is copied there at the end."""
    url = check_url(path) if is_url(path) else None
    file = scratch_of(url) if url else Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    yield file
    if url:
        with speaking_of(url):
            file_system(url).put_file(str(file), url)


def local(path: str | Path) -> Path:
    """A path on a local disk, its home expanded.

    Raises:
      ValueError: for a place in a bucket, or of any other scheme.
    """
    if is_url(path):
        raise ValueError(f"{path} must be a path on a local disk: copy it from there")
    return Path(path).expanduser()


def download(url: str, directory: Path, objects: dict[str, Object]) -> None:
    """Copies objects, by name below ``url``, to a local directory.

    Raises:
      StorageError: if there is no room for them, or the bucket cannot be reached.
    """
    size = sum(found.bytes for found in objects.values())
    remedy = "set TMPDIR to a place on a larger disk"
    check_free_space(directory, size, f"a copy of {url} takes", remedy)
    progress, done = Progress(size // _MB, label=f"copying {url}: ", unit="MB"), []

    def get(name: str) -> None:
        if name and any(part in ("", ".", "..") for part in name.split("/")):
            raise StorageError(f"{url}/{name} can be no file on a disk: take it away")
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with speaking_of(url):
            file_system(url).get_file(f"{url}/{name}" if name else url, str(path))
        seconds = objects[name].written.timestamp()
        os.utime(path, (seconds, seconds))
        done.append(objects[name].bytes)
        if size > _LARGE:
            progress.advance(sum(done) // _MB - progress.done)

    each(get, objects)


def each(function: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Calls a function with every item, several at once; raises the first error.

    A process can end while calls hang in a network, which one with an executor waits for.
    """
    left, errors = deque(items), []

    def work() -> None:
        while left and not errors:
            with contextlib.suppress(IndexError):  # another thread took the last
                item = left.popleft()
                try:
                    function(item)
                except BaseException as error:
                    errors.append(error)

    threads = [Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, len(left)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def file_system(url: str) -> Any:
    """The fsspec file system of a place; a process has one of each scheme."""
    import fsspec

    return fsspec.filesystem(url.partition(":")[0], use_listings_cache=False)


@contextlib.contextmanager
def speaking_of(url: str) -> Iterator[None]:
    """Turns what clients of buckets raise into errors that name the place.

    Raises:
      StorageError: for anything but an object that is there already, or is not there.
    """
    try:
        yield
    except (FileExistsError, StorageError):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} is not there: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise StorageError(f"{url} cannot be reached: {reason}") from error


# ---- Scratch ------------------------------------------------------------------------------------

_urls: dict[str, str] = {}  # by scratch directory, for messages
_copies: dict[str, tuple[dict[str, Object], Path]] = {}  # of places, with what was copied


def scratch_of(url: str) -> Path:
    """A new path on a local disk for a place; its parent is there."""
    scheme, _, place = url.partition("://")
    path = Path(tempfile.mkdtemp(dir=_scratch())) / scheme / PurePosixPath(place)
    path.parent.mkdir(parents=True)
    _urls[str(path)] = url
    return path


def as_given(text: str) -> str:
    """A message with the places that a user has named for the scratch directories in it."""
    for path, url in _urls.items():
        text = text.replace(path, url)
    return text


@functools.cache
def _scratch() -> Path:
    """This process's scratch directory, once those of killed processes are swept away."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _YOUNG and (lock := _try_lock(path)):
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)
    path, process = Path(tempfile.mkdtemp(prefix=_SCRATCH)), os.getpid()
    _try_lock(path)  # it goes with the process
    atexit.register(lambda: os.getpid() == process and shutil.rmtree(path, ignore_errors=True))
    return path


def _try_lock(directory: Path) -> int | None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
