"""Layouts as pictures: outlines of the regions that the Gaussians stand for."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from gpstoken_jax.tokens import visualize

_BACKGROUND = (24, 24, 28)


def draw_layout(geometry: Float[np.ndarray, "l 5"], side: int = 128) -> UInt8[np.ndarray, "s s 3"]:
    """One layout, valid or not: each Gaussian as the rectangle whose partition would start it."""
    picture = Image.new("RGB", (side, side), _BACKGROUND)
    canvas = ImageDraw.Draw(picture)
    sigma, mu = np.asarray(geometry, np.float64)[:, :2], np.asarray(geometry, np.float64)[:, 3:]
    first, last = (mu + 1) / 2 - sigma * 0.75, (mu + 1) / 2 + sigma * 0.75
    edges = np.concatenate([first, last], axis=1) * (side - 1)
    for edge, colour in zip(edges, visualize.token_colours(geometry), strict=True):
        left, top, right, bottom = edge
        box = (left, top, max(left, right), max(top, bottom))
        canvas.rectangle(box, outline=tuple(colour.tolist()))
    return np.asarray(picture)


def layout_grid(
    rows: Sequence[Float[np.ndarray, "n l 5"]], titles: Sequence[str] = (), side: int = 128
) -> UInt8[np.ndarray, "h w 3"]:
    """Layouts in rows of equal length; ``titles`` stand over the columns."""
    return visualize.image_grid(
        [[draw_layout(one, side) for one in row] for row in rows], titles=titles
    )
