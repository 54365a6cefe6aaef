"""Photos of the demo: left parts to learn from, right parts to show, squares to fit codes on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from gpstoken_jax.data import demo, folder, images
from gpstoken_jax.data.transforms import to_unit_range
from gpstoken_jax.runtime.files import write_file
from gpstoken_jax.runtime.progress import Progress

MAX_PHOTOS = 64
MAX_SHORT_SIDE = 512  # many large photos would not fit into memory, and squares are far smaller
_LEARNT = 1 / 2  # of the width
_FITTING_SIDE = 2  # in squares, of a photo that codes are fitted on
_SMALLEST = 32  # side of a square that is shown, before it is brought to size
_OFTEN = 16  # photos between lines of progress
Photo = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, eq=False)
class Crops:
    """Squares of photos.

    Attributes:
      names: of the photos.
      images: in [-1, 1].
    """

    names: list[str]
    images: Float[np.ndarray, "n s s 3"]


def read_photos(path: str | None) -> dict[str, Photo]:
    """Reads the photos of a folder, ``MAX_PHOTOS`` at most; None reads the held-out ones.

    Those with a short side of more than ``MAX_SHORT_SIDE`` pixels are brought to that.

    Raises:
      ValueError: if there are none that can be read and are large enough.
      OSError: if there is no such folder.
    """
    listing = folder.list_folder(path) if path else demo.list_demo_photos()
    files = listing.files if path else listing.split("val")
    photos, progress = {}, Progress(min(len(files), MAX_PHOTOS), unit="photos")
    for place, file in enumerate(files):
        if len(photos) == MAX_PHOTOS:
            print(f"left out: the last {len(files) - place}: {MAX_PHOTOS} photos are enough")
            break
        try:
            data = images.read_bytes(file.path)
            pixels = images.decode(data, at_least=2 * MAX_SHORT_SIDE).pixels
        except images.UnreadableImageError as error:
            print(f"left out: {file.name}: {error}")
            continue
        height, width = pixels.shape[:2]
        if height < _SMALLEST or width - _cut(pixels) < _SMALLEST:
            print(
                f"left out: {file.name}: it is too small, {width} x {height} pixels; "
                f"{round(_SMALLEST / _LEARNT)} x {_SMALLEST} will do"
            )
            continue
        photos[file.name] = _shrunk(pixels)
        if len(photos) % _OFTEN == 0:
            progress.advance(_OFTEN)
    if not photos:
        raise ValueError(f"{path} has no photo that can be shown")
    return photos


def write_crops(photos: Mapping[str, Photo], output: Path) -> Path:
    """Writes left and right parts as a data set of two splits; other photos go elsewhere.

    Returns:
      The directory of these photos in ``output``; the data set is ``photos`` in it.
    """
    digest = hashlib.sha256(b"".join(photo.tobytes() for photo in photos.values())).hexdigest()
    root = output / digest[:8]
    for number, photo in enumerate(photos.values()):
        cut = _cut(photo)
        for split, part in (("train", photo[:, :cut]), ("val", photo[:, cut:])):
            part = part[: images.MAX_ASPECT * part.shape[1]]  # half of a high photo is no image
            (root / "photos" / split).mkdir(parents=True, exist_ok=True)
            write_file(root / "photos" / split / f"{number:03d}.png", images.encode_png(part))
    return root


def held_out(photos: Mapping[str, Photo], side: int) -> Crops:
    """The right half of every photo as squares, one below the other; every photo's first first."""
    rows = []
    for name, photo in photos.items():
        right = photo[:, _cut(photo) :]
        length = min(right.shape[:2])
        for number, top in enumerate(range(0, right.shape[0] - length + 1, length)):
            square = right[top : top + length, :length]
            rows.append((number, name, _resized(square, (side, side))))
    rows.sort(key=lambda row: row[0])
    return Crops([name for _, name, _ in rows], np.stack([image for *_, image in rows]))


def fitting_crops(photos: Mapping[str, Photo], side: int) -> Float[np.ndarray, "n s s 3"]:
    """Squares that are not shown: of the left parts, and of the package's training photos."""
    parts = [photo[:, : _cut(photo)] for photo in photos.values()]
    for file in demo.list_demo_photos().split("train"):
        parts.append(images.decode(images.read_bytes(file.path)).pixels)
    squares = []
    for part in parts:
        scale = _FITTING_SIDE * side / min(part.shape[:2])
        size = tuple(max(_FITTING_SIDE * side, round(scale * n)) for n in part.shape[:2])
        image = _resized(part, size)
        squares += [
            image[top : top + side, left : left + side]
            for top in range(0, size[0] - side + 1, side)
            for left in range(0, size[1] - side + 1, side)
        ]
    return np.stack(squares)


def _cut(photo: Photo) -> int:
    """The column where the right part begins."""
    return round(_LEARNT * photo.shape[1])


def _shrunk(pixels: Photo) -> Photo:
    factor = MAX_SHORT_SIDE / min(pixels.shape[:2])
    if factor >= 1:
        return pixels
    size = [round(factor * side) for side in pixels.shape[1::-1]]
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _resized(pixels: Photo, size: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS)
    return to_unit_range(np.asarray(image))
