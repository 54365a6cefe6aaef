"""Output directories that belong to the program: claimed, written into, gone on with, finished.

A directory is claimed by a manifest before the first file is written into it. So a program goes on
where it was killed, never mixes the results of two different commands, notices damage, and deletes
or replaces nothing but what a manifest or a journal says that it wrote.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from gpstoken_jax.runtime.buckets import Choose, is_url
from gpstoken_jax.runtime.files import TEMPORARY_SUFFIX, open_new, remove_temporary_files
from gpstoken_jax.runtime.fingerprints import first_difference
from gpstoken_jax.runtime.json_lines import seal_line
from gpstoken_jax.runtime.manifest import (
    JOURNAL,
    MANIFEST,
    FileRecord,
    Manifest,
    OutputError,
    describe_file,
    find_manifest,
    list_journals,
    lock_journal,
    read_journals,
    write_manifest,
)
from gpstoken_jax.runtime.mirror import Place, open_place


@dataclass
class Output:
    """A claimed directory that this process writes files into. Made by ``open_output``.

    Attributes:
      directory: where it is.
      complete: whether an earlier call of the same command finished it.
    """

    directory: Path
    complete: bool
    _header: tuple[str, Mapping[str, Any]]  # kind, made_from
    _files: dict[str, FileRecord]
    _journal: IO[bytes] = field(repr=False)
    _place: Place = field(repr=False)
    _removed: set[str] = field(default_factory=set)  # by this process, whoever wrote them

    def has(self, name: str) -> bool:
        """Tells whether a file was written, whole, by this or an earlier call of the command."""
        record = self._files.get(name)
        if record is None:
            return False
        try:
            return (self.directory / name).stat().st_size == record.bytes
        except FileNotFoundError:
            return False

    def names(self) -> list[str]:
        """Lists the files that this and earlier calls of the command wrote."""
        return sorted(self._files)

    def forget_missing(self) -> None:
        """Drops files from the list that someone has deleted since they were written."""
        for name in self.names():
            if not (self.directory / name).exists():
                self.remove(name)

    def write(self, name: str, data: bytes | str, *, durable: bool = True) -> Path:
        """Writes a file, whole or not at all.

        Args:
          name: relative to the directory, parts separated by "/".
          data: its content; text as UTF-8.
          durable: see ``files.open_new``.

        Raises:
          OutputError: if the name leaves the directory, or belongs to a file of someone else.
          OSError: if it cannot be written.
        """
        with self.create(name, durable=durable) as file:
            file.write(data.encode() if isinstance(data, str) else data)
        return self.directory / name

    @contextlib.contextmanager
    def create(self, name: str, *, durable: bool = True) -> Iterator[IO[bytes]]:
        """Opens a file for writing as ``write`` does, for content that comes in parts."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_new(path, durable=durable) as file:
            yield file
            file.flush()
            self._record(name, describe_file(Path(file.name)))

    def adopt(self, name: str) -> None:
        """Takes in a file of this directory that another library has just written for us."""
        self._record(name, describe_file(self.directory / name))

    def check(self, name: str) -> Path:
        """Compares a file with what was written, and returns its path.

        Raises:
          DamagedFileError: if it is missing or differs.
        """
        return Manifest(self.directory, *self._header, self._files, False, {}).check(name)

    def remove(self, name: str) -> None:
        """Deletes a file that this output wrote."""
        if name not in self._files:
            raise OutputError(f"{self.directory / name} was not written by this program")
        (self.directory / name).unlink(missing_ok=True)
        self._files.pop(name)
        self._removed.add(name)
        self._append({"name": name})

    @contextlib.contextmanager
    def only_one(self) -> Iterator[bool]:
        """Tells one of several processes that are done with their parts that it is to finish.

        Waits while another one is at it, and is False if that has finished. Files that others wrote
        in the meantime are known from here on.
        """
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(self._place.alone()):
                yield False
                return
            try:
                manifest = stack.enter_context((self.directory / MANIFEST).open("rb"))
            except FileNotFoundError:  # see ``discard``
                yield False
                return
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(manifest, fcntl.LOCK_EX)
            now = find_manifest(self.directory)
            if now is None or (now.complete and not self.complete):
                yield False
                return
            self._update()
            yield True

    def _update(self) -> None:
        self.gather()
        mine = self._journal.name
        others = [path for path in list_journals(self.directory) if str(path) != mine]
        theirs = read_journals(self.directory, others, {})
        self._files |= {name: theirs[name] for name in theirs.keys() - self._removed}

    def share(self) -> None:
        """Copies what was written to the bucket, if the directory is in one, for the others."""
        self._place.push()

    def gather(self) -> None:
        """Copies what the others have written, if the directory is in a bucket."""
        self._place.pull()

    def finish(self, facts: Mapping[str, Any] | None = None) -> Manifest:
        """Reads back what was written and writes the manifest; for one process to call, last.

        Args:
          facts: results to keep in the manifest.

        Raises:
          DamagedFileError: if a file is not what was written.
        """
        self._update()
        manifest = Manifest(
            self.directory,
            *self._header,
            dict(sorted(self._files.items())),
            True,
            dict(facts or {}),
        )
        for name in manifest.files:
            manifest.check(name)
        with _locked(self.directory):
            write_manifest(manifest)
            for path in list_journals(self.directory):
                path.unlink()
            self._journal.close()
        self.complete = True
        self._place.close()
        return manifest

    def discard(self) -> None:
        """Deletes what was written, and the directory, but for files of anyone else."""
        self._update()
        with _locked(self.directory):
            _delete(Manifest(self.directory, *self._header, self._files, False, {}))
            self._journal.close()
        self._place.close()
        with contextlib.suppress(OSError):  # someone else's file is in it
            self.directory.rmdir()

    def close(self) -> None:
        """Lets go of the directory; what was written stays."""
        if not self._journal.closed:
            with _locked(self.directory):
                if self.complete:
                    Path(self._journal.name).unlink(missing_ok=True)
                self._journal.close()
        self._place.close()

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, name: str) -> Path:
        path = self.directory / safe_name(name)
        if not path.parent.resolve().is_relative_to(self.directory.resolve()):
            raise OutputError(f"{path} leaves {self.directory}, by a symbolic link")
        if name not in self._files and os.path.lexists(path):
            raise OutputError(
                f"{path} is there and was not written by this program; move it away, or give "
                "another --output"
            )
        return path

    def _record(self, name: str, record: FileRecord) -> None:
        self._append({"name": name, "bytes": record.bytes, "sha256": record.sha256})
        self._files[name] = record
        self._removed.discard(name)

    def _append(self, entry: Mapping[str, Any]) -> None:
        """Adds a line to the journal; before a file appears, so that it is always known as ours."""
        self._place.check()
        if self.complete:
            self.complete = False
            write_manifest(Manifest(self.directory, *self._header, self._files, False, {}))
        self._journal.write(seal_line(entry))
        self._journal.flush()


