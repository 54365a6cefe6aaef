"""Images larger than the model's: tokens of their tiles, brought together and apart again.

An image of (rows, columns) tiles is encoded tile by tile. Tiles and their tokens stand in one order
everywhere: image by image, then row by row, then column by column (`layers.split_tiles`). NumPy's
arrays stay NumPy's.
"""

from typing import TypeVar

import numpy as np
from jaxtyping import Float

AnyArray = TypeVar("AnyArray")  # NumPy's or JAX's, which is not imported: programs' help is quick


def tile_grid(height: int, width: int, tile_size: int) -> tuple[int, int]:
    """Rows and columns of an image's square tiles.

    Raises:
      ValueError: if the sides are not multiples of `tile_size`; names the nearest size that is.
    """
    rows, cols = height // tile_size, width // tile_size
    if height % tile_size or width % tile_size or rows < 1 or cols < 1:
        near = max(1, round(height / tile_size)), max(1, round(width / tile_size))
        raise ValueError(
            f"an image of {height} x {width} is not made of whole {tile_size} x {tile_size} tiles; "
            f"resize it to {near[0] * tile_size} x {near[1] * tile_size}, for example (with "
            "gpstoken_jax.data.resize_and_crop)"
        )
    return rows, cols


def merge_tokens(
    tokens: Float[AnyArray, "b*rows*cols l d"],
    tiles: tuple[int, int],
    *,
    map_size: int | None = None,
) -> Float[AnyArray, "b rows*cols*l d"]:
    """The tokens of all tiles of an image as one set, in coordinates of the whole image.

    sigma becomes sigma / n and mu the centre's place in the image, -1 + (2 j + mu + 1) / n for tile
    j of n, along each axis (the published code's formulas; with several images it puts tokens into
    wrong tiles, this does not). Only the five geometry values change, so bare geometry merges too.

    Since -1 and 1 are centres of pixels, not edges of tiles, those formulas stretch every tile a
    little: drawn on a large map, tokens are up to 3/4 of a pixel from where the tile's own map has
    them. With `map_size`, they fall on the same pixels.

    Args:
      tokens: tile by tile in the order of `layers.split_tiles`; d is 5 or more.
      tiles: (rows, columns) of an image.
      map_size: side in pixels of the map that a tile would be drawn on alone.

    Raises:
      ValueError: if there are not whole images.
    """
    rows, cols = tiles
    if len(tokens) % (rows * cols):
        raise ValueError(
            f"the tokens of {len(tokens)} tiles are no images of {rows} x {cols} tiles"
        )
    per_image = tokens.reshape(-1, rows, cols, *tokens.shape[1:])
    xp, row, col = tokens.__array_namespace__(), *_places(tiles)
    sigma_x, sigma_y, rho, mu_x, mu_y = xp.moveaxis(per_image[..., :5], -1, 0)
    sigma_x, mu_x = _into_image(sigma_x, mu_x, col, cols, map_size)
    sigma_y, mu_y = _into_image(sigma_y, mu_y, row, rows, map_size)
    geometry = xp.stack([sigma_x, sigma_y, rho, mu_x, mu_y], -1)
    merged = xp.concatenate([geometry, per_image[..., 5:]], -1)
    return merged.reshape(len(merged), -1, tokens.shape[-1])


def _into_image(
    sigma: AnyArray, mu: AnyArray, tile: np.ndarray, count: int, map_size: int | None
) -> tuple[AnyArray, AnyArray]:
    """Along one axis: from the coordinates of a tile, one of `count`, to those of the image."""
    if map_size is None:
        return sigma / count, -1 + (2 * tile + mu + 1) / count
    pixel = tile * map_size + (mu + 1) / 2 * (map_size - 1)
    last = count * map_size - 1
    return sigma * (map_size - 1) / last, 2 * pixel / last - 1


def split_tokens(
    tokens: Float[AnyArray, "b rows*cols*l d"], tiles: tuple[int, int]
) -> Float[AnyArray, "b*rows*cols l d"]:
    """The inverse of `merge_tokens` (without `map_size`), by order, not by place.

    Raises:
      ValueError: if the tokens of an image do not divide into that many tiles.
    """
    rows, cols = tiles
    b, count, d = tokens.shape
    if count % (rows * cols):
        raise ValueError(f"{count} tokens an image do not divide into {rows} x {cols} tiles")
    per_image = tokens.reshape(b, rows, cols, -1, d)
    xp, row, col = tokens.__array_namespace__(), *_places(tiles)
    sigma_x, sigma_y, rho, mu_x, mu_y = xp.moveaxis(per_image[..., :5], -1, 0)
    geometry = [
        sigma_x * cols,
        sigma_y * rows,
        rho,
        (mu_x + 1) * cols - 2 * col - 1,
        (mu_y + 1) * rows - 2 * row - 1,
    ]
    split = xp.concatenate([xp.stack(geometry, -1), per_image[..., 5:]], -1)
    return split.reshape(b * rows * cols, -1, d)


def _places(tiles: tuple[int, int]) -> tuple[Float[np.ndarray, "r 1 1"], Float[np.ndarray, "c 1"]]:
    """Rows and columns of tiles, to be set against [b, rows, cols, l]."""
    rows, cols = (np.arange(count, dtype=np.float32) for count in tiles)
    return rows[:, None, None], cols[:, None]
