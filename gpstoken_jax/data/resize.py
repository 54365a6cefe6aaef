"""Bringing images to size: to the bit as the published code does, or antialiased.

Only what a crop keeps is computed. In two of the three ways that changes no bit; ``"fast"`` is what
gives up bits for speed.

The published code resizes with OpenCV's INTER_LINEAR on 8-bit pixels, which reads two pixels a side
whatever the factor: shrunken images alias, and have more energy in their gradients. Its fixed-point
arithmetic is repeated here (checked against OpenCV 4.9), so that images, and every figure measured
on them, are those of the published evaluation.
"""

import re
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

RESIZES = ("published", "antialias", "fast")
Picture = UInt8[np.ndarray, "h w 3"] | Image.Image
"""Upright RGB: an array, or a PIL image of mode RGB, which saves a copy."""
_ONE = 2048  # the weight 1
Window = tuple[int, int, int, int]  # top, left, height, width


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
    pixels: Picture, size: int | tuple[int, int], *, resize: str = "published"
) -> UInt8[np.ndarray, "g v 3"]:
    """Brings an image to size: resized so that it just covers, then the centre.

    Args:
      pixels: RGB, any size.
      size: side of a square, or (height, width).
      resize: ``"published"`` (OpenCV's bilinear, no antialiasing; sides rounded half to even),
        ``"antialias"`` (Pillow's bilinear; the longer side truncated) or ``"fast"`` (the second,
        asked for the central pixels only: they differ by one level at most).

    Raises:
      ValueError: an unknown ``resize``, a size below 1, no uint8 [H, W, 3], or a PIL image of
        another mode than RGB.
    """
    size = as_size(size)
    if not isinstance(pixels, Image.Image):
        _check_array(pixels, size)
    elif pixels.mode != "RGB":
        raise ValueError(f'this image is {pixels.mode}, not RGB: give image.convert("RGB")')
    whole = covering_size(size_of(pixels), size, resize)
    return _resize(pixels, whole, (*_corner(whole, size, resize), *size), resize)


def _check_array(pixels: np.ndarray, size: tuple[int, int]) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 0 in pixels.shape or min(size) < 1:
        raise ValueError(
            f"images to resize are uint8 [H, W, 3], to at least 1 pixel a side; got "
            f"{pixels.dtype} {pixels.shape} and {size}"
        )


def size_of(picture: Picture) -> tuple[int, int]:
    """(height, width) of an array or a PIL image."""
    return picture.size[::-1] if isinstance(picture, Image.Image) else picture.shape[:2]


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a square's side, or of itself."""
    return (size, size) if isinstance(size, int) else size


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of ``"256"`` (a square) and ``"256x512"`` (height x width).

    Raises:
      ValueError: anything else; names it.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not height or not width:
        raise ValueError(f"--resolution={text} must be a side, or HEIGHTxWIDTH such as 256x512")
    return height, width


def covering_size(
    given: tuple[int, int], size: int | tuple[int, int], resize: str
) -> tuple[int, int]:
    """The size (height, width) to which an image is resized so that it just covers ``size``.

    One side fits exactly (of a square, the shorter one). The other side is rounded half to even
    (``"published"``) or truncated, and at least as long as asked for.
    """
    check_resize(resize)
    (height, width), (rows, columns) = given, as_size(size)
    tall = height * columns >= width * rows  # the width is what fits exactly
    if resize == "published":
        scale = columns / width if tall else rows / height
        return max(rows, round(height * scale)), max(columns, round(width * scale))
    if tall:
        return height * columns // width, columns
    return rows, width * rows // height


def resize_to_cover(
    pixels: Picture, size: int | tuple[int, int], resize: str
) -> UInt8[np.ndarray, "g v 3"]:
    """Resizes to ``covering_size``; an image that has it already stays as it is."""
    return resize_to(pixels, covering_size(size_of(pixels), size, resize), resize)


def resize_to(pixels: Picture, size: tuple[int, int], resize: str) -> UInt8[np.ndarray, "g v 3"]:
    """Resizes to (height, width), whatever that does to the aspect ratio."""
    check_resize(resize)
    return _resize(pixels, size, (0, 0, *size), resize)


