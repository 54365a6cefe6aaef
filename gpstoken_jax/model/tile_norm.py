"""The decoder's normalisation: GroupNorm by ``std + eps``, with statistics by tile if asked.

A map decoded from the merged tokens of several tiles has no training-time counterpart for its
statistics; the release takes them per tile and interpolates between tiles.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gpstoken_jax.model.layers import NORM_EPS

# Interpolated standard deviations stay above this share of the smallest tile's. Bicubic
# interpolation overshoots: between very different tiles it reaches zero and below, where the
# release divides by it all the same.
MIN_STD_RATIO = 0.05


class TileNorm(nn.Module):
    """Group normalisation that divides by ``std + eps`` (not ``sqrt(var + eps)``).

    Attributes:
      groups: number of channel groups.
      tiles: (rows, columns) of tiles. With more than one, mean and std are taken per tile and
        resized to the map by bicubic interpolation.
      dtype: dtype of the result; the statistics are float32.

    The share of interpolated standard deviations that had to be kept away from zero is sown as
    ``floored_std`` in the collection ``diagnostics``.
    """

    groups: int
    tiles: tuple[int, int] = (1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalises by statistics interpolated between the tiles' centres."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        mean, std = _tile_statistics(x.astype(jnp.float32), self.tiles, self.groups)
        if self.tiles != (1, 1):
            floor = MIN_STD_RATIO * std.min(axis=(1, 2), keepdims=True)
            mean, std = _resize(mean, *x.shape[1:3]), _resize(std, *x.shape[1:3])
            self.sow("diagnostics", "floored_std", (std < floor).mean())
            std = jnp.maximum(std, floor)
        mean, std = (s.repeat(x.shape[-1] // self.groups, axis=-1) for s in (mean, std))
        return ((x - mean) * (scale / (std + NORM_EPS)) + bias).astype(self.dtype)


def _tile_statistics(
    x: Float[Array, "b h w c"], tiles: tuple[int, int], groups: int
) -> tuple[Float[Array, "b rows cols g"], Float[Array, "b rows cols g"]]:
    """Mean and biased std of each group of channels in each tile.

    Pixels are summed first, channel by channel: the order that reads the map once, in order.
    """
    (b, h, w, c), (rows, cols) = x.shape, tiles
    tiled = x.reshape(b, rows, h // rows, cols, w // cols, c)

    def group_mean(values: Float[Array, "b rows h cols w c"]) -> Float[Array, "b rows cols g"]:
        return values.mean(axis=(2, 4)).reshape(b, rows, cols, groups, -1).mean(axis=-1)

    mean = group_mean(tiled)
    by_channel = mean.repeat(c // groups, axis=-1)[:, :, None, :, None]
    var = group_mean(jnp.square(tiled - by_channel))
    # A constant group has no derivative of its std: take zero, not NaN.
    std = jnp.where(var > 0, jnp.sqrt(jnp.where(var > 0, var, 1.0)), 0.0)
    return mean, std


def _resize(grid: Float[Array, "b n m c"], height: int, width: int) -> Float[Array, "b h w c"]:
    rows, cols = bicubic_matrix(grid.shape[1], height), bicubic_matrix(grid.shape[2], width)
    return jnp.einsum("hn,wm,bnmc->bhwc", rows, cols, grid, precision="highest")


def bicubic_matrix(size: int, new_size: int) -> Float[np.ndarray, "new_size size"]:
    """Weights of bicubic resizing along one axis: a = -0.75, half-pixel centres, no antialias.

    Outside samples repeat the edge, as in PyTorch's ``interpolate(mode="bicubic")``.
    """
    position = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(position).astype(int)
    matrix = np.zeros((new_size, size))
    for offset in (-1, 0, 1, 2):
        weight = _cubic(np.abs(position - first - offset))
        column = np.clip(first + offset, 0, size - 1)
        np.add.at(matrix, (np.arange(new_size), column), weight)
    return matrix.astype(np.float32)


def _cubic(d: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
