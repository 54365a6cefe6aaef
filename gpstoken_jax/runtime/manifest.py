"""Manifests of output directories: what they were made from, and length and SHA-256 of each file.

While a directory grows, each process that writes into it keeps a journal of the files it wrote.
"""

import fcntl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from gpstoken_jax.runtime.files import DamagedFileError, digest_file, read_json, write_json
from gpstoken_jax.runtime.json_lines import read_line

MANIFEST = "manifest.json"
JOURNAL = "journal-{:05d}.txt"


class OutputError(ValueError):
    """A directory cannot be written to, or read, as asked; the message says why and what to do."""


class FileRecord(NamedTuple):
    """Length in bytes and SHA-256 of a file, as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Description of an output directory, kept in it.

    Attributes:
      directory: where it is.
      kind: what it holds, e.g. ``"tokens"``.
      made_from: all that it depends on.
      files: by name relative to the directory.
      complete: whether the program that made it came to its end.
      facts: what the program had to say at the end.
    """

    directory: Path
    kind: str
    made_from: Mapping[str, Any]
    files: Mapping[str, FileRecord]
    complete: bool
    facts: Mapping[str, Any]

    def check(self, name: str) -> Path:
        """Compares a file with what was written, and returns its path.

        Raises:
          DamagedFileError: if it is missing or differs.
        """
        path, record = self.directory / name, self.files.get(name)
        if record is None:
            raise DamagedFileError(f"{path} is not in {MANIFEST}: this directory has no such file")
        problem = None
        if not path.is_file():
            problem = "is missing"
        elif path.stat().st_size != record.bytes:
            problem = f"has {path.stat().st_size} bytes instead of {record.bytes}"
        elif digest_file(path) != record.sha256:
            problem = "does not match its checksum"
        if problem:
            raise DamagedFileError(
                f"{path} is damaged: it {problem}; restore it from a copy, or make the directory "
                "again with --overwrite"
            )
        return path


def read_manifest(directory: str | Path, kind: str) -> Manifest:
    """Reads what a finished output directory says of itself.

    Raises:
      OutputError: if there is no output of this kind, or it is not finished.
      DamagedFileError: if the manifest is damaged.
      OSError: if it cannot be read.
    """
    manifest = find_manifest(Path(directory).expanduser())
    if manifest is None:
        raise OutputError(f"{directory} holds no {kind}: it has no {MANIFEST}")
    if manifest.kind != kind:
        raise OutputError(f"{directory} holds {manifest.kind}, not {kind}")
    if not manifest.complete:
        raise OutputError(
            f"{directory} is not finished: call the command that makes it again, it will go on"
        )
    return manifest


def find_manifest(directory: Path) -> Manifest | None:
    """Reads what a directory says of itself, finished or not; None if it has no manifest.

    Of one that is not finished, the files are those that are there, by manifest and journals.

    Raises:
      DamagedFileError: if the manifest or a journal is damaged.
      OSError: if one cannot be read.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return None
    value = read_json(path, required=True)
    try:
        files = {name: FileRecord(*record) for name, record in value["files"].items()}
        manifest = Manifest(
            directory, value["kind"], value["made_from"], files, value["complete"], value["facts"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} is not a manifest of this program: {error!r}") from error
    if manifest.complete:
        return manifest
    files = read_journals(directory, list_journals(directory), files)
    files = {name: record for name, record in files.items() if (directory / name).exists()}
    return replace(manifest, files=files)


def write_manifest(manifest: Manifest) -> None:
    """Writes a manifest into its directory."""
    write_json(
        manifest.directory / MANIFEST,
        {
            "format": 1,
            "kind": manifest.kind,
            "complete": manifest.complete,
            "made_from": manifest.made_from,
            "facts": manifest.facts,
            "files": manifest.files,
        },
    )


def list_journals(directory: Path) -> Sequence[Path]:
    """Lists the journals in a directory, of whatever process."""
    prefix, _, suffix = JOURNAL.partition("{:05d}")
    return sorted(
        path
        for path in directory.iterdir()
        if path.name.startswith(prefix)
        and path.name.endswith(suffix)
        and path.name[len(prefix) : -len(suffix)].isdigit()
    )


def lock_journal(path: Path) -> IO[bytes]:
    """Opens a journal that no other process has open; closing it lets go of it."""
    journal = path.open("ab")
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        journal.close()
        raise OutputError(
            f"another process is writing to {path.parent}: wait for it, or give another --output"
        ) from error
    except OSError:  # a file system without locks
        pass
    whole = path.read_bytes().rpartition(b"\n")
    journal.truncate(len(whole[0]) + len(whole[1]))  # a line that a kill left short
    return journal


def read_journals(
    directory: Path, paths: Iterable[Path], files: Mapping[str, FileRecord]
) -> dict[str, FileRecord]:
    """Reads what became of ``files`` and of others, as journals tell.

    Of a file that was written again, the record is that of what lies there: a process may have been
    killed between the line of the journal and the file.
    """
    records = {name: (record,) for name, record in files.items()}
    for path in paths:
        for entry in _read_journal(path):
            name = entry["name"]
            if "sha256" in entry:
                record = FileRecord(entry["bytes"], entry["sha256"])
                records[name] = (*records.get(name, ()), record)
            else:
                records.pop(name, None)
    return {name: _fitting(directory / name, of) for name, of in records.items()}


def _fitting(path: Path, records: Sequence[FileRecord]) -> FileRecord:
    if len(records) > 1 and path.is_file() and (found := describe_file(path)) in records:
        return found
    return records[-1]


def _read_journal(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]  # a torn line's file had not appeared yet
    entries = [read_line(line) for line in whole.split(b"\n")] if whole else []
    if None in entries:
        raise DamagedFileError(
            f"{path} is damaged: a line does not match its checksum; delete the directory and "
            "make it again"
        )
    return entries


def describe_file(path: Path) -> FileRecord:
    """Measures a file as it lies there."""
    return FileRecord(path.stat().st_size, digest_file(path))
