"""Cutting the map into tiles, ordering tokens along a Morton curve, finding boxes that meet."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from gpstoken_jax.kernels.gaussian import INERT, pixel_coordinates


@dataclass(frozen=True)
class Tiling:
    """A map of height x width pixels in tiles of tile_height x tile_width, the last ones padded."""

    height: int
    width: int
    tile_height: int
    tile_width: int

    @property
    def rows(self) -> int:
        """Tiles down the map."""
        return -(-self.height // self.tile_height)

    @property
    def columns(self) -> int:
        """Tiles across the map."""
        return -(-self.width // self.tile_width)

    @property
    def tiles(self) -> int:
        """Tiles of the map."""
        return self.rows * self.columns

    @property
    def pixels(self) -> int:
        """Pixels of a tile."""
        return self.tile_height * self.tile_width

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates x, y of every pixel, [tiles, pixels] each; padding repeats the last one."""
        x = _padded(self.width, self.tile_width).reshape(1, self.columns, 1, self.tile_width)
        y = _padded(self.height, self.tile_height).reshape(self.rows, 1, self.tile_height, 1)
        shape = (self.rows, self.columns, self.tile_height, self.tile_width)
        flat = (self.tiles, self.pixels)
        return np.broadcast_to(x, shape).reshape(flat), np.broadcast_to(y, shape).reshape(flat)

    def bounds(self) -> np.ndarray:
        """First and last x, first and last y of each tile: [tiles, 4]."""
        x, y = self.coordinates()
        return np.stack([x[:, 0], x[:, -1], y[:, 0], y[:, -1]], axis=-1)

    def split(self, image: Float[Array, "b h w c"]) -> Float[Array, "b t p c"]:
        """Cut a map into its tiles, padding with zeros."""
        batch, height, width, channels = image.shape
        rows, columns = self.rows, self.columns
        down, right = rows * self.tile_height - height, columns * self.tile_width - width
        image = jnp.pad(image, ((0, 0), (0, down), (0, right), (0, 0)))
        image = image.reshape(batch, rows, self.tile_height, columns, self.tile_width, channels)
        return image.swapaxes(2, 3).reshape(batch, self.tiles, self.pixels, channels)

    def join(self, tiles: Float[Array, "b t p c"]) -> Float[Array, "b h w c"]:
        """Put tiles back together, dropping the padding."""
        batch, channels = tiles.shape[0], tiles.shape[-1]
        rows, columns, height, width = self.rows, self.columns, self.tile_height, self.tile_width
        image = tiles.reshape(batch, rows, columns, height, width, channels).swapaxes(2, 3)
        image = image.reshape(batch, rows * height, columns * width, channels)
        return image[:, : self.height, : self.width]


def _padded(count: int, multiple: int) -> np.ndarray:
    return np.pad(pixel_coordinates(count), (0, -count % multiple), mode="edge")


def token_boxes(geometry: Float[Array, "... 5"], support: float) -> Float[Array, "... 4"]:
    """Support boxes (x low, x high, y low, y high), widened by the rounding of the exact test."""
    sigma_x, sigma_y, _, mu_x, mu_y = (geometry[..., i] for i in range(5))
    half_x = support * sigma_x * (1 + 1e-5) + 1e-6 * (1 + jnp.abs(mu_x))
    half_y = support * sigma_y * (1 + 1e-5) + 1e-6 * (1 + jnp.abs(mu_y))
    return jnp.stack([mu_x - half_x, mu_x + half_x, mu_y - half_y, mu_y + half_y], axis=-1)


def block_boxes(boxes: Float[Array, "... t 4"]) -> Float[Array, "... 4"]:
    """The smallest box around t boxes."""
    low, high = boxes.min(axis=-2), boxes.max(axis=-2)
    return jnp.stack([low[..., 0], high[..., 1], low[..., 2], high[..., 3]], axis=-1)


def meet(boxes: Float[Array, "... 4"], others: Float[Array, "... 4"]) -> Array:
    """Mask of boxes that overlap or touch (broadcasting)."""
    x = (boxes[..., 0] <= others[..., 1]) & (boxes[..., 1] >= others[..., 0])
    y = (boxes[..., 2] <= others[..., 3]) & (boxes[..., 3] >= others[..., 2])
    return x & y


def compact(hits: Array) -> tuple[Int[Array, "... n"], Int[Array, "..."]]:
    """Indices of the true entries first, in order, and how many there are.

    Entries after the count name the last index; a reader must not use them, or must know them to be
    harmless.
    """
    count = hits.shape[-1]
    index = jnp.where(hits, jnp.arange(count, dtype=jnp.int32), count)
    listed = jnp.minimum(jnp.sort(index, axis=-1), count - 1)
    return listed, hits.sum(axis=-1, dtype=jnp.int32)


def morton_order(geometry: Float[Array, "... l 5"]) -> Int[Array, "... l"]:
    """Order of tokens along a Z-curve through their centres: neighbours in it are near in space."""
    place = jnp.clip(jnp.nan_to_num((geometry[..., 3:5] + 1.0) * 512.0), 0.0, 1023.0).astype(
        jnp.int32
    )
    code = _spread(place[..., 0]) | (_spread(place[..., 1]) << 1)
    return jnp.argsort(code, axis=-1, stable=True).astype(jnp.int32)


def _spread(value: Array) -> Array:
    """Put a zero bit between the ten bits of an integer."""
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        value = (value | (value << shift)) & mask
    return value


def pad_tokens(
    geometry: Float[Array, "b l 5"], features: Float[Array, "b l c"], multiple: int
) -> tuple[Array, Array]:
    """Add tokens that draw nothing until the count is a positive multiple of `multiple`."""
    batch, length, _ = geometry.shape
    extra = -(-max(length, 1) // multiple) * multiple - length
    inert = jnp.broadcast_to(INERT, (batch, extra, 5))
    features = jnp.pad(features, ((0, 0), (0, extra), (0, 0)))
    return jnp.concatenate([geometry, inert], axis=1), features
