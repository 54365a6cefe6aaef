"""Several processes, one evaluation: each has its share of the images, process 0 writes."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def gather(payload: bytes) -> list[bytes]:
    """What every process gave, in their order, to all of them."""
    if jax.process_count() == 1:
        return [payload]
    lengths = multihost_utils.process_allgather(np.int64(len(payload)))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(payload)] = np.frombuffer(payload, np.uint8)
    parts = multihost_utils.process_allgather(padded)
    return [
        part[:length].tobytes() for part, length in zip(np.asarray(parts), lengths, strict=True)
    ]


def agree(value: Any) -> Any:
    """What process 0 says (anything that JSON holds), on every process."""
    return json.loads(gather(json.dumps(value).encode())[0])
