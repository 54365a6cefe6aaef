"""Tiles decoded apart, and again in windows over their seams, blended.

A window lies half a tile further along one axis or both, and has the tokens of the two or four
tiles that it touches. Every pixel is a mean of windows, weighted by how far it is from their edges,
so nothing begins or ends at a seam, and each window is an image as large as those of the training.

What is smooth is then taken from the tiles decoded apart: a model learns to make up for what a
tile's tokens lack at its edge, so that windows with a seam in their middle have too much there.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from gpstoken_jax.model.layers import merge_tiles
from gpstoken_jax.model.tiles import AnyArray

# All sets of windows at once; each has its number of tokens.
Decode = Callable[[list[Float[AnyArray, "n k d"]]], list[Float[AnyArray, "n s s 3"]]]


def decode_blended(
    decode: Decode,
    tokens: Float[AnyArray, "b*rows*cols l d"],
    tiles: tuple[int, int],
    *,
    image_size: int,
    map_size: int,
) -> Float[AnyArray, "b H W 3"]:
    """Images from the tokens of tiles, each in its tile's coordinates.

    Args:
      decode: images of the model's size, of each set of windows.
      tokens: tile by tile in the order of ``layers.split_tiles``; NumPy's arrays are worked on by
        NumPy, so that ``decode`` can be any function of this process.
      tiles: (rows, columns) of an image.
      image_size: side of a tile in pixels; even.
      map_size: side of the feature map of a tile.
    """
    rows, cols = tiles
    tokens = tokens.reshape(-1, rows, cols, *tokens.shape[1:])
    shifts = [s for s in ((0, 0), (0, 1), (1, 0), (1, 1)) if s[0] < rows and s[1] < cols]
    decoded = decode([_windows(tokens, shifted, map_size) for shifted in shifts])
    images, apart = 0.0, merge_tiles(decoded[0], tiles)
    for shifted, parts in zip(shifts, decoded, strict=True):
        parts = merge_tiles(parts, (rows - shifted[0], cols - shifted[1]))
        sides = zip(tiles, shifted, strict=True)
        weights = [_weights(number, image_size, by) for number, by in sides]
        top, left = (image_size // 2 * by for by in shifted)
        weighted = parts * np.outer(*weights).astype(np.float32)[:, :, None]
        around = ((0, 0), (top, top), (left, left), (0, 0))
        images = images + tokens.__array_namespace__().pad(weighted, around)
    return images + _smoothed(apart - images, image_size / map_size / 2)


def _windows(
    tokens: Float[AnyArray, "b rows cols l d"], shifted: tuple[int, int], map_size: int
) -> Float[AnyArray, "n k d"]:
    """The tokens of all windows, in their coordinates: those of every tile that one touches."""
    by_y, by_x = shifted
    rows, cols = tokens.shape[1] - by_y, tokens.shape[2] - by_x
    tile = 2 * map_size / (map_size - 1)  # the side of a tile, where -1 and 1 are centres of pixels
    parts = []
    for y in range(1 + by_y):
        for x in range(1 + by_x):
            offset = np.zeros(tokens.shape[-1], np.float32)
            offset[3:5] = (x - by_x / 2) * tile, (y - by_y / 2) * tile
            parts.append(tokens[:, y : rows + y, x : cols + x] + offset)
    together = tokens.__array_namespace__().concatenate(parts, axis=-2)
    return together.reshape(-1, *together.shape[-2:])


def _weights(tiles: int, side: int, shifted: int) -> Float[np.ndarray, " n"]:
    """Weights along one axis: they rise from a window's edge to its middle; at the border all 1."""
    rising = (np.arange(side // 2) + 0.5) / (side // 2)
    window = np.concatenate([rising, rising[::-1]])
    weights = np.tile(window, tiles - shifted)
    if not shifted:
        weights[: side // 2] = weights[-(side // 2) :] = 1
    return weights


def _smoothed(images: Float[AnyArray, "b H W 3"], sigma: float) -> Float[AnyArray, "b H W 3"]:
    """Images under a Gaussian of so many pixels, with their edges continued."""
    radius = math.ceil(3 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (1, 2):
        length, around = images.shape[axis], [(0, 0)] * 4
        around[axis] = radius, radius
        padded = images.__array_namespace__().pad(images, around, mode="edge")
        whole = (slice(None),) * axis
        images = sum(tap * padded[(*whole, slice(k, k + length))] for k, tap in enumerate(taps))
    return images