def center_crop(
    pixels: UInt8[np.ndarray, "h w 3"], size: int | tuple[int, int], resize: str
) -> UInt8[np.ndarray, "g v 3"]:
    """Cuts the central pixels; half positions round down (``"published"``) or to even."""
    check_resize(resize)
    (rows, columns), (top, left) = as_size(size), _corner(pixels.shape[:2], as_size(size), resize)
    return pixels[top : top + rows, left : left + columns]


def _corner(whole: tuple[int, int], size: tuple[int, int], resize: str) -> tuple[int, int]:
    """Top and left of the central pixels."""
    margins = [have - wanted for have, wanted in zip(whole, size, strict=True)]
    if resize == "published":
        return margins[0] // 2, margins[1] // 2
    return round(margins[0] / 2), round(margins[1] / 2)


def _resize(
    picture: Picture, whole: tuple[int, int], window: Window, resize: str
) -> UInt8[np.ndarray, "g v 3"]:
    """A window of an image that was resized to ``whole``."""
    height, width = given = size_of(picture)
    top, left, rows, columns = window
    if given == whole:
        return to_array(_cut(picture, window))
    if resize == "published":
        return _bilinear(picture, whole, window)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if resize == "fast":
        y, x = height / whole[0], width / whole[1]  # pixels a pixel
        box = (left * x, top * y, min((left + columns) * x, width), min((top + rows) * y, height))
        return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR, box=box))
    return to_array(_cut(image.resize(whole[::-1], Image.Resampling.BILINEAR), window))


def to_array(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a PIL image, read-only; an array stays as it is."""
    return np.asarray(picture)


def _cut(picture: Picture, window: Window) -> Picture:
    top, left, rows, columns = window
    if window == (0, 0, *size_of(picture)):
        return picture
    if isinstance(picture, Image.Image):
        return picture.crop((left, top, left + columns, top + rows))
    return picture[top : top + rows, left : left + columns]


def _bilinear(
    picture: Picture, whole: tuple[int, int], window: Window
) -> UInt8[np.ndarray, "g v 3"]:
    """OpenCV's INTER_LINEAR: half-pixel centres, clamped edges, weights of 11 bits."""
    height, width = size_of(picture)
    top, left, rows, columns = window
    if (height, width) == (2 * whole[0], 2 * whole[1]):  # exactly half: the mean of 2 x 2 pixels
        pixels = to_array(_cut(picture, tuple(2 * x for x in window)))
        quads = pixels.reshape(rows, 2, columns, 2, -1).astype(np.uint16)
        return ((quads.sum((1, 3)) + 2) >> 2).astype(np.uint8)
    above, below, upper, lower = (x[top : top + rows] for x in _taps(height, whole[0]))
    before, after, *shares = (x[left : left + columns] for x in _taps(width, whole[1]))
    row, column = above[0], before[0]  # the first of those that are read
    part = (int(row), int(column), int(below[-1] + 1 - row), int(after[-1] + 1 - column))
    flat = to_array(_cut(picture, part)).reshape(part[2], -1)
    # A position beyond the centre of the first or last pixel has that pixel for both. That is the
    # same whatever the weights in a row, which is exact, but not in a column: the shifts round.
    needed, place = np.unique(np.stack([above, below]), return_inverse=True)
    flat = flat[needed - row] if len(needed) < len(flat) else flat
    samples = [(3 * (x - column)[:, None] + np.arange(3)).ravel() for x in (before, after)]
    across, other = (
        flat.take(index, axis=1).astype(np.int32) * np.repeat(share, 3)
        for index, share in zip(samples, shares, strict=True)
    )
    across += other
    across >>= 4
    down, other = (
        across.take(index, axis=0) * share[:, None]
        for index, share in zip(place.reshape(2, -1), (upper, lower), strict=True)
    )
    down >>= 16
    other >>= 16
    down += other
    down += 2
    down >>= 2
    return down.astype(np.uint8).reshape(rows, columns, 3)


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
