"""The partition as part of a compiled program: for training steps, and for accelerators.

The regions that can ever occur in an image of one size are few and known beforehand. Their
complexities make a table, filled for a batch of images with large matrix products, regions of one
shape together; choosing what to cut is then a loop over the table. An accelerator fills the whole
table at once. A CPU fills it depth by depth, and of the larger depths only what the choice can
reach: most of the table is small regions in places that are never cut that far.

`partition`, in NumPy, is the reference, in float64 where the published code is.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from gpstoken_jax.partition.complexity import complexities
from gpstoken_jax.partition.geometry import regions_to_boxes, regions_to_geometry
from gpstoken_jax.partition.host import check_shape
from gpstoken_jax.partition.regions import RegionTable, region_table
from gpstoken_jax.runtime.platforms import by_platform

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
    if num_tokens == 1:
        chosen = jnp.zeros((len(grey), 1), jnp.int32)
    else:
        choose = partial(_chosen_rows, region_table(height, width, min_size), num_tokens, weight)
        chosen = by_platform(
            lax.stop_gradient((grey, bias)),
            cpu=partial(choose, lazy=True, chunk=_CPU_CHUNK),
            default=partial(choose, lazy=False, chunk=_CHUNK),
        )
    regions = region_table(height, width, min_size).regions
    geometry = jnp.asarray(regions_to_geometry(regions, height, width))
    boxes = jnp.asarray(regions_to_boxes(regions, height, width))
    return geometry[chosen], boxes[chosen]


def _chosen_rows(
    table: RegionTable,
    num_tokens: int,
    weight: float,
    images: tuple[Array, Array | None],
    *,
    lazy: bool,
    chunk: int,
) -> Int[Array, "b l"]:
    """Rows of `table` that are each image's regions, evaluating what is needed depth by depth.

    What is cut down to some depth does not depend on deeper regions, but that having those to cut
    leaves fewer cuts for it. So the halves that can matter are those of the regions that would be
    cut if nothing deeper could be.
    """
    grey, bias = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), images)
    bias = None if bias is None else jnp.broadcast_to(bias, grey.shape)
    greedy = jax.vmap(partial(_greedy, table, num_tokens), in_axes=(None, 0))
    values = jnp.zeros((len(grey), len(table.regions)), jnp.float32)
    for depth in range(1, table.depth.max() + 1):
        rows = np.flatnonzero((table.depth == depth) & table.cuttable)
        needed = jnp.ones(values.shape, bool)
        if lazy and len(rows) > num_tokens:
            made, gone = greedy(table.cuttable & (table.depth < depth), values)
            needed = jax.vmap(partial(_halves_of, table))(made, gone)
        for shape, some in table.by_shape(rows).items():
            score = partial(_complexities_at, shape, weight, grey, bias)
            corners = _corners(len(grey), table.regions[some])
            found = _where(needed[:, some].ravel(), score, corners, chunk)
            values = values.at[:, some].set(found.reshape(len(grey), -1))
    made, gone = greedy(table.cuttable, values)
    alive = jnp.argsort(gone, axis=1, stable=True)[:, :num_tokens]
    return jnp.take_along_axis(made, alive, axis=1)


def _greedy(
    table: RegionTable, num_tokens: int, cuttable: Bool[Array, "r"], values: Float[Array, "r"]
) -> tuple[Int[Array, "n"], Bool[Array, "n"]]:
    """Cut the most complex region until there are `num_tokens` or nothing is left to cut.

    Returns the rows of all regions made, in the order of making, and which of them were cut.
    """
    halves, cuttable = jnp.asarray(table.halves), jnp.asarray(cuttable)
    made = jnp.zeros(2 * num_tokens - 1, jnp.int32)
    priority = jnp.full(made.shape, -jnp.inf).at[0].set(0)
    gone = jnp.zeros(made.shape, bool)

    def cut(step, state):
        made, priority, gone = state
        here = jnp.argmax(priority)  # the oldest of equals
        ways = halves[made[here]]
        simplest = values[ways].min(axis=-1)
        pair = jnp.where(simplest[1] < simplest[0], ways[1], ways[0])
        possible = priority[here] > -jnp.inf
        offers = jnp.where(cuttable[pair] & possible, values[pair], -jnp.inf)
        end = (2 * step + 1,)
        made = lax.dynamic_update_slice(made, pair, end)
        priority = lax.dynamic_update_slice(priority.at[here].set(-jnp.inf), offers, end)
        return made, priority, gone.at[here].set(gone[here] | possible)

    made, _, gone = lax.fori_loop(0, num_tokens - 1, cut, (made, priority, gone))
    return made, gone


def _halves_of(
    table: RegionTable, made: Int[Array, "n"], cut: Bool[Array, "n"]
) -> Bool[Array, "r"]:
    """Mask of the rows that are a half, in either way, of a region that was cut."""
    halves = jnp.asarray(table.halves)[made].reshape(len(made), -1)
    return jnp.zeros(len(table.regions), bool).at[halves].max(cut[:, None])


def _corners(images: int, regions: np.ndarray) -> Int[np.ndarray, "n 3"]:
    """(image, top, left) of each region in each image."""
    image = np.repeat(np.arange(images), len(regions))
    left, top = np.tile(regions[:, :2], (images, 1)).T
    return np.stack([image, top, left], axis=-1).astype(np.int32)


def _where(
    needed: Bool[Array, "n"],
    score: Callable[[Array], Array],
    corners: Int[np.ndarray, "n 3"],
    chunk: int,
) -> Float[Array, "n"]:
    """`score` of the corners that are needed, some at a time; 0 for the others."""
    total = len(corners)
    chunk = min(chunk, total)
    (order,) = jnp.nonzero(needed, size=-(-total // chunk) * chunk, fill_value=total)
    corners = jnp.asarray(corners)

    def evaluate(i, values):
        some = lax.dynamic_slice(order, (i * chunk,), (chunk,))
        return values.at[some].set(score(corners.at[some].get(mode="clip")), mode="drop")

    return lax.fori_loop(0, -(-needed.sum() // chunk), evaluate, jnp.zeros(total))


def _complexities_at(
    shape: tuple[int, int], weight: float, grey: Array, bias: Array | None, corners: Array
) -> Float[Array, "n"]:
    values = complexities(_patches(grey, corners, shape), weight)
    return values if bias is None else values + _patches(bias, corners, shape).sum(axis=(1, 2))


def _patches(
    images: Float[Array, "b h w"], corners: Int[Array, "n 3"], shape: tuple[int, int]
) -> Float[Array, "n p q"]:
    return jax.vmap(lambda corner: lax.dynamic_slice(images, corner, (1, *shape))[0])(corners)
