"""JSON objects, one a line, each with a CRC-32 of its own: files that grow, and may be killed."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

CHECKSUM = "crc32"


def seal_line(values: Mapping[str, Any]) -> bytes:
    """A line with ``values`` and, as the last of them, the CRC-32 of what the line is without."""
    text = json.dumps(dict(values))
    return f'{text[:-1]}, "{CHECKSUM}": "{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def read_line(line: bytes, *, required: bool = True) -> dict[str, Any] | None:
    """The values of a line without its end; None if it is not what was written.

    Args:
      line: without its line end.
      required: whether there must be a checksum. Lines of early versions have none, but numbers
        only: so no damage to the checksum makes a line one of these.
    """
    text, _, checksum = line.rpartition(f', "{CHECKSUM}": '.encode())
    if checksum == b'"%08x"}' % zlib.crc32(text + b"}"):
        return json.loads(text + b"}")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    numbers = isinstance(values, dict) and all(
        value is None or isinstance(value, int | float) for value in values.values()
    )
    return values if numbers and not required else None
