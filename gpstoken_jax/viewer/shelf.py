"""Photos that can be taken by their number: those of the command line and those that ship."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gpstoken_jax.data.demo import list_demo_photos
from gpstoken_jax.data.images import UnreadableImageError, decode, read_bytes
from gpstoken_jax.data.resize import resize_and_crop
from gpstoken_jax.viewer.photos import MAX_PIXELS

_THUMBNAIL = 96  # pixels a side
_LEFT_OUT = ("text.png", "motorcycle_right.png", "ihc.png", "moon.png", "brick.png")


@dataclass(frozen=True)
class Item:
    """A photo on the shelf: its name for people, where it is, whether it was asked for."""

    name: str
    path: Path
    given: bool

    def thumbnail(self) -> bytes:
        """A small square JPEG of it."""
        pixels = decode(read_bytes(self.path), max_pixels=MAX_PIXELS).pixels
        small = resize_and_crop(pixels, _THUMBNAIL, resize="antialias")
        buffer = io.BytesIO()
        Image.fromarray(small).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def fill_shelf(given: Sequence[Path]) -> tuple[Item, ...]:
    """The photos given, then those that scikit-image and scikit-learn ship, where they are there.

    Raises:
      OSError: for a given photo that cannot be read.
      UnreadableImageError: for one that is no photo, with its name.
    """
    for path in given:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            decode(read_bytes(path), max_pixels=MAX_PIXELS)
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{path}: {error}") from error
    try:
        shipped = list_demo_photos().files
    except (ModuleNotFoundError, FileNotFoundError):
        shipped = ()
    paths = [file.path for file in shipped if file.path.name not in _LEFT_OUT]
    paths.sort(key=lambda path: (path.name != "chelsea.png", path.name))
    return (
        *(Item(path.name, path, True) for path in given),
        *(Item(path.name, path, False) for path in paths),
    )
