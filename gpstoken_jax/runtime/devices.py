"""A function of a batch on all devices of this process."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Tree = Any


def spread(function: Callable[[Any, Tree], Tree], params: Any) -> Callable[[Tree], Tree]:
    """``function(params, batch)`` with the batch shared out; a short batch is filled up.

    Args:
      function: of parameters and a tree of arrays [b, ...], one device's share, to another such.
      params: the same on every device.

    Returns:
      The same of a tree of NumPy arrays [B, ...].
    """
    devices = jax.local_device_count()
    mapped = jax.pmap(function, in_axes=(None, 0))

    def run(batch: Tree) -> Tree:
        count = len(jax.tree.leaves(batch)[0])

        def share(array: np.ndarray) -> np.ndarray:
            filler = [(0, -count % devices), *[(0, 0)] * (array.ndim - 1)]
            padded = np.pad(array, filler, mode="edge") if filler[0][1] else array
            return padded.reshape(devices, -1, *array.shape[1:])

        shards = mapped(params, jax.tree.map(share, batch))
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[:count], shards)

    return run