def open_output(
    directory: str | Path,
    kind: str,
    made_from: Mapping[str, Any],
    *,
    inputs: Iterable[str | Path] = (),
    overwrite: bool = False,
    process: int = 0,
) -> Output:
    """Claims a directory for the results of a command, or opens it again to go on.

    Args:
      directory: made if it is not there.
      kind: what the program makes, e.g. ``"tokens"``.
      made_from: all that the results depend on, as JSON can hold it: fingerprints of the data and
        the weights, flags.
      inputs: files and directories that the program reads its data from.
      overwrite: delete what an earlier command of this kind wrote here, if it was made from
        something else. Files of anyone else stay.
      process: which of several processes that write into the directory this is.

    Raises:
      OutputError: if the directory is not ours, is made from something else (the first difference
        is named), is in use, or lies in one of the inputs or around it.
      DamagedFileError: if its manifest cannot be read.
      OSError: if it cannot be made or written.
    """
    check_apart(directory, inputs)
    place = open_place(directory, process, partial(_check_names, directory))
    try:
        return _claim(place, kind, json.loads(json.dumps(dict(made_from))), overwrite, process)
    except BaseException:
        place.close()
        raise


def _claim(
    place: Place, kind: str, made_from: dict[str, Any], overwrite: bool, process: int
) -> Output:
    """Opens a directory as ``open_output`` tells."""
    directory = place.directory
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{directory} is a file, not a directory: give another --output")
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):  # others that start now wait for their turn
        old = _read_own(directory, kind)
        if old is not None and (difference := first_difference(old.made_from, made_from)):
            if not overwrite and (old.files or old.complete):  # else nothing was made yet
                raise OutputError(
                    f"{directory} was made from something else: {difference}. Give another "
                    "--output, or --overwrite to make it again"
                )
            for path in list_journals(directory):
                lock_journal(path).close()
            _delete(old)
            place.push()
            old = None
        if old is None:
            old = Manifest(directory, kind, made_from, {}, False, {})
            write_manifest(old)
            place.push()
        journal = lock_journal(directory / JOURNAL.format(process))
    return Output(directory, old.complete, (kind, made_from), dict(old.files), journal, place)


