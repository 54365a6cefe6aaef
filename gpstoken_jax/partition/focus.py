"""A user's say in where tokens go: boxes or a grey picture become a bias of the partition.

The partition cuts the region of the largest complexity: an amount per pixel, by how varied its
edges are, times the area. A bias adds to that amount. The unit of strength is the largest amount
that any texture can have. Real texture has less: of 1,536 regions of 16 x 16 pixels in six photos,
half are below 0.03, one in twenty above 0.25, none above 0.42. So a strength of 0.1 treats a flat
wall like ordinary texture, at 0.25 it is cut as finely as the busiest places, and at 1 the focus
gets tokens before anything else, until its regions are too small to cut. A negative strength keeps
tokens away.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import ArrayLike, Bool, Float
from PIL import Image, UnidentifiedImageError

from gpstoken_jax.partition.complexity import BINS

_INSIDE = 0.1  # of the largest strength
_FARTHEST = 2  # of a box that sticks out of the image; others are in pixels, or none of this image


def focus_bias(
    size: tuple[int, int],
    boxes: Float[ArrayLike, "n 4"],
    strengths: Float[ArrayLike, " n"],
    *,
    weight: float = 2.5,
) -> Float[np.ndarray, "h w"]:
    """The partition's ``bias`` that draws tokens into boxes.

    Args:
      size: (H, W) of the image.
      boxes: (x1, y1, x2, y2), the image being -1 to 1; what sticks out is cut off. Where they
        overlap, their strengths add up.
      strengths: 1 is the density that the busiest texture would get, see above; negative is fewer.
      weight: of the partition that the bias is for.

    Raises:
      ValueError: a box that holds no pixel or reaches far out of the image, or values that are not
        finite.
    """
    return strength_to_bias(box_strength(size, boxes, strengths), weight)


def strength_to_bias(
    strength: Float[np.ndarray, "h w"], weight: float = 2.5
) -> Float[np.ndarray, "h w"]:
    """Strengths a pixel in the partition's own measure, entropy ** weight a pixel."""
    return np.float32(math.log2(BINS) ** weight) * np.asarray(strength, np.float32)


def box_strength(
    size: tuple[int, int], boxes: Float[ArrayLike, "n 4"], strengths: Float[ArrayLike, " n"]
) -> Float[np.ndarray, "h w"]:
    """The strength at every pixel; arguments and errors are those of ``focus_bias``."""
    height, width = size
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    strengths = np.asarray(strengths, np.float64).reshape(-1)
    if not (np.isfinite(boxes).all() and np.isfinite(strengths).all()):
        raise ValueError("focus: boxes and strengths must be finite numbers")
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    total = np.zeros(size, np.float32)
    for (x1, y1, x2, y2), strength in zip(boxes, strengths, strict=True):
        inside = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
        if max(abs(x1), abs(y1), abs(x2), abs(y2)) > _FARTHEST:
            raise ValueError(
                f"focus: the box ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) leaves the image; x and y "
                "run from -1 to 1, whatever its size in pixels"
            )
        if not inside.any():
            raise ValueError(
                f"focus: the box ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) holds no pixel of an image "
                f"of {height} x {width}; x and y run from -1 to 1"
            )
        total += np.float32(strength) * inside
    return total


def parse_focus(text: str) -> tuple[tuple[float, float, float, float], float]:
    """A box and its strength from ``"x,y,w,h,strength"``.

    x and y are the top left corner, w and h the size, in fractions of the image: "0,0,0.5,1,2" is
    the left half with strength 2.

    Returns:
      The box as (x1, y1, x2, y2) in [-1, 1], and the strength.

    Raises:
      ValueError: not five numbers, or a box that is not inside the image.
    """
    try:
        x, y, w, h, strength = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"focus {text!r} must be five numbers, x,y,w,h,strength") from None
    if not (x >= 0 and y >= 0 and w > 0 and h > 0 and max(x + w, y + h) <= 1 + 1e-6):
        raise ValueError(
            f"focus {text!r}: x, y, w, h are fractions of the image, with x + w and y + h at most 1"
        )
    return (2 * x - 1, 2 * y - 1, 2 * (x + w) - 1, 2 * (y + h) - 1), strength


def read_strength_map(path: str | Path, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """A grey picture of any size as strengths: black is 0, white is 1, resized to (H, W).

    Raises:
      ValueError: if the file is no picture, with its name.
    """
    height, width = size
    try:
        with Image.open(path) as image:
            grey = image.convert("L").resize((width, height), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"the bias map {path} cannot be read: {error}") from error
    return np.asarray(grey, np.float32) / 255


def focus_mask(strength: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels in the focus: those with more than a tenth of the largest strength.

    Raises:
      ValueError: if that is no pixel, or all of them: then there is no inside and outside.
    """
    amount = np.abs(strength)
    inside = amount > _INSIDE * amount.max()
    if not inside.any() or inside.all():
        share = "nothing" if not inside.any() else "the whole image"
        raise ValueError(f"focus: {share} is in the focus, which moves no tokens")
    return inside


def read_focus(
    size: tuple[int, int], boxes: Sequence[str], bias_map: str | Path | None = None
) -> Float[np.ndarray, "h w"] | None:
    """The strength at every pixel that boxes and a picture ask for together; None for neither.

    Args:
      size: (H, W) of the image.
      boxes: texts for ``parse_focus``.
      bias_map: path for ``read_strength_map``.

    Raises:
      ValueError: what those two and ``box_strength`` raise.
    """
    if not boxes and bias_map is None:
        return None
    parsed = [parse_focus(text) for text in boxes]
    strength = box_strength(size, [box for box, _ in parsed], [amount for _, amount in parsed])
    return strength if bias_map is None else strength + read_strength_map(bias_map, size)
