"""Bringing images to size: to the bit as the published code does, or antialiased.

The published code resizes with OpenCV's INTER_LINEAR on 8-bit pixels, which reads two pixels a side
whatever the factor: shrunken images alias, and have more energy in their gradients. Its fixed-point
arithmetic is repeated here (checked against OpenCV 4.9), so that images, and every figure measured
on them, are those of the published evaluation.
"""

from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

RESIZES = ("published", "antialias")
_ONE = 2048  # the weight 1


def check_resize(resize: str) -> None:
    """Raises ValueError unless ``resize`` is one of ``RESIZES``."""
    if resize not in RESIZES:
        raise ValueError(f"data.resize={resize!r} is unknown: choose one of {', '.join(RESIZES)}")


def resize_of(data_config: Any) -> str:
    """The field ``resize`` of a ``data`` section; runs from before there was one antialias."""
    resize = getattr(data_config, "resize", "antialias")
    check_resize(resize)
    return resize


def resize_and_crop(
    pixels: UInt8[np.ndarray, "h w 3"], size: int | tuple[int, int], *, resize: str = "published"
) -> UInt8[np.ndarray, "g v 3"]:
    """Brings an image to size: resized so that it just covers, then the centre.

    Args:
      pixels: RGB, any size.
      size: side of a square, or (height, width).
      resize: ``"published"`` (OpenCV's bilinear, no antialiasing; sides rounded half to even) or
        ``"antialias"`` (Pillow's bilinear; the longer side truncated).

    Raises:
      ValueError: an unknown ``resize``, a size below 1, or no uint8 [H, W, 3].
    """
    size = as_size(size)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 0 in pixels.shape or min(size) < 1:
        raise ValueError(
            f"images to resize are uint8 [H, W, 3], to at least 1 pixel a side; got "
            f"{pixels.dtype} {pixels.shape} and {size}"
        )
    return center_crop(resize_to_cover(pixels, size, resize), size, resize)


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a square's side, or of itself."""
    return (size, size) if isinstance(size, int) else size


def resize_to_cover(
    pixels: UInt8[np.ndarray, "h w 3"], size: int | tuple[int, int], resize: str
) -> UInt8[np.ndarray, "g v 3"]:
    """Resizes, keeping the aspect ratio, so that the image just covers ``size``.

    One side fits exactly (of a square, the shorter one); an image that covers already stays as it
    is. The other side is rounded half to even (``"published"``) or truncated, and at least as long
    as asked for.
    """
    check_resize(resize)
    (height, width), (rows, columns) = pixels.shape[:2], as_size(size)
    tall = height * columns >= width * rows  # the width is what fits exactly
    if resize == "published":
        scale = columns / width if tall else rows / height
        rows, columns = max(rows, round(height * scale)), max(columns, round(width * scale))
    elif tall:
        rows = height * columns // width
    else:
        columns = width * rows // height
    if (rows, columns) == (height, width):
        return pixels
    return resize_to(pixels, (rows, columns), resize)


def resize_to(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], resize: str
) -> UInt8[np.ndarray, "g v 3"]:
    """Resizes to (height, width), whatever that does to the aspect ratio."""
    check_resize(resize)
    if resize == "published":
        return _bilinear(pixels, size)
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))


def center_crop(
    pixels: UInt8[np.ndarray, "h w 3"], size: int | tuple[int, int], resize: str
) -> UInt8[np.ndarray, "g v 3"]:
    """Cuts the central pixels; half positions round down (``"published"``) or to even."""
    check_resize(resize)
    (height, width), (rows, columns) = pixels.shape[:2], as_size(size)
    if resize == "published":
        top, left = (height - rows) // 2, (width - columns) // 2
    else:
        top, left = round((height - rows) / 2), round((width - columns) / 2)
    return pixels[top : top + rows, left : left + columns]


def _bilinear(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "g v 3"]:
    """OpenCV's INTER_LINEAR: half-pixel centres, clamped edges, weights of 11 bits."""
    height, width = pixels.shape[:2]
    if (height, width) == (2 * size[0], 2 * size[1]):  # exactly half: the mean of 2 x 2 pixels
        quads = pixels.reshape(size[0], 2, size[1], 2, -1).astype(np.uint16)
        return ((quads.sum((1, 3)) + 2) >> 2).astype(np.uint8)
    above, below, upper, lower = _taps(height, size[0])
    before, after, left, right = _taps(width, size[1])
    # A position beyond the centre of the first or last pixel has that pixel for both. That is the
    # same whatever the weights in a row, which is exact, but not in a column: the shifts round.
    needed, place = np.unique(np.stack([above, below]), return_inverse=True)
    rows = pixels[needed].astype(np.int32)
    rows = (rows[:, before] * left[:, None] + rows[:, after] * right[:, None]) >> 4
    place = place.reshape(2, -1)
    first = (rows[place[0]] * upper[:, None, None]) >> 16
    second = (rows[place[1]] * lower[:, None, None]) >> 16
    return ((first + second + 2) >> 2).astype(np.uint8)


def _taps(length: int, new_length: int) -> tuple[Int[np.ndarray, " n"], ...]:
    """Indices of the pixels on both sides of each new one, and the weights of both."""
    scale = 1.0 / (new_length / length)
    position = ((np.arange(new_length) + 0.5) * scale - 0.5).astype(np.float32)
    start = np.floor(position)
    fraction = position - start
    weights = (
        np.rint(share * np.float32(_ONE)).astype(np.int32) for share in (1 - fraction, fraction)
    )
    first = start.astype(np.intp)
    return *(np.clip(index, 0, length - 1) for index in (first, first + 1)), *weights
