"""The pure step of one device, run on all of them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from gpstoken_jax.data.transforms import to_unit_range
from gpstoken_jax.runtime.devices import map_over_devices

AXIS = "data"  # over all devices, inside a step
Batch = Mapping[str, Any]  # name to array [B, ...]
Metrics = dict[str, Float[Array, ""]]
Step = Callable[..., tuple[Any, Metrics]]


def on_all_devices(step: Step) -> Step:
    """The step over all local devices and, through ``AXIS``, all hosts.

    Args:
      step: ``(state, batch, frozen) -> (state, metrics)`` on one device, averaged over ``AXIS``.

    Returns:
      The same with batches [devices, b, ...]; state, frozen arrays and metrics are the same on
      all devices. The given state's memory is reused: do not use it again.
    """
    return map_over_devices(
        step,
        (None, 0, None),
        (None, None),
        axis_name=AXIS,
        donate_first=1,
        name="the training step",
    )


def scaled(images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Images in [-1, 1], inside the step; floats are that already.

    Looked up, because XLA multiplies instead of dividing by 255: bits are those of the host.
    """
    if images.dtype != jnp.uint8:
        return images
    levels = jnp.asarray(to_unit_range(np.arange(256, dtype=np.uint8)))
    return jax.lax.optimization_barrier(levels.at[images].get(mode="promise_in_bounds"))


def step_key(seed: int, step: Int[Array, ""]) -> PRNGKeyArray:
    """The random key of a step on this device, inside the step; ``step`` is that of its state."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS))


def replicate(tree: Any) -> Any:
    """Puts a tree where the step leaves its state, so that its second call compiles nothing."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def one_copy(tree: Any) -> Any:
    """A replicated tree as arrays of this process's first device."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def shard(batch: Mapping[str, np.ndarray], devices: int) -> Batch:
    """Splits a batch over devices: [n, ...] to [devices, n / devices, ...].

    Raises:
      ValueError: if it does not divide evenly.
    """
    for name, array in batch.items():
        if len(array) % devices:
            raise ValueError(
                f"a batch of {len(array)} ({name}) does not divide over {devices} devices"
            )
    return {name: array.reshape(devices, -1, *array.shape[1:]) for name, array in batch.items()}
