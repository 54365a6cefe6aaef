"""Reading of any image file as upright RGB uint8 pixels.

This is the only place in the project that decides it, for training, evaluation and data
preparation alike:

* EXIF orientation is applied (a phone photo stands upright);
* transparency is composited on white;
* grey, palette, 1-bit, YCbCr and CMYK become RGB; embedded colour profiles are not applied;
* 16-bit samples are scaled from 0..65535 to 0..255, rounded to nearest (16-bit RGB PNG files
  keep the upper eight bits, which is what Pillow's decoder hands out);
* of an animation or a multi-page file the first frame is taken;
* files that are broken, are no image, are too large, are extremely narrow or hold samples of
  unknown range raise `UnreadableImageError` with the reason.
"""

import contextlib
import dataclasses
import functools
import importlib
import io
import os

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps

from gpstoken_jax.data.resize import Picture
from gpstoken_jax.runtime import buckets, storage

for _plugin, _function in (("pillow_heif", "register_heif_opener"), ("pillow_jxl", None)):
    with contextlib.suppress(ImportError):  # optional
        _module = importlib.import_module(_plugin)
        if _function:
            getattr(_module, _function)()

# Formats that hold pixels, have a clear signature and are decoded by Pillow itself. Others (EPS,
# WMF, ...) start outside programs, or (TGA, PCX) would take stray bytes for an image. Which of
# these exist depends on how Pillow was built.
Image.init()
FORMATS = tuple(
    name
    for name in (
        "AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "PNG", "PPM", "QOI", "SGI", "TIFF",
        "WEBP",
    )
    if name in Image.OPEN
)  # fmt: skip

# Read by Pillow only with a package of their own; where it is missing, they are named with it.
_PLUGINS = {
    "HEIF": ("pillow-heif", (".heic", ".heics", ".heif", ".heifs", ".hif")),
    "JXL": ("pillow-jxl-plugin", (".jxl",)),
}
NEED_A_PLUGIN = {
    extension: package
    for name, (package, extensions) in _PLUGINS.items()
    if name not in Image.OPEN
    for extension in extensions
}
EXTENSIONS = frozenset(
    {
        *(extension for name in _PLUGINS if name in Image.OPEN for extension in _PLUGINS[name][1]),
        ".apng", ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpf", ".jpg",
        ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".sgi", ".tif", ".tiff",
        ".webp",
    }
)  # fmt: skip

OTHER_FORMATS = {
    extension: name
    for extension, name in Image.registered_extensions().items()
    if name in Image.OPEN
}

_MODE_NAMES = {"1": "1-bit", "L": "grey", "P": "palette", "I": "grey", "F": "float grey"}

MAX_PIXELS = 89_478_485  # Pillow's own warning level: a quarter of a gigabyte as RGB.
MAX_ASPECT = 16  # resizing the short side of anything narrower would need absurd memory
_HEAD = 2**20  # bytes that tell what a file is
BACKGROUND = (255, 255, 255)  # behind transparent pixels


class UnreadableImageError(ValueError):
    """A file that cannot become RGB pixels; the message says why."""


@dataclasses.dataclass(frozen=True)
class DecodedImage:
    """Upright RGB pixels and what had to be done to get them.

    Attributes:
        picture: Upright RGB, decoded: an array of a plain JPEG file, else a PIL image.
        conversions: What was converted, in words; empty when the file was plain 8-bit RGB.
        format: Pillow's name of the file format, such as "JPEG".
        size: (height, width), upright, of the file's image.
    """

    picture: Picture
    conversions: tuple[str, ...]
    format: str
    size: tuple[int, int]

    @functools.cached_property
    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """RGB in 0..255, to be written to."""
        return np.array(self.picture)


