"""From decoded pixels to what the network sees: resize, crop, flip, scale.

The published runs resize the short side to the image side, crop the centre and flip at random;
random crops are options of ours. Every random number comes from the generator that is passed in.
"""

import math

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from gpstoken_jax.data.resize import (
    Picture,
    center_crop,
    resize_and_crop,
    resize_to,
    resize_to_cover,
    size_of,
    to_array,
)

CROPS = ("center", "random", "random_resized")
_ASPECT_RANGE = (3 / 4, 4 / 3)  # of a random-resized crop, as is customary
_ATTEMPTS = 10

# One table look-up per sample is faster than arithmetic, and the ends are exactly -1 and 1.
_TO_UNIT = (np.arange(256, dtype=np.float32) / np.float32(255)) * np.float32(2) - np.float32(1)


def to_uint8(
    images: Float32[np.ndarray, "*b h w 3"], rounding: str = "round"
) -> UInt8[np.ndarray, "*b h w 3"]:
    """Converts images in [-1, 1] to pixels of 0 to 255, clipping what lies outside.

    Args:
      images: floats.
      rounding: ``"round"`` to the nearest level, or ``"truncate"`` to the one below, as the
        published code writes files.

    Raises:
      ValueError: for another rounding.
    """
    if rounding not in ("round", "truncate"):
        raise ValueError(f'rounding must be "round" or "truncate", not {rounding!r}')
    unit = np.clip((np.asarray(images, np.float32) + 1) / 2, 0, 1)
    level = np.rint if rounding == "round" else np.floor
    return level(unit * 255).astype(np.uint8)


def check_crop(crop: str) -> None:
    """Raises ValueError unless `crop` is one of `CROPS`."""
    if crop not in CROPS:
        raise ValueError(f"data.crop={crop!r} is unknown: choose one of {', '.join(CROPS)}")


def random_crop(
    pixels: UInt8[np.ndarray, "h w 3"], side: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """Cuts `side` x `side` pixels from a uniformly random place."""
    height, width = pixels.shape[:2]
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return pixels[top : top + side, left : left + side]


def random_resized_crop(
    pixels: Picture, side: int, scale: tuple[float, float], rng: np.random.Generator, resize: str
) -> UInt8[np.ndarray, "s s 3"]:
    """Cuts a random rectangle and resizes it to `side` x `side`.

    Args:
        pixels: RGB image of any size.
        side: Side of the result.
        scale: Smallest and largest share of the image's area, in (0, 1].
        rng: Source of the random numbers.
        resize: One of `resize.RESIZES`. The published way sees nothing outside the rectangle;
            antialiasing sees the pixels around it, too.
    """
    left, top, width, height = _random_rectangle(*size_of(pixels)[::-1], scale, rng)
    if resize == "published":
        inside = to_array(pixels)[top : top + height, left : left + width]
        return resize_to(inside, (side, side), resize)
    box = (left, top, left + width, top + height)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box))


def _random_rectangle(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Returns (left, top, width, height) inside the image; the central square as a last resort."""
    for _ in range(_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(_ASPECT_RANGE[0]), math.log(_ASPECT_RANGE[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def working_side(image_size: int, crop: str, crop_scale: tuple[float, float]) -> int:
    """The short side at which an image is kept between decoding and the random part.

    For a random-resized crop it is large enough that the smallest crop still has about
    `image_size` pixels a side, so that little is lost and memory stays bounded.
    """
    if crop != "random_resized":
        return image_size
    return math.ceil(image_size / math.sqrt(crop_scale[0] * _ASPECT_RANGE[0]))


def fit(pixels: Picture, side: int, crop: str, resize: str) -> Picture:
    """The part before any randomness: brings the short side to `side`, and cuts the centre.

    Small images are enlarged, except before a random-resized crop, which resizes anyway.
    """
    if crop == "center":
        return resize_and_crop(pixels, side, resize=resize)
    if crop == "random_resized" and min(size_of(pixels)) <= side:
        return pixels
    return resize_to_cover(pixels, side, resize)


def augment(
    pixels: Picture,
    image_size: int,
    crop: str,
    crop_scale: tuple[float, float],
    flip: bool,
    permute_colours: bool,
    resize: str,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "s s 3"]:
    """Cuts an `image_size` square out of a fitted image; may mirror it and mix up its colours."""
    if crop == "random_resized":
        pixels = random_resized_crop(pixels, image_size, crop_scale, rng, resize)
    elif crop == "random":
        pixels = random_crop(to_array(pixels), image_size, rng)
    else:
        pixels = center_crop(to_array(pixels), image_size, resize)
    if flip and rng.random() < 0.5:
        pixels = _mirrored(pixels)
    return pixels[..., rng.permutation(3)] if permute_colours else pixels


def _mirrored(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Left to right, as a copy: one channel after another is a third of the time of all at once."""
    mirrored = np.empty_like(pixels, order="C")
    for channel in range(pixels.shape[-1]):
        mirrored[..., channel] = pixels[:, ::-1, channel]
    return mirrored


def to_unit_range(pixels: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Maps 0..255 to float32 in [-1, 1]."""
    return _TO_UNIT[pixels]
