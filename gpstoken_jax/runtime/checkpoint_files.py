"""Files of a checkpoint: a manifest of their lengths and checksums, and paths that Orbax takes."""

import atexit
import functools
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from gpstoken_jax.runtime.files import DamagedFileError, digest_file, read_json, write_json
from gpstoken_jax.runtime.storage import retry

MANIFEST = "manifest.json"
_ORBAX_NOTES = "_CHECKPOINT_METADATA"


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or not of this config; the message says where and why."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is not, or not wholly, there any more."""


def list_files(path: Path) -> list[str]:
    """Lists the files of a checkpoint, but its manifest, by their names inside."""
    files = (str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    return sorted(name for name in files if name != MANIFEST)


def write_manifest(path: Path) -> None:
    """Writes the length and SHA-256 of every file of a checkpoint, but for Orbax's notes."""
    names = [name for name in list_files(path) if name != _ORBAX_NOTES]
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        records = pool.map(lambda name: describe(path / name), names)
    write_json(path / MANIFEST, {"files": dict(zip(names, records, strict=True))})


def describe(file: Path) -> tuple[int, str]:
    """Length and SHA-256 of a file, as the manifest has them."""
    return file.stat().st_size, digest_file(file)


def check_manifest(path: Path, *names: str) -> None:
    """Compares the files of a checkpoint, or of some of its trees, with its manifest.

    One that an early version wrote has none: its trees have checksums all the same.

    Raises:
      DamagedCheckpointError: naming the first file that is missing or differs.
      StorageError: if the disk cannot be read, which is no damage.
    """
    manifest = path / MANIFEST
    if not _is_there(manifest):
        return
    try:
        records = retry(lambda: read_json(manifest, required=True), manifest)["files"]
    except (DamagedFileError, KeyError) as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}") from error
    parts = {file: file.split("/")[0] for file in records}
    wanted = [file for file, part in parts.items() if not names or part in names or part == file]
    with ThreadPoolExecutor() as pool:
        problems = pool.map(lambda file: _problem(path / file, *records[file]), wanted)
        for file, problem in zip(wanted, problems, strict=True):
            if problem:
                raise DamagedCheckpointError(f"{path / file} is damaged: it {problem}")


def _problem(file: Path, size: int, digest: str) -> str | None:
    if not _is_there(file):
        return "is missing"
    found = retry(lambda: describe(file), file)
    if found[0] != size:
        return f"has {found[0]} bytes instead of {size}"
    return None if found[1] == digest else "does not match its checksum"


def _is_there(file: Path) -> bool:
    """Tells whether a file exists; a disk that cannot say so raises StorageError."""

    def look() -> bool:
        try:
            return bool(os.stat(file))
        except (FileNotFoundError, NotADirectoryError):
            return False

    return retry(look, file)


@functools.cache
def _links() -> Path:
    """A directory for links, removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="gpstoken-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def reachable(path: Path) -> Path:
    """The same directory by a name that Orbax and TensorStore can work with.

    They take "[" for a pattern and a backslash for a slash, and would write what nobody can read.
    """
    if not set("[\\") & set(str(path)):
        return path
    link = _links() / sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    if not link.is_symlink():
        link.symlink_to(path, target_is_directory=True)
    return link
