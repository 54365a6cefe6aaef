"""Photos that scikit-image and scikit-learn ship, one a class, for the demo of generation.

One photo a class is very little. So that there is something held out all the same, each photo is
cut in two: its left part is for training, what is right of it is held out.
"""

import pathlib

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gpstoken_jax.data import demo, images
from gpstoken_jax.runtime.files import open_new

PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
}
TRAIN_SHARE = 0.7  # of a photo's width


def write_demo_classes(output: str | pathlib.Path) -> list[pathlib.Path]:
    """Writes OUTPUT/{train,val}/CLASS/CLASS.png; files that are there stay untouched.

    Returns:
      all the files.

    Raises:
      ModuleNotFoundError: if scikit-image or scikit-learn is not installed.
      OSError: if a photo cannot be read or a file not be written.
    """
    paths = []
    for name, (package, inside) in PHOTOS.items():
        parts = [pathlib.Path(output, split, name, f"{name}.png") for split in ("train", "val")]
        paths += parts
        if all(path.exists() for path in parts):
            continue
        photo = images.decode(images.read_bytes(demo.package_root(package) / inside)).pixels
        for path, pixels in zip(parts, split_photo(photo), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_new(path, durable=False) as file:
                Image.fromarray(pixels).save(file, format="PNG")
    return paths


def split_photo(
    photo: UInt8[np.ndarray, "h w 3"],
) -> tuple[UInt8[np.ndarray, "h v 3"], UInt8[np.ndarray, "h u 3"]]:
    """The left part of a photo and the rest, with no pixel in both."""
    at = round(photo.shape[1] * TRAIN_SHARE)
    return photo[:, :at], photo[:, at:]
