"""Conversions between pixel regions, boxes in [-1, 1] and Gaussian geometry.

A region is (left, top, right, bottom) in pixel indices, both ends included. A box is the same
rectangle as (x1, y1, x2, y2) in [-1, 1], where -1 is the centre of the first pixel and +1 the
centre of the last one. Geometry is (sigma_x, sigma_y, rho, mu_x, mu_y).
"""

from typing import TypeVar

import numpy as np
from jaxtyping import Array, Float, Int

AnyArray = TypeVar("AnyArray", np.ndarray, Array)


def regions_to_geometry(
    regions: Int[np.ndarray, "... 4"], height: int, width: int
) -> Float[np.ndarray, "... 5"]:
    """Initial Gaussians of regions of a height x width image, float32.

    sigma is two thirds of the region's extent (last index - first index) over the image's size,
    mu its centre in [-1, 1], rho 0. The size divides sigma and the size less one divides mu: the
    published code does so, and its weights were trained with it.
    """
    left, top, right, bottom = np.moveaxis(np.asarray(regions, np.float64), -1, 0)
    columns = (
        (right - left) / width * 2 / 3,
        (bottom - top) / height * 2 / 3,
        np.zeros_like(left),
        _normalise((left + right) / 2, width),
        _normalise((top + bottom) / 2, height),
    )
    return np.stack(columns, axis=-1).astype(np.float32)


def geometry_to_regions(
    geometry: Float[np.ndarray, "*n 5"], height: int, width: int
) -> Int[np.ndarray, "*n 4"]:
    """The inverse of `regions_to_geometry`, exact for images of up to 2048 pixels a side.

    Raises:
      ValueError: for a Gaussian that no region has: rho is not 0, or an edge lies between pixels or
        outside the image.
    """
    sigma_x, sigma_y, rho, mu_x, mu_y = np.moveaxis(np.asarray(geometry, np.float64), -1, 0)
    across, down = sigma_x * 1.5 * width, sigma_y * 1.5 * height
    middle_x, middle_y = (mu_x + 1) / 2 * (width - 1), (mu_y + 1) / 2 * (height - 1)
    edges = [middle_x - across / 2, middle_y - down / 2, middle_x + across / 2, middle_y + down / 2]
    edges = np.stack(edges, axis=-1)
    regions = np.round(edges)
    off = (np.abs(edges - regions) > 0.02) | (regions < 0) | (rho != 0)[..., None]
    off |= regions >= np.array([width, height, width, height])
    if not off.any():
        return regions.astype(np.int64)
    found = tuple(np.argwhere(off.any(-1))[0])
    values = ", ".join(f"{value:.6g}" for value in np.asarray(geometry)[found])
    raise ValueError(
        f"Gaussian {', '.join(map(str, found))} is of no region of a {height} x {width} image: "
        f"(sigma_x, sigma_y, rho, mu_x, mu_y) = ({values})"
    )


def regions_to_boxes(
    regions: Int[np.ndarray, "... 4"], height: int, width: int
) -> Float[np.ndarray, "... 4"]:
    """Boxes (x1, y1, x2, y2) in [-1, 1] of regions of a height x width image, float32."""
    regions = np.asarray(regions, np.float64)
    return _normalise(regions, np.array([width, height, width, height])).astype(np.float32)


def boxes_to_pixels(
    boxes: Float[AnyArray, "... 4"], height: int, width: int
) -> Float[AnyArray, "... 4"]:
    """Boxes in [-1, 1] as pixel coordinates of a height x width map; NumPy or JAX in, the same out.

    The inverse of `regions_to_boxes`: the coordinates are those of pixel centres, and the last
    pixel's centre (not its far edge) ends the box.
    """
    last = np.array([width - 1, height - 1, width - 1, height - 1], np.float32)
    return (boxes + 1) / 2 * last


def _normalise(position: np.ndarray, size: int | np.ndarray) -> np.ndarray:
    return (position / (size - 1) - 0.5) * 2
