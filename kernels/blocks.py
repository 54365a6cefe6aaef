"""What the GPU kernels are fed: tokens in compact blocks, lists of which blocks and tiles meet."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from gpstoken_jax.kernels.gaussian import geometry_gradient
from gpstoken_jax.kernels.tiling import (
    Tiling,
    block_boxes,
    compact,
    meet,
    morton_order,
    pad_tokens,
    token_boxes,
)

HALF_LOG2_E = 0.7213475204444817  # exp(-q / 2) = 2 ** (-q * this)
ROWS = 8  # of a token table


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blocks:
    """Tokens of B images sorted along a Morton curve and padded to whole blocks.

    order: [B, L], which token stands where. table: [B, 8, padded L], what a kernel needs of a
    token's geometry. features: [B * chunks, padded L, channels of a chunk]. boxes: [B, blocks, 4].
    """

    order: Int[Array, "b l"]
    table: Float[Array, "b 8 p"]
    features: Float[Array, "n p c"]
    boxes: Float[Array, "b k 4"]


def token_blocks(geometry, features, block: int, support: float) -> Blocks:
    """Sort, pad and tabulate tokens; see `Blocks`."""
    order = morton_order(geometry)
    geometry = jnp.take_along_axis(geometry, order[..., None], axis=1)
    features = jnp.take_along_axis(features, order[..., None], axis=1)
    geometry, features = pad_tokens(geometry, features, block)
    boxes = token_boxes(geometry, support).reshape(len(geometry), -1, block, 4)
    table = token_table(geometry, support)
    return Blocks(order, table, chunked(features), block_boxes(boxes))


def token_table(geometry: Float[Array, "b l 5"], support: float) -> Float[Array, "b 8 l"]:
    """Rows: mu_x, mu_y, 1 / sigma_x, 1 / sigma_y, half width and height of the box, rho, scale.

    The scale is log2(e) / (2 (1 - rho^2)), because GPUs have a power of two but no exponential.
    """
    sigma_x, sigma_y, rho, mu_x, mu_y = (geometry[..., i] for i in range(5))
    scale = HALF_LOG2_E / ((1.0 - rho) * (1.0 + rho))
    half = support * sigma_x, support * sigma_y
    return jnp.stack([mu_x, mu_y, 1.0 / sigma_x, 1.0 / sigma_y, *half, rho, scale], axis=1)


def chunk_size(channels: int) -> int:
    """Channels a kernel takes at once: a multiple of 16 for tensor cores, bounded by registers."""
    return 16 if channels <= 16 else 32


def chunked(array: Float[Array, "b n c"]) -> Float[Array, "bk n d"]:
    """Cut channels into chunks, padded with zeros, and make each an image of its own."""
    batch, count, channels = array.shape
    chunk = chunk_size(channels)
    array = jnp.pad(array, ((0, 0), (0, 0), (0, -channels % chunk)))
    return array.reshape(batch, count, -1, chunk).swapaxes(1, 2).reshape(-1, count, chunk)


def unchunked(array: Float[Array, "bk n d"], batch: int, channels: int) -> Float[Array, "b n c"]:
    """Undo `chunked`."""
    _, count, chunk = array.shape
    array = array.reshape(batch, -1, count, chunk).swapaxes(1, 2)
    return array.reshape(batch, count, -1)[..., :channels]


def blocks_of_tiles(boxes, tiling: Tiling) -> tuple[Array, Array]:
    """For every tile the blocks that meet it: numbers [B, tiles, blocks] and counts [B, tiles]."""
    return compact(meet(boxes[:, None], jnp.asarray(tiling.bounds())[:, None]))


def tiles_of_blocks(boxes, tiling: Tiling) -> tuple[Array, Array]:
    """For every block the tiles that meet it: numbers [B, blocks, tiles], counts [B, blocks]."""
    return compact(meet(boxes[:, :, None], jnp.asarray(tiling.bounds())))


def in_first_order(order: Int[Array, "b l"], array: Float[Array, "b p ..."]) -> Array:
    """Undo the Morton order of axis 1 and drop the padding."""
    original = jnp.argsort(order, axis=1)
    return jnp.take_along_axis(array, original.reshape(*original.shape, *[1] * (array.ndim - 2)), 1)


def splits(programs: int, steps: int, wanted: int = 1024) -> int:
    """How many programs should share one block's tiles, so that a few blocks still fill a GPU."""
    return max(1, min(steps, wanted // max(programs, 1)))


def gradients(geometry, features, order, d_features, moments) -> tuple[Array, Array]:
    """Gradients from the partial sums of all splits and chunks.

    d_features [S, B * chunks, padded L, chunk], moments [S, B * chunks, 5, padded L].
    """
    batch, _, channels = features.shape
    d_features = unchunked(d_features.sum(axis=0), batch, channels)
    moments = moments.sum(axis=0).reshape(batch, -1, *moments.shape[2:]).sum(axis=1)
    moments = in_first_order(order, moments.swapaxes(1, 2))
    d_geometry = geometry_gradient(geometry, tuple(jnp.moveaxis(moments, -1, 0)))
    return d_geometry, in_first_order(order, d_features).astype(features.dtype)
