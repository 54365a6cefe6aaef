"""Photos as the viewer keeps them: fitted to each grid, and nothing of the file."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from jaxtyping import UInt8

from gpstoken_jax.data.images import decode
from gpstoken_jax.data.resize import resize_and_crop
from gpstoken_jax.viewer.sizes import Grid, Sizes

MAX_BYTES = 32 << 20  # of a file
MAX_PIXELS = 50_000_000  # of a photo, before it is decoded: 150 MB


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo by its content.

    Attributes:
      key: digest of the file.
      pictures: RGB by grid, from coarse to fine.
    """

    key: str
    pictures: dict[Grid, UInt8[np.ndarray, "h w 3"]]

    @property
    def ladder(self) -> tuple[Grid, ...]:
        """Its grids, from coarse to fine."""
        return tuple(self.pictures)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(picture.nbytes for picture in self.pictures.values())


def read_photo(data: bytes, sizes: Sizes) -> Photo:
    """Decodes an image file and fits it.

    Raises:
      UnreadableImageError: for what is no image, is damaged or too large; says why.
    """
    pixels = decode(data, max_pixels=MAX_PIXELS).pixels
    pictures = {
        grid: np.ascontiguousarray(resize_and_crop(pixels, sizes.pixels(grid), resize="antialias"))
        for grid in sizes.ladder(*pixels.shape[:2])
    }
    return Photo(sha256(data).hexdigest()[:32], pictures)
