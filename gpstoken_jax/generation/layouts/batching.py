"""Batches of one shape, whatever number is asked for."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

BATCH = 64


def map_in_batches(
    draw: Callable[[PRNGKeyArray, Int[np.ndarray, "b"]], Array],
    keys: PRNGKeyArray,
    labels: Int[np.ndarray, "n"],
) -> np.ndarray:
    """Calls ``draw(keys, labels)`` on 64 rows at a time, the last ones filled up.

    Compiled once; a row comes out the same whatever the number of rows that it is drawn with.
    """
    parts = []
    for start in range(0, len(labels), BATCH):
        part = np.arange(start, start + BATCH).clip(max=len(labels) - 1)
        parts.append(np.asarray(draw(keys[part], labels[part]))[: len(labels) - start])
    return np.concatenate(jax.device_get(parts))
