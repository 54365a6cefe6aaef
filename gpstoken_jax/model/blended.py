"""Tiles decoded apart, and again in windows over their seams, blended.

A window lies half a tile further along one axis or both, and has the tokens of the two or four
tiles that it touches. Every pixel is a mean of windows, weighted by how far it is from their edges,
so nothing begins or ends at a seam, and each window is an image as large as those of the training.

What is smooth is then taken from the tiles decoded apart: a model learns to make up for what a
tile's tokens lack at its edge, so that windows with a seam in their middle have too much there.

Last, where both sides of a seam are flat, what a clear sky would show there is smoothed away: the
task of the deblocking filters of video codecs, such as that of H.264.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from gpstoken_jax.model.layers import merge_tiles
from gpstoken_jax.model.tiles import AnyArray

FLAT = 0.06  # of colours in [-1, 1]: what differs by more is taken for the photo's

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
    images = images + _smoothed(apart - images, image_size / map_size / 2)
    cell = image_size // max(map_size, 8)
    for axis, number in zip((1, 2), tiles, strict=True):
        if number > 1:
            images = _without_seams(images, axis, image_size, cell)
    return images


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


def _without_seams(
    images: Float[AnyArray, "b H W 3"], axis: int, side: int, cell: int
) -> Float[AnyArray, "b H W 3"]:
    """Images without small steps and ridges at the seams across ``axis``, where it is flat there.

    Two cells on either side, one away from the seam, tell what a seam lies in. A step between them
    becomes a ramp of eight cells, and what lies in the two that are left a straight line: the less
    so, the more the colours differ. Of a step between flat sides a tenth stays at 5 of the 255
    levels of a colour, half at 13, nine tenths at 23.
    """
    xp, half = images.__array_namespace__(), side // 2
    images = xp.moveaxis(images, axis, 1)
    seams = images[:, half:-half].reshape(len(images), -1, side, *images.shape[2:])
    calm = _smoothed(seams, cell / 2, axes=(3,))  # [b, seams, side, along, 3]
    places = ((np.arange(side) + 0.5 - half) / cell).astype(np.float32)[:, None, None]  # in cells

    around = [calm[:, :, half + k * cell : half + (k + 2) * cell] for k in (-3, 1)]
    unrest = sum(pixels.var(2) for pixels in around) / 2
    first, second, third, fourth = (
        cells.mean(2) for pixels in around for cells in xp.split(pixels, 2, axis=2)
    )
    step = third - second - 1.5 * (second - first + fourth - third)  # over the slopes of the sides
    unrest = unrest + step**2 / 4
    step = _smoothed(step * _trust(unrest), cell / 2, axes=(2,))
    change = -step[:, :, None] * (np.sign(places) * np.maximum(4 - abs(places), 0) / 8)

    # A cell, between what the middles of cells become: the ramp's mean over either is 0.625 / 2.
    slope = (third - second - 0.625 * step) / 3
    line = (second + third)[:, :, None] / 2 + slope[:, :, None] * places
    ridge = (line - calm - change) * (abs(places) < 1)
    trust = _trust(unrest + (ridge**2).sum(2) / (2 * cell))
    change = change + _smoothed(trust, cell / 2, axes=(2,))[:, :, None] * ridge
    change = change.reshape(len(images), -1, *images.shape[2:])
    images = images + xp.pad(change, ((0, 0), (half, half), (0, 0), (0, 0)))
    return xp.moveaxis(images, 1, axis)


def _trust(variance: Float[AnyArray, "... 3"]) -> Float[AnyArray, "... 1"]:
    """Trust, in (0, 1], that differences of this size in the worst channel are not the photo's."""
    return variance.__array_namespace__().exp(-variance.max(-1, keepdims=True) / FLAT**2)


def _smoothed(
    images: Float[AnyArray, "b ..."], sigma: float, axes: tuple[int, ...] = (1, 2)
) -> Float[AnyArray, "b ..."]:
    """Images under a Gaussian of so many pixels, with their edges continued."""
    radius = math.ceil(3 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in axes:
        length, around = images.shape[axis], [(0, 0)] * images.ndim
        around[axis] = radius, radius
        padded = images.__array_namespace__().pad(images, around, mode="edge")
        whole = (slice(None),) * axis
        images = sum(tap * padded[(*whole, slice(k, k + length))] for k, tap in enumerate(taps))
    return images
