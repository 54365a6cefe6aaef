"""Functions of batches on all devices of this process."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
import numpy as np

from gpstoken_jax.runtime.compiling import announced
from gpstoken_jax.runtime.platforms import tracing_for

Tree = Any


def map_over_devices(
    function: Callable[..., Tree],
    in_axes: Sequence[int | None],
    out_axes: Tree = 0,
    *,
    axis_name: str | None = None,
    donate_first: int = 0,
    devices: Sequence[jax.Device] | None = None,
    name: str | None = None,
) -> Callable[..., Tree]:
    """``jax.pmap`` with one axis for each argument, whatever trees the arguments are.

    Some versions of ``jax.pmap`` read ``in_axes`` leaf by leaf when the arguments have, by chance,
    as many leaves as there are arguments. Here all arguments travel inside two tuples, whose axes
    can only be read argument by argument.

    Args:
      function: of one device's share.
      in_axes: for each argument the axis that is shared out, in all leaves of it; None: the same
        on every device.
      out_axes: as for ``jax.pmap``.
      axis_name: for ``jax.lax.psum`` and its like.
      donate_first: how many of the first arguments give their memory to the results.
      devices: all of this and of other processes by default, see ``jax.pmap``.
      name: for the line that says that it is being compiled; None is no line.

    Returns:
      The function of arrays that have the devices in those axes.
    """
    split = donate_first

    def packed(donated: tuple[Tree, ...], kept: tuple[Tree, ...]) -> Tree:
        with tracing_for((devices or jax.local_devices())[0].platform):
            return function(*donated, *kept)

    packed.__name__ = getattr(function, "__name__", "function")  # what profiles show
    mapped = jax.pmap(
        packed,
        axis_name=axis_name,
        in_axes=(tuple(in_axes[:split]), tuple(in_axes[split:])),
        out_axes=out_axes,
        donate_argnums=0 if split else (),
        devices=devices,
    )

    @wraps(function)
    def call(*arguments: Tree) -> Tree:
        if len(arguments) != len(in_axes):
            raise TypeError(f"{len(arguments)} arguments for {len(in_axes)} axes")
        return mapped(arguments[:split], arguments[split:])

    shared = [i for i, axis in enumerate(in_axes) if axis is not None]
    return announced(call, name, lambda *arguments: [arguments[i] for i in shared])


def pad_shard_unpad(
    function: Callable[[Any, Tree], Tree], name: str | None = None
) -> Callable[[Any, Tree], Tree]:
    """``function(params, batch)`` with the batch on all devices, padded where it has to be.

    As ``flax.jax_utils.pad_shard_unpad``, for one function of parameters and a batch.

    Args:
      function: of parameters and a tree of arrays [b, ...], one device's share, to another such.
      name: see ``map_over_devices``.

    Returns:
      The same of parameters, which are copied to every device, and a tree of NumPy arrays [B, ...].
    """
    mapped = map_over_devices(function, (None, 0), devices=jax.local_devices(), name=name)

    def run(params: Any, batch: Tree) -> Tree:
        count = len(jax.tree.leaves(batch)[0])
        shards = mapped(params, jax.tree.map(pad_and_shard, batch))
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[:count], shards)

    return run


def pad_and_shard(array: np.ndarray) -> np.ndarray:
    """Reshapes a batch [B, ...] to [devices, b, ...], and pads it with copies of its last row."""
    devices = jax.local_device_count()
    filler = [(0, -len(array) % devices), *[(0, 0)] * (array.ndim - 1)]
    padded = np.pad(array, filler, mode="edge") if filler[0][1] else array
    return padded.reshape(devices, -1, *array.shape[1:])
