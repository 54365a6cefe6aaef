"""Directories in buckets that a program writes, and their copies on a local disk.

The program works on the copy as on any directory. A thread copies to the bucket what has changed,
in an order in which the bucket is at any time what a kill would leave on a disk: manifests of what
is not complete come first, then journals, files, Orbax's marks and manifests of what is complete,
and what is deleted goes last. An object is there whole or not at all.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from gpstoken_jax.runtime import buckets
from gpstoken_jax.runtime.buckets import Object
from gpstoken_jax.runtime.files import TEMPORARY_SUFFIX
from gpstoken_jax.runtime.lease import FOLDER as LEASES
from gpstoken_jax.runtime.lease import InUseError, Lease, LeaseError
from gpstoken_jax.runtime.storage import StorageError

PAUSE = 10.0  # seconds between two looks at what has changed, at least
SPARING = 10.0  # times as long as a look took is waited before the next, if that is more
PATIENCE = 100.0  # seconds in which nothing can be copied
_FINISHING = 99_999  # in the place of a process's number
_WAIT = 1.0  # seconds between two looks at another's lease
_SMALL = 2**23  # bytes that are read before they are sent, as they may grow meanwhile
_UNFINISHED = (TEMPORARY_SUFFIX, ".orbax-checkpoint-tmp")
_Choose = Callable[[Iterable[str]], buckets.Choose] | None
_IsPart = Callable[[str], Any]
_State = tuple[int, int]  # size and date of a file


@dataclass
class Place:
    """A directory on a local disk, with the methods of a ``Mirror``, which have nothing to do."""

    directory: Path

    def __str__(self) -> str:
        return str(self.directory)

    def pull(self) -> None:
        """Copies what is new in the bucket."""

    def push(self) -> None:
        """Copies what has changed to the bucket."""

    def check(self) -> None:
        """Raises StorageError if that has failed."""

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Waits until no other process finishes the place; False if one has done it."""
        yield True

    def close(self) -> None:
        """Copies the rest and lets go of the place."""

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_place(
    path: str | Path, process: int = 0, choose: _Choose = None, is_part: _IsPart | None = None
) -> Place:
    """The directory of a local path, or the mirror of a place in a bucket.

    Args:
      path: of the user.
      process: which of several processes that write there.
      choose: which objects are copied here, see ``buckets.fetch``; all by default.
      is_part: which names are parts of something that is whole here or nowhere: a killed process
        has left those that are not here in the end, and they are deleted.

    Raises:
      LeaseError: if another process writes to the place.
      StorageError: if the bucket cannot be reached.
    """
    if not buckets.is_url(path):
        return Place(Path(path).expanduser())
    return Mirror(buckets.check_url(path), process, choose, is_part)


