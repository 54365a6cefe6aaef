"""Shared by the examples: flags, photos at the model's size, pictures with titles."""

import sys
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpstoken_jax.data import images, resize_and_crop, transforms
from gpstoken_jax.tokens.visualize import image_grid

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The run's directory.", required=True)
IMAGE = flags.DEFINE_string("image", None, "A photo; one of scikit-image's by default.")
OUTPUT = flags.DEFINE_string("output", None, "The picture to write.", required=True)


def read_photo(path: str | None, default: str, size: int) -> np.ndarray:
    """A photo (by default scikit-image's of that name) as [size, size, 3] in [-1, 1]."""
    if path is None:
        from skimage import data

        pixels = getattr(data, default)()
    else:
        pixels = images.decode(images.read_bytes(path)).pixels
    return transforms.to_unit_range(resize_and_crop(pixels, size, resize="antialias"))


def save(path: str | Path, rows: list, titles: list[str]) -> None:
    """Writes a grid and says where."""
    Image.fromarray(image_grid(rows, titles=titles)).save(path, quality=88)
    print(f"wrote {path}")
