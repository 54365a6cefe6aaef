"""The partition as part of a compiled program: for training steps, and for accelerators.

The regions that can ever occur in an image of one size are few and known beforehand. Their
complexities are one table, computed for a batch of images with large matrix products, regions of
one shape together; choosing what to cut is then a loop over the table. `partition`, in NumPy, is
the reference: it evaluates only the regions that it comes across, in float64 where the published
code does.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gpstoken_jax.complexity import complexities
from gpstoken_jax.geometry import regions_to_boxes, regions_to_geometry
from gpstoken_jax.partition import check_shape
from gpstoken_jax.regions import RegionTable, region_table

# Regions whose 64 x 64 pixels are in memory at once: 1 MB an array suits a CPU's cache, else 67 MB.
_CPU_CHUNK, _CHUNK = 64, 4096


def partition_jit(
    grey: Float[Array, "b h w"],
    num_tokens: int,
    *,
    weight: float = 2.5,
    min_size: int = 8,
    bias: Float[Array, "#b h w"] | None = None,
) -> tuple[Float[Array, "b l 5"], Float[Array, "b l 4"]]:
    """`partition` for use under jit, pmap and grad; L and the options are static.

    The regions are those of `partition` but where two complexities differ by less than float32
    resolves. Their order is the order in which they were made, not that of `partition`: nothing in
    the model depends on it, and it saves evaluating the regions that cannot be cut, a third to a
    half of all. No gradient flows from the results to `grey`. Values cannot be checked inside a
    compiled program: they must be finite and in [-1, 1].

    Returns:
      geometry [B, L, 5] and boxes [B, L, 4] in [-1, 1], float32.

    Raises:
      ValueError: a wrong shape, or more tokens than an image of this size has regions.
    """
    if grey.ndim != 3:
        raise ValueError(f"partition_jit: grey must be [B, H, W], got shape {grey.shape}")
    height, width = check_shape(grey.shape, num_tokens, min_size)
    if bias is not None and bias.shape not in (grey.shape, (1, height, width)):
        raise ValueError(
            f"partition_jit: bias must be {grey.shape} or {(1, height, width)}, got {bias.shape}"
        )
    table = region_table(height, width, min_size)
    values = _all_complexities(table, lax.stop_gradient(grey), weight, bias)
    chosen = jax.vmap(partial(_greedy_rows, table, num_tokens))(values)
    geometry = jnp.asarray(regions_to_geometry(table.regions, height, width))
    boxes = jnp.asarray(regions_to_boxes(table.regions, height, width))
    return geometry[chosen], boxes[chosen]


def _all_complexities(
    table: RegionTable, grey: Array, weight: float, bias: Array | None
) -> Float[Array, "b r"]:
    """Complexity of each region that can be cut but the first; 0 for the rest, never asked for."""
    grey = grey.astype(jnp.float32)
    values = jnp.zeros((len(grey), len(table.regions)), jnp.float32)
    if bias is not None:
        bias = lax.stop_gradient(jnp.broadcast_to(bias, grey.shape)).astype(jnp.float32)
    for shape, rows in table.by_shape().items():
        corners = _corners(len(grey), table.regions[rows])
        one_shape = partial(_complexities_at, shape, weight)
        score = lax.platform_dependent(
            corners,
            grey,
            bias,
            cpu=partial(_in_chunks, one_shape, _CPU_CHUNK),
            default=partial(_in_chunks, one_shape, _CHUNK),
        )
        values = values.at[:, rows].set(score.reshape(len(grey), len(rows)))
    return values


def _corners(images: int, regions: np.ndarray) -> Int[np.ndarray, "n 3"]:
    """(image, top, left) of each region in each image."""
    image = np.repeat(np.arange(images), len(regions))
    left, top = np.tile(regions[:, :2], (images, 1)).T
    return np.stack([image, top, left], axis=-1).astype(np.int32)


def _in_chunks(
    score: Callable[..., Float[Array, "n"]], most: int, corners: Array, *images: Array | None
) -> Float[Array, "n"]:
    """`score` of all corners, at most `most` at a time, in chunks of equal size."""
    chunks = -(-len(corners) // most)
    size = -(-len(corners) // chunks)
    filled = jnp.pad(corners, ((0, chunks * size - len(corners)), (0, 0)))
    values = lax.map(lambda some: score(some, *images), filled.reshape(chunks, size, 3))
    return values.ravel()[: len(corners)]


def _complexities_at(
    shape: tuple[int, int], weight: float, corners: Array, grey: Array, bias: Array | None
) -> Float[Array, "n"]:
    values = complexities(_patches(grey, corners, shape), weight)
    return values if bias is None else values + _patches(bias, corners, shape).sum(axis=(1, 2))


def _patches(
    images: Float[Array, "b h w"], corners: Int[Array, "n 3"], shape: tuple[int, int]
) -> Float[Array, "n p q"]:
    return jax.vmap(lambda corner: lax.dynamic_slice(images, corner, (1, *shape))[0])(corners)


def _greedy_rows(table: RegionTable, num_tokens: int, values: Float[Array, "r"]) -> Int[Array, "l"]:
    """Rows of the regions left when the most complex has been cut until there are `num_tokens`."""
    if num_tokens == 1:
        return jnp.zeros(1, jnp.int32)
    halves, cuttable = jnp.asarray(table.halves), jnp.asarray(table.cuttable)
    made = jnp.zeros(2 * num_tokens - 1, jnp.int32)  # rows, in the order of making
    priority = jnp.full(made.shape, -jnp.inf).at[0].set(0)  # of what can still be cut
    gone = jnp.zeros(made.shape, bool)

    def cut(step, state):
        made, priority, gone = state
        here = jnp.argmax(priority)  # the oldest of equals
        ways = halves[made[here]]
        simplest = values[ways].min(axis=-1)
        pair = jnp.where(simplest[1] < simplest[0], ways[1], ways[0])
        offers = jnp.where(cuttable[pair], values[pair], -jnp.inf)
        end = (2 * step + 1,)
        made = lax.dynamic_update_slice(made, pair, end)
        priority = lax.dynamic_update_slice(priority.at[here].set(-jnp.inf), offers, end)
        return made, priority, gone.at[here].set(True)

    made, _, gone = lax.fori_loop(0, num_tokens - 1, cut, (made, priority, gone))
    return made[jnp.argsort(gone, stable=True)[:num_tokens]]
