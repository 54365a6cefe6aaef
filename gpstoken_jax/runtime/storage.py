"""Faults of the disk or the network under it: tried again, then an error that ends the run.

They are not to be taken for damaged images, which are skipped: a mount that vanishes for a minute
would silently cost half of a data set.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

RETRY_SECONDS = (0.1, 0.5, 2.0)  # between one attempt and the next
Result = TypeVar("Result")


class StorageError(OSError):
    """A file that should be there cannot be read, also not after several attempts."""


def retry(function: Callable[[], Result], path: str | Path) -> Result:
    """Returns what ``function`` returns; calls it again when the system reports an error.

    Args:
      function: reads something; has no other effect.
      path: what it reads, for the message.

    Raises:
      StorageError: if the last attempt fails too.
    """
    for seconds in (*RETRY_SECONDS, None):
        try:
            return function()
        except OSError as error:
            if error.errno is None:  # raised by a library for what it read, not by the system
                raise
            if seconds is None:
                raise StorageError(_explain(path, error)) from error
            time.sleep(seconds)
    raise AssertionError("unreachable")


def _explain(path: str | Path, error: OSError) -> str:
    return (
        f"cannot read {str(path)!r}: {error.strerror} (tried {len(RETRY_SECONDS) + 1} times). "
        "Bring the storage back, then run the same command again: it goes on"
    )


def check_free_space(directory: str | Path, needed: int, what: str, remedy: str) -> None:
    """Checks that a disk has room.

    Args:
      directory: on the disk; it need not be there yet.
      needed: bytes, at least.
      what: takes them, for the message.
      remedy: what else can be done, beside making room.

    Raises:
      StorageError: with both figures.
    """
    free = shutil.disk_usage(_existing(directory)).free
    if free < needed:
        raise StorageError(
            f"{what} {needed / 2**20:.0f} MiB and only {free / 2**20:.0f} MiB are free in "
            f"{directory}: free some space or {remedy}"
        )


def check_writable(directory: str | Path) -> None:
    """Checks that files can be made in a directory, or that it can be made.

    Raises:
      PermissionError: if not.
    """
    if not os.access(place := _existing(directory), os.W_OK | os.X_OK):
        raise PermissionError(f"{place} cannot be written to: give another place")


def _existing(directory: str | Path) -> Path:
    """The directory, or the nearest one above it that is there."""
    place = Path(directory).absolute()
    return next(path for path in (place, *place.parents) if path.exists())


def read_through(path: str | Path) -> None:
    """Reads a file to its end, to learn whether the system can.

    Raises:
      OSError: if it cannot.
    """
    with open(path, "rb", buffering=0) as file:
        while file.read(2**20):
            pass