class Mirror(Place):
    """A place in a bucket, and the copy of it that this process works on.

    Attributes:
      directory: the copy.
    """

    def __init__(
        self, url: str, process: int = 0, choose: _Choose = None, is_part: _IsPart | None = None
    ):
        """Takes the lease and copies what is there; see ``open_place``."""
        super().__init__(buckets.scratch_of(url))
        self._url, self._choose, self._is_part = url, choose, is_part
        self._copied: dict[str, _State] = {}  # what the bucket has, as it is on the disk
        self._theirs: dict[str, Object] = {}  # what others have written
        self._busy, self._stop = threading.Lock(), threading.Event()
        self._failure: tuple[float, OSError] | None = None  # since when
        self._lease = Lease(url, process)
        try:
            self.directory.mkdir()
            self.pull()
        except BaseException:
            self._lease.release()
            raise
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return self._url

    def pull(self) -> None:
        """Copies what is new in the bucket, or what others have written again."""
        with self._busy:
            found = buckets.list_objects(self._url)
            if "" in found:
                raise StorageError(f"{self._url} is an object, not a directory: give another place")
            found = {name: o for name, o in found.items() if not name.startswith(f"{LEASES}/")}
            wanted = self._choose(found) if self._choose else bool
            new = {
                name: o
                for name, o in found.items()
                if wanted(name) and self._theirs.get(name, o if name in self._copied else None) != o
            }
            buckets.download(self._url, self.directory, new)
            self._theirs |= new
            self._copied |= {name: _state(self.directory / name) for name in new}

    def push(self) -> None:
        """Copies what has changed to the bucket.

        Raises:
          LeaseError: if the place may belong to another process by now.
          StorageError: if the bucket cannot be reached.
        """
        with self._busy:
            self._lease.check()
            # Read before the files are listed: what a manifest has was there before it.
            before = {
                name: (state, self._read(name))
                for name, state in self._look().items()
                if _is_manifest(name) and self._copied.get(name) != state
            }
            now = self._look()
            ranks: tuple[dict[str, tuple[_State, bytes | None]], ...] = ({}, {}, {}, {}, {})
            for name, state in now.items():
                if not _is_manifest(name):
                    ranks[_rank(name)][name] = state, None
            for name, (state, data) in before.items():
                ranks[0 if _is_claim(data) else 4][name] = state, data
            for some in ranks:
                changed = [name for name in some if self._copied.get(name) != some[name][0]]
                self._lease.check()
                buckets.each(lambda name, some=some: self._put(name, *some[name]), changed)
            gone = self._copied.keys() - now.keys()
            for names in ({name for name in gone if not _is_manifest(name)}, gone):
                buckets.each(self._remove, names & self._copied.keys())

    def check(self) -> None:
        """Raises StorageError if the place may be another's, or nothing is copied for long."""
        self._lease.check()
        if self._failure and time.monotonic() - self._failure[0] > PATIENCE:
            raise self._failure[1]

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Waits until no other process finishes the place; False if one has done it."""
        lease, said = None, False
        while lease is None:
            self.check()
            try:
                lease = Lease(self._url, _FINISHING)
            except InUseError as error:
                if not said:
                    logging.warning("waiting for who finishes it: %s", error)
                said = True
                time.sleep(_WAIT)
        try:
            manifest, now = f"{self._url}/manifest.json", None
            with contextlib.suppress(FileNotFoundError), buckets.speaking_of(manifest):
                now = buckets.file_system(manifest).cat_file(manifest)
            yield _is_claim(now)
        finally:
            lease.release()

    def close(self) -> None:
        """Copies the rest and lets go of the place.

        Raises:
          StorageError: if that fails; says where the rest is.
        """
        if self._stop.is_set():
            return
        self._stop.set()
        try:
            self._lease.check()  # else calls may hang, and what they do does not matter
            self._thread.join()
            self.push()
            self._delete_parts()
        except LeaseError:
            raise
        except StorageError as error:
            kept = Path(tempfile.mkdtemp(prefix="gpstoken-kept-")) / self.directory.name
            self.directory.rename(kept)
            raise StorageError(f"{error}; what could not be copied there is in {kept}") from error
        finally:
            self._lease.release()

    def _delete_parts(self) -> None:
        """Now and not at first: what a killed process was sending may have come since."""
        if self._is_part:
            found = buckets.list_objects(self._url)
            left = [name for name in found if self._is_part(name) and name not in self._copied]
            buckets.each(lambda name: buckets.remove(f"{self._url}/{name}"), left)

    def _work(self) -> None:
        pause = PAUSE
        while not self._stop.wait(pause):
            began = time.monotonic()
            try:
                self.push()
                self._failure = None
            except RuntimeError:
                return  # the interpreter ends, and starts no more threads
            except OSError as error:
                if self._failure is None:
                    logging.warning("%s; trying again", error)
                self._failure = self._failure[0] if self._failure else began, error
            pause = max(PAUSE, SPARING * (time.monotonic() - began))

    def _look(self) -> dict[str, _State]:
        """Every file of ours that is complete, by name."""
        found = {}
        for folder, folders, files in os.walk(self.directory):
            folders[:] = [name for name in folders if not any(x in name for x in _UNFINISHED)]
            for file in files:
                path = Path(folder, file)
                name = str(path.relative_to(self.directory))
                if name != "lock" and not any(x in file for x in _UNFINISHED):
                    with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                        found[name] = _state(path)
        return found

    def _read(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / name).read_bytes()
        return None

    def _put(self, name: str, state: _State, data: bytes | None) -> None:
        path, target = self.directory / name, f"{self._url}/{name}"
        if data is None and state[0] <= _SMALL and (data := self._read(name)) is None:
            return  # deleted since it was listed
        try:
            with buckets.speaking_of(target):
                files = buckets.file_system(target)
                if data is None:
                    files.put_file(str(path), target)
                else:
                    files.pipe_file(target, data)
        except FileNotFoundError:
            if path.exists():
                raise
            return
        self._copied[name] = state
        self._theirs.pop(name, None)

    def _remove(self, name: str) -> None:
        buckets.remove(f"{self._url}/{name}")
        del self._copied[name]
        self._theirs.pop(name, None)


def _state(path: Path) -> _State:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _is_manifest(name: str) -> bool:
    return name.rpartition("/")[2] == "manifest.json"


def _rank(name: str) -> int:
    """Place of a file in the order of copying: journals, others, Orbax's word that all is there."""
    file = name.rpartition("/")[2]
    if file.startswith("journal-"):
        return 1
    return 3 if file == "commit_success.txt" else 2


def _is_claim(data: bytes | None) -> bool:
    """Tells the manifest of a directory that still grows."""
    return data is not None and b'"complete": false' in data