def read_bytes(path: str | os.PathLike | buckets.RemoteFile) -> bytes:
    """Returns a file's content.

    Raises:
        storage.StorageError: When it is missing or the system cannot read it, after some attempts.
            That is no property of the image, so it is no `UnreadableImageError`.
    """

    def read() -> bytes:
        with buckets.open_file(path) as file:
            return file.read()

    return storage.retry(read, path)


def looks_like_image(path: str | os.PathLike | buckets.RemoteFile) -> bool:
    """Tells by its leading bytes whether a file is an image, whatever its name.

    Raises:
        storage.StorageError: When the system cannot read it, after some attempts.
    """
    return storage.retry(lambda: _opens_as_image(path), path)


def _opens_as_image(path: str | os.PathLike | buckets.RemoteFile) -> bool:
    with buckets.open_file(path, _HEAD) as file:
        try:
            with Image.open(file, formats=FORMATS):
                return True
        except Exception as error:  # Pillow's header parsers raise nearly anything on other bytes
            if _is_of_the_system(error):
                raise
            return False


def _is_of_the_system(error: Exception) -> bool:
    """Tells a fault of the computer from one of the file: Pillow's own OSErrors have no number."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) is not None


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None
) -> DecodedImage:
    """Decodes an image file's bytes to upright RGB.

    Args:
        data: The content of an image file.
        max_pixels: The limit on its pixels, at most `MAX_PIXELS`; checked before they are decoded.
        at_least: A JPEG file may be decoded at a half, a quarter or an eighth of its size, as long
            as both sides have this many pixels. Fast, and not what resizing all of it would give.

    Returns:
        Pixels, the conversions they needed and the file's format.

    Raises:
        UnreadableImageError: When the bytes are empty, are no image, are damaged, hold more than
            `max_pixels` pixels, are narrower than 1 : `MAX_ASPECT`, or have an unknown range.
    """
    if not data:
        raise UnreadableImageError("empty file (zero bytes)")
    try:
        try:
            return _decode(data, max_pixels, at_least)
        except ValueError as error:  # Pillow reads texts only up to a size
            if "MAX_TEXT" not in str(error):
                raise
            return _decode(_without_texts(data), max_pixels, at_least)
    except UnreadableImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError("not an image in a known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(f"too large: {error}") from error
    except Exception as error:  # Damaged files make decoders raise almost any exception type.
        if _is_of_the_system(error):
            raise
        raise UnreadableImageError(f"damaged: {error or type(error).__name__}") from error


def _decode(data: bytes, max_pixels: int, at_least: int | None) -> DecodedImage:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(size := image.size, max_pixels)
        if at_least and image.format == "JPEG":
            image.draft(None, (at_least, at_least))
        if image.size == size and (pixels := _plain_jpeg(data, image)) is not None:
            return DecodedImage(pixels, (), "JPEG", size[::-1])
        return _decode_opened(image, size)


def _plain_jpeg(data: bytes, opened: Image.Image) -> UInt8[np.ndarray, "h w 3"] | None:
    """The pixels of an upright RGB JPEG file, Pillow's to the bit in about half its time.

    None of any other file, and where the decoder has so much as a warning: Pillow is who decides
    whether a file is damaged.
    """
    if opened.format != "JPEG" or opened.mode != "RGB" or _orientation(opened) > 1:
        return None
    with contextlib.suppress(ValueError):
        if simplejpeg.decode_jpeg_header(data)[:2] == opened.size[::-1]:
            return simplejpeg.decode_jpeg(data)
    return None


def _without_texts(png: bytes) -> bytes:
    """A PNG file without its texts and its colour profile, neither of which changes a pixel."""
    kept, position = [png[:8]], 8
    while position < len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        end = position + 12 + length  # length, kind, content, check
        if png[position + 4 : position + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(png[position:end])
        position = end
    return b"".join(kept)


def to_pixels(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Converts an opened PIL image to upright RGB, as `decode` does with a file.

    Raises:
        UnreadableImageError: As of `decode`.
    """
    try:
        _check_size(image.size)
        return _decode_opened(image, image.size).pixels
    except UnreadableImageError:
        raise
    except Exception as error:
        raise UnreadableImageError(f"damaged: {error or type(error).__name__}") from error


