"""Places in buckets: ``s3://BUCKET/NAME`` and ``gs://BUCKET/NAME``."""

import importlib.util
import re
from pathlib import Path

_SCHEMES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}  # the package, the extra that brings it
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)  # a drive has one letter


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