def check_apart(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuses an output that is one of the inputs, lies in one, or holds one.

    Raises:
      OutputError: naming both.
    """
    resolved = _resolve(output)
    for path in inputs:
        other = _resolve(path)
        if resolved == other:
            raise OutputError(f"{output} is the input, too: give another --output")
        if resolved.is_relative_to(other):
            raise OutputError(f"--output {output} lies in the input {path}: give another")
        if other.is_relative_to(resolved):
            raise OutputError(f"--output {output} holds the input {path}: give another")


def _resolve(path: str | Path) -> Path:
    return Path("/", path) if is_url(path) else Path(path).expanduser().resolve()


def safe_name(name: str) -> PurePosixPath:
    """Checks that a name leads to a file inside the directory that it is relative to.

    Raises:
      OutputError: for an absolute name, a drive, "..", or an empty name or part.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts) or "\\" in name:
        raise OutputError(f"{name!r} is no name of a file inside a directory")
    if len(parts[0]) > 1 and parts[0][1] == ":":
        raise OutputError(f"{name!r} names a drive")
    return PurePosixPath(name)


def _check_names(place: str | Path, names: Iterable[str]) -> Choose:
    """Checks the objects of a bucket as ``_read_own`` does, before they are copied."""
    if names and MANIFEST not in names:
        raise OutputError(
            f"{place} holds {min(names)!r}, which this program did not write, as there is no "
            f"{MANIFEST}: give another --output"
        )
    return bool


def _read_own(directory: Path, kind: str) -> Manifest | None:
    """The manifest of a directory that may be written to; None if it is empty."""
    remove_temporary_files(directory)  # a kill may have left the manifest's own
    manifest = find_manifest(directory)
    if manifest is None:
        names = sorted(path.name for path in directory.iterdir())
        foreign = next((name for name in names if not name.endswith(TEMPORARY_SUFFIX)), None)
        if foreign is not None:
            raise OutputError(
                f"{directory} holds {foreign!r}, which this program did not write, as there is no "
                f"{MANIFEST} (outputs of version 0.1 have none): give a new or an empty directory, "
                "or delete what is there yourself"
            )
        return None
    if manifest.kind != kind:
        raise OutputError(f"{directory} holds {manifest.kind}, not {kind}: give another --output")
    return manifest


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds a lock on a directory, where there is one and the file system has such."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            handle = os.open(directory, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _delete(manifest: Manifest) -> None:
    """Deletes the files of an earlier output, and directories that this leaves empty."""
    parents = set()
    for name in manifest.files:
        path = manifest.directory / safe_name(name)
        path.unlink(missing_ok=True)
        parents |= set(path.parents)
    (manifest.directory / MANIFEST).unlink()
    for path in list_journals(manifest.directory):
        path.unlink()
    inside = [path for path in parents if manifest.directory in path.parents]
    for path in sorted(inside, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):  # someone else's file is in it
            path.rmdir()
