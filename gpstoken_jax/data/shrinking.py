"""Shrinking of large images before they are stored in a prepared data set."""

import dataclasses
import io

from PIL import Image

from gpstoken_jax.data.images import encode_png
from gpstoken_jax.data.resize import Picture, check_resize, resize_to_cover


@dataclasses.dataclass(frozen=True)
class Shrinking:
    """A largest short side, and the format of the images that it makes smaller.

    Attributes:
        short_side: Of what is stored; an image whose shorter side is not longer stays as it is.
        quality: Of JPEG, 1 to 100; 0 stores PNG, which loses nothing more.
        resize: One of `resize.RESIZES`.
    """

    short_side: int
    quality: int = 95
    resize: str = "antialias"

    def __post_init__(self):
        check_resize(self.resize)
        if self.short_side < 1 or not 0 <= self.quality <= 100:
            raise ValueError(
                f"short_side={self.short_side} must be 1 or more, and quality={self.quality} from "
                "1 to 100, or 0 for PNG"
            )

    def __str__(self) -> str:
        kind = f"JPEG of quality {self.quality}" if self.quality else "PNG"
        return f"short side at most {self.short_side} ({self.resize}), {kind}"

    @property
    def at_least(self) -> int | None:
        """The argument of `images.decode`."""
        return self.short_side if self.resize == "fast" else None

    def encode(self, picture: Picture) -> tuple[bytes, tuple[int, int]]:
        """Makes the file of a shrunken image; returns it with its (height, width)."""
        pixels = resize_to_cover(picture, self.short_side, self.resize)
        if not self.quality:
            return encode_png(pixels, compress_level=3), pixels.shape[:2]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue(), pixels.shape[:2]
