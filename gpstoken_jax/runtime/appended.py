"""Files that grow while a cell is measured; a killed run cuts them to what is known to be whole."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpstoken_jax.runtime.files import DamagedFileError


class AppendedFile:
    """A file that only grows, with its length and checksum so far.

    Args:
      path: of the file.
      facts: of an earlier ``facts``, to go on from there; None starts anew.

    Raises:
      FileNotFoundError: if there is no file to go on with.
      DamagedFileError: if it is not what was written.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any] | None = None):
        self._length, self._digest = 0, hashlib.sha256()
        if facts is None:
            path.write_bytes(b"")
        else:
            self._cut(path, facts)
        self._file = path.open("ab")

    def _cut(self, path: Path, facts: Mapping[str, Any]) -> None:
        with path.open("r+b") as file:
            while rest := facts["length"] - self._length:
                data = file.read(min(rest, 1 << 20))
                self._length += len(data)
                self._digest.update(data)
                if not data:
                    break
            if self._digest.hexdigest() != facts["sha256"]:
                raise DamagedFileError(f"{path} is damaged")
            file.truncate(facts["length"])

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        self._file.write(data)
        self._digest.update(data)
        self._length += len(data)

    def facts(self) -> dict[str, Any]:
        """Length and checksum of what is written, as JSON values."""
        self._file.flush()
        return {"length": self._length, "sha256": self._digest.hexdigest()}

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class AppendedRows:
    """Arrays of one shape an image, in a file; arguments and errors are those of its file.

    Args:
      path: of the file.
      facts: of an earlier ``facts``.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any] | None = None):
        self._file = AppendedFile(path, facts)
        self._kind = {key: facts[key] for key in ("shape", "dtype")} if facts else {}

    def add(self, rows: np.ndarray) -> None:
        """Appends rows [n, ...].

        Raises:
          ValueError: if they have another shape than those before.
        """
        kind = {"shape": list(rows.shape[1:]), "dtype": rows.dtype.name}
        if self._kind and kind != self._kind:
            raise ValueError(
                f"images of several sizes cannot be kept in one array: {kind['shape']} after "
                f"{self._kind['shape']}"
            )
        self._kind = kind
        self._file.write(np.ascontiguousarray(rows).tobytes())

    def facts(self) -> dict[str, Any]:
        """Everything that it takes to read them or to go on."""
        return self._file.facts() | self._kind

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_rows(path: Path, facts: Mapping[str, Any]) -> np.ndarray:
    """The rows of a file, mapped into memory."""
    shape = tuple(facts["shape"])
    if not facts["length"]:
        return np.zeros((0, *shape), facts["dtype"])
    rows = np.memmap(path, facts["dtype"], "r")
    return rows.reshape(-1, *shape)
