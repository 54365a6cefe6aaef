"""Images as callers have them - arrays, PIL images, paths - become one batch in [-1, 1]."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from gpstoken_jax.data import images as image_files
from gpstoken_jax.data.transforms import to_unit_range
from gpstoken_jax.runtime.buckets import is_url

_SLACK = 1e-3  # floats may leave [-1, 1] by rounding


def to_batch(images: Any) -> tuple[Float32[np.ndarray, "b h w 3"], bool]:
    """Converts one image or a batch of images of one size.

    Args:
      images: an array [H, W, 3] or [B, H, W, 3] of uint8, or of floats in [-1, 1], from NumPy, JAX
        or anything that NumPy takes; a PIL image; the path of an image file; or a sequence of
        such images.

    Returns:
      Floats in [-1, 1], and whether a batch was given rather than one image.

    Raises:
      ValueError: for other shapes, types or ranges; says what was given.
      UnreadableImageError: for a file that is no image.
      OSError: for a file that cannot be read.
    """
    if isinstance(images, str | bytes | os.PathLike | Image.Image):
        return _one(images)[None], False
    if isinstance(images, Sequence) and not _is_numbers(images):
        return _stack([_one(image) for image in images]), True
    array = np.asarray(images)
    if array.ndim == 4:
        return _to_unit(array), True
    return _one(images)[None], False


def _one(image: Any) -> Float32[np.ndarray, "h w 3"]:
    if isinstance(image, str | os.PathLike):
        image = os.path.expanduser(image)
        if not (is_url(image) or os.path.isfile(image)):
            raise FileNotFoundError(f"{image}: there is no such file to take an image from")
        try:
            return to_unit_range(image_files.decode(image_files.read_bytes(image)).pixels)
        except image_files.UnreadableImageError as error:
            raise image_files.UnreadableImageError(f"{image}: {error}") from error
    if isinstance(image, Image.Image):
        return to_unit_range(image_files.to_pixels(image))
    array = np.asarray(image)
    if array.dtype.kind in "OSU":
        raise ValueError(
            "an image must be an array of numbers, a PIL image or a path, a batch an array or a "
            f"list of these; got {type(image).__name__}"
        )
    if array.ndim != 3:
        raise ValueError(
            f"images must be [H, W, 3] or [B, H, W, 3], channel-last; got shape {array.shape}"
        )
    return _to_unit(array[None])[0]


def _to_unit(array: np.ndarray) -> Float32[np.ndarray, "b h w 3"]:
    if array.shape[-1] != 3:
        hint = "; it looks channel-first: transpose it" if array.shape[-3] == 3 else ""
        raise ValueError(
            f"images must have 3 channels (RGB) in their last axis; got shape {array.shape}{hint}"
        )
    if 0 in array.shape:
        raise ValueError(f"there is no image in an array of shape {array.shape}")
    if array.dtype == np.uint8:
        return to_unit_range(array)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ValueError(f"images must be uint8, or floats in [-1, 1]; got {array.dtype}")
    values = array.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= -1 - _SLACK and high <= 1 + _SLACK):  # written so that NaN fails too
        hint = ""
        if low >= 0 and high <= 255 + _SLACK:
            hint = "; for pixels from 0 to 255 give uint8, or x / 127.5 - 1"
        elif not np.isfinite(values).all():
            hint = ": there are values that are not finite"
        raise ValueError(
            f"images of floats must be in [-1, 1]; these go from {low:g} to {high:g}{hint}"
        )
    return values


def _stack(images: list[np.ndarray]) -> np.ndarray:
    if not images:
        raise ValueError("there is no image in an empty sequence")
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        sizes = ", ".join(sorted(f"{height} x {width}" for height, width, _ in shapes))
        raise ValueError(
            f"images of a batch must have one size; these are {sizes}: encode them one by one, or "
            "bring them to one with gpstoken_jax.data.resize_and_crop"
        )
    return np.stack(images)


def _is_numbers(images: Sequence) -> bool:
    """Tells whether a sequence is an image written out as nested lists of numbers."""
    return len(images) > 0 and isinstance(images[0], Sequence) and not isinstance(images[0], str)
