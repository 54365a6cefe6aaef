"""Messages between page and server: safetensors, arrays with a few words beside them."""

from collections.abc import Mapping

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

MEDIA_TYPE = "application/octet-stream"


def pack(arrays: Mapping[str, np.ndarray], words: Mapping[str, str] | None = None) -> bytes:
    """Makes a message."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(whole, dict(words or {}))


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """Reads the arrays of a message.

    Raises:
      ValueError: if it is none.
    """
    try:
        return safetensors.numpy.load(data)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"the message cannot be read: {error}") from error
