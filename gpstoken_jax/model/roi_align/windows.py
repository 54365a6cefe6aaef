"""RoIAlign box after box, each with only the piece of the map that it covers.

A piece must have a static size: the smallest of a few square ones that holds the box is taken.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from gpstoken_jax.model.roi_align.axis_weights import axis_weights

Size = tuple[int, int]

# A box of 2^n pixels with the neighbours that its samples touch.
_SIDES = tuple(2**n + 2 for n in range(3, 12))


class Piece(NamedTuple):
    """Piece of an image that one box needs (or several boxes, with a leading axis)."""

    box: Float[Array, "*n 4"]
    window: Int[Array, "*n"]  # its number in `_windows`
    corner: tuple[Array, Array, Array, Array]  # (image, top, left, 0), the start of a slice


def forward(
    size: Size, features: Float[Array, "b h w c"], boxes: Float[Array, "b l 4"]
) -> Float[Array, "b l p q c"]:
    """See `roi_align`; `size` is the number of bins (vertically, horizontally)."""
    map_size, channels = features.shape[1:3], features.shape[3]

    def from_window(window: Size, piece: Piece) -> Array:
        rows, columns = _weights(size, map_size, window, piece, features.dtype)
        values = lax.dynamic_slice(features, piece.corner, (1, *window, channels))[0]
        return _product("qx,pxc->pqc", columns, _product("py,yxc->pxc", rows, values))

    branches = [partial(from_window, window) for window in _windows(*map_size)]
    out = lax.map(lambda piece: lax.switch(piece.window, branches, piece), _pieces(boxes, map_size))
    return out.reshape(*boxes.shape[:2], *size, channels)


def backward(
    size: Size, map_size: Size, cotangent: Float[Array, "b l p q c"], boxes: Float[Array, "b l 4"]
) -> Float[Array, "b h w c"]:
    """Gradient with respect to a map of `map_size`, added up piece by piece, in float32."""
    channels = cotangent.shape[-1]

    def into_window(window: Size, piece: Piece, cotangent: Array, gradient: Array) -> Array:
        rows, columns = _weights(size, map_size, window, piece, cotangent.dtype)
        change = _product("py,pxc->yxc", rows, _product("qx,pqc->pxc", columns, cotangent))
        before = lax.dynamic_slice(gradient, piece.corner, (1, *window, channels))
        return lax.dynamic_update_slice(gradient, before + change, piece.corner)

    branches = [partial(into_window, window) for window in _windows(*map_size)]

    def add(gradient: Array, box: tuple[Piece, Array]) -> tuple[Array, None]:
        return lax.switch(box[0].window, branches, *box, gradient), None

    each = cotangent.reshape(-1, *size, channels)
    nothing = jnp.zeros((len(cotangent), *map_size, channels), jnp.float32)
    gradient, _ = lax.scan(add, nothing, (_pieces(boxes, map_size), each))
    return gradient.astype(cotangent.dtype)


_product = partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def _windows(height: int, width: int) -> list[Size]:
    """Static (height, width) of the pieces, smallest first; the last one is the whole map."""
    smaller = [side for side in _SIDES if side < max(height, width)]
    return [(min(side, height), min(side, width)) for side in smaller] + [(height, width)]


def _pieces(boxes: Float[Array, "b l 4"], map_size: Size) -> Piece:
    """The places of the boxes of all images, one after another."""
    batch, count, _ = boxes.shape
    boxes = boxes.reshape(-1, 4)
    last = np.array(map_size) - 1
    # Samples lie between the two ends less half a pixel, and touch the pixels around them.
    begin = jnp.clip(jnp.floor(boxes[:, (1, 0)] - 0.5), 0, last).astype(jnp.int32)
    end = jnp.clip(jnp.floor(boxes[:, (3, 2)] + 0.5), 0, last).astype(jnp.int32)
    windows = jnp.array(_windows(*map_size))
    fits = (end - begin < windows[:, None]).all(axis=-1)  # [windows, boxes]
    window = jnp.argmax(fits, axis=0).astype(jnp.int32)
    start = jnp.minimum(begin, last + 1 - windows[window])
    image = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), count)
    corner = (image, start[:, 0], start[:, 1], jnp.zeros_like(image))
    return Piece(boxes, window, corner)


def _weights(size: Size, map_size: Size, window: Size, piece: Piece, dtype) -> tuple[Array, Array]:
    (x1, y1, x2, y2), (_, top, left, _) = piece.box, piece.corner
    rows = axis_weights(y1, y2, size[0], map_size[0], top + jnp.arange(window[0]))
    columns = axis_weights(x1, x2, size[1], map_size[1], left + jnp.arange(window[1]))
    return rows.astype(dtype), columns.astype(dtype)
