"""Fingerprints of files, and differences between settings: whether an output is of what is here."""

import time
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from gpstoken_jax.runtime.buckets import RemoteFile, stat_file
from gpstoken_jax.runtime.files import digest_file

_COARSEST_DATE = 2.0  # seconds, of FAT


def fingerprint_files(
    files: Iterable[tuple[str, str | Path | RemoteFile]], *, content: bool = False
) -> str:
    """A digest that changes with the names, sizes and dates of files, or with what is in them.

    Args:
      files: names and paths, in the order that counts.
      content: read the files instead of trusting their dates.

    Raises:
      OSError: if a file cannot be read.
    """
    digest, newest = sha256(), 1
    for name, path in files:
        size, date = stat_file(path)
        newest = max(newest, date)
        state = digest_file(path) if content else str(date)
        digest.update(f"{name!r} {size} {state}\n".encode("utf-8", "surrogatepass"))
    if not content:
        _wait_for_another_date(newest)
    return ("content " if content else "dates ") + digest.hexdigest()[:32]


def _wait_for_another_date(newest: int) -> None:
    """Waits until a file that changes from now on gets another date than the newest, in ns.

    Where file systems have dates of whole seconds, or two, one that was just written could change
    and keep its date.
    """
    age = time.time() - newest / 1e9
    if newest % 10**9 == 0 and 0 <= age < _COARSEST_DATE:
        time.sleep(_COARSEST_DATE - age)


def first_difference(old: Any, new: Any, name: str = "") -> str | None:
    """Names the first entry in which two nested mappings differ; None if they are equal."""
    return next(differences(old, new, name), None)


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Names every entry in which two nested mappings differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield f"{name} was {old!r} and is now {new!r}"