def _check_size(size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> None:
    width, height = size
    if width * height > max_pixels:
        raise UnreadableImageError(
            f"too large: {width} x {height} pixels, the limit is {max_pixels:,} in all"
        )
    if max(size) > MAX_ASPECT * min(size):
        raise UnreadableImageError(
            f"too narrow: {width} x {height} pixels, the limit is 1 : {MAX_ASPECT}"
        )


def _decode_opened(image: Image.Image, size: tuple[int, int]) -> DecodedImage:
    file_format = image.format or "unknown"
    conversions = []
    if getattr(image, "is_animated", False) and file_format != "MPO":
        # MPO is how cameras store a JPEG with a thumbnail or a second view: nothing is lost.
        conversions.append("first frame of several")
    if _has_wide_samples(image):
        conversions.append("16-bit samples to 8-bit")
    image.load()
    upright, orientation = _upright(image)
    if orientation > 1:
        conversions.append("EXIF orientation applied")
    rgb, conversion = _to_rgb(upright)
    if conversion:
        conversions.append(conversion)
    if rgb is image and file_format != "JPEG":
        rgb = image.copy()  # that knows nothing of the file, which is closed
    height_width = size if orientation in (5, 6, 7, 8) else size[::-1]
    return DecodedImage(rgb, tuple(conversions), file_format, height_width)


def _has_wide_samples(image: Image.Image) -> bool:
    """Tells whether a file stores 16 bits a sample (its mode alone does not for RGB)."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return image.mode.startswith("I") or any(";16" in mode for mode in raw_modes)


def _upright(image: Image.Image) -> tuple[Image.Image, int]:
    """Turns an image as its EXIF orientation says; with the orientation, 1 for none."""
    if (orientation := _orientation(image)) > 1:
        with contextlib.suppress(Exception):  # as below
            return ImageOps.exif_transpose(image), orientation
    return image, 1


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 2 to 8, or 1 for none that is known."""
    with contextlib.suppress(Exception):
        # A broken EXIF block is no reason to lose a photo whose pixels are fine.
        orientation = image.getexif().get(0x0112, 1)
        return orientation if orientation in range(2, 9) else 1
    return 1


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Returns the image as RGB and, if its mode was another, what was done."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        rgb = _wide_grey(image).convert("RGB")
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            mask = Image.fromarray(np.asarray(image) == clear)
            rgb.paste(BACKGROUND, mask=mask)
            return rgb, "transparency put on white"
        return rgb, f"{_mode_name(image)} to RGB"
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB"), "transparency put on white"
    if image.mode == "RGB":
        return image, None
    return image.convert("RGB"), f"{_mode_name(image)} to RGB"


def _mode_name(image: Image.Image) -> str:
    mode = image.mode.partition(";")[0]
    return _MODE_NAMES.get(mode, mode)


def _wide_grey(image: Image.Image) -> Image.Image:
    """Grey with 16 or 32 bits a sample as 8-bit grey."""
    values = np.asarray(image)
    if image.mode == "F":
        low, high, top = float(values.min()), float(values.max()), 1.0
    else:
        low, high, top = int(values.min()), int(values.max()), 65535.0
    if not (low >= 0 and high <= top):  # written so that NaN fails too
        raise UnreadableImageError(
            f"grey samples from {low} to {high}: only 0 to {top:g} has a known meaning"
        )
    scaled = np.rint(values.astype(np.float64) * (255.0 / top))
    return Image.fromarray(scaled.astype(np.uint8))


def encode_png(pixels: UInt8[np.ndarray, "h w 3"], compress_level: int = 6) -> bytes:
    """Makes the content of a PNG file; `compress_level` is from 0 to 9, the smallest."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()
