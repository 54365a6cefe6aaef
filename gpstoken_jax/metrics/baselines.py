"""Baselines of an evaluation: a smaller copy, or a JPEG or WebP file, of the same storage."""

import io
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from gpstoken_jax.data.loader import available_cores

LABELS = {
    "bicubic": "Bicubic, same number of values",
    "jpeg": "JPEG, nearest size",
    "webp": "WebP, nearest size",
}
SHORT_LABELS = {"bicubic": "Bicubic", "jpeg": "JPEG", "webp": "WebP"}
BASELINES = tuple(LABELS)
COMPRESSED = ("jpeg", "webp")  # hold bytes, not values
Images = Float[np.ndarray, "b h w 3"]
Baseline = Callable[[Images], tuple[Images, Mapping[str, np.ndarray]]]

# Variants of a format, each tried: JPEG with colour at half the resolution, and at the full one.
_JPEG = tuple({"format": "JPEG", "optimize": True, "subsampling": colour} for colour in (2, 0))
_WEBP = ({"format": "WEBP", "method": 4}, {"format": "WEBP", "method": 4, "lossless": True})
_BEST_QUALITY = 100
_GOOD_QUALITY = 25  # below, a smaller copy at a higher quality may well be better
_SMALLEST_SIDE = 8


def check_baselines(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names, each once.

    Raises:
      ValueError: for one that is not known.
    """
    for name in names:
        if name not in BASELINES:
            raise ValueError(f"--baselines: {name!r} is unknown; there are {', '.join(BASELINES)}")
    return tuple(dict.fromkeys(names))


def make_baselines(names: Iterable[str], num_values: int, num_bytes: int) -> dict[str, Baseline]:
    """Functions of a batch, for tokens of so many values and bytes an image.

    They return the images and further numbers of each, by name: the ``bytes`` of its file.
    """
    known = {
        "bicubic": lambda images: (bicubic_baseline(images, num_values), {}),
        "jpeg": lambda images: jpeg_baseline(images, num_bytes).with_bytes(),
        "webp": lambda images: webp_baseline(images, num_bytes).with_bytes(),
    }
    return {name: known[name] for name in names}


def describe_baselines(names: Iterable[str], num_values: int, num_bytes: int) -> dict[str, str]:
    """Entries of the protocol on the baselines."""
    budget = f"files of at most {num_bytes} bytes where possible, the best by squared error"
    texts = {
        "bicubic": f"bicubic down to at most {num_values} values and up again",
        "jpeg": f"JPEG: {budget}",
        "webp": f"WebP: {budget}",
    }
    return {"baselines": "; ".join(texts[name] for name in names) or "none"}


def baseline_size(height: int, width: int, num_values: int) -> tuple[int, int]:
    """Height and width of the largest copy that holds at most `num_values` colour values.

    The aspect is kept to the nearest pixel, and the copy is never larger than the image.
    Raises ValueError when not even one pixel (three values) fits.
    """
    if num_values < 3:
        raise ValueError(f"One RGB pixel is 3 values; {num_values} hold none.")
    for rows in range(height, 0, -1):
        columns = max(1, round(rows * width / height))
        if rows * columns * 3 <= num_values:
            return rows, columns
    return 1, min(width, num_values // 3)  # one row of a very wide image


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize of float [H, W, 3], channel by channel: Pillow's, antialiased when smaller."""
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for c in range(image.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def bicubic_baseline(images: Images, num_values: int) -> Images:
    """Each image shrunk to at most `num_values` stored numbers and enlarged again, both bicubic.

    images: float32 in [-1, 1]; so is the result (clipped where the filter overshoots).
    num_values: what the tokens of one image hold, L (5 + C). The small copy keeps full float32
    values, as the tokens do, so the baseline pays nothing for rounding to 8 bits.
    Raises ValueError for fewer than three values.
    """
    images = np.asarray(images, np.float32)
    height, width = images.shape[1:3]
    small = baseline_size(height, width, num_values)
    copies = [_resize(_resize(image, *small), height, width) for image in images]
    return np.clip(np.stack(copies), -1, 1)


class CodecResult(NamedTuple):
    """Images of a batch as a file format keeps them.

    Attributes:
      images: in [-1, 1], 8-bit values.
      num_bytes: size of each file, header and all.
      quality: the encoder's setting for each.
      side: height of the stored copy over that of the image: 1, 1/2, 1/4, ...
    """

    images: Images
    num_bytes: Int[np.ndarray, " b"]
    quality: Int[np.ndarray, " b"]
    side: Float[np.ndarray, " b"]

    def with_bytes(self) -> tuple[Images, Mapping[str, np.ndarray]]:
        """As a baseline returns it."""
        return self.images, {"bytes": self.num_bytes.astype(np.float64)}


def jpeg_baseline(images: Images, bytes_per_image: int) -> CodecResult:
    """Each image as the best JPEG file of at most `bytes_per_image` bytes, and read again.

    images: in [-1, 1], rounded to 8 bits first. Optimised Huffman tables; colour at half the
    resolution (4:2:0) or the full one (4:4:4), each at the highest quality (1 to 100) that fits:
    the least squared error wins. Where that quality is under 25, or nothing fits, copies of a half,
    a quarter, ... of the sides (bicubic, enlarged again after reading) compete too. Where not even
    the smallest copy fits, about 8 pixels a side, that one is returned at its real size, which is
    then over the budget.
    """
    return _codec_baseline(images, bytes_per_image, _JPEG)


def webp_baseline(images: Images, bytes_per_image: int) -> CodecResult:
    """Each image as the best WebP file of at most `bytes_per_image` bytes, and read again.

    As `jpeg_baseline`, with lossy and lossless files; the encoder's effort is 4, its default.
    """
    return _codec_baseline(images, bytes_per_image, _WEBP)


class _Attempt(NamedTuple):
    decoded: np.ndarray  # uint8 [H, W, 3], at the size of the image
    num_bytes: int
    quality: int
    side: float
    fits: bool
    error: float  # squared, mean over pixels

    @property
    def rank(self) -> tuple:
        """Sorts the best first: what fits by error, what does not by size."""
        return (not self.fits, self.error if self.fits else self.num_bytes)


def _codec_baseline(images: np.ndarray, budget: int, variants: tuple[dict, ...]) -> CodecResult:
    levels = np.clip(np.rint((np.asarray(images, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)
    with ThreadPoolExecutor(available_cores()) as threads:  # Pillow lets others work
        best = list(threads.map(lambda image: _best_file(image, budget, variants), levels))
    decoded, num_bytes, quality, side, *_ = map(np.array, zip(*best, strict=True))
    return CodecResult(decoded.astype(np.float32) / 127.5 - 1, num_bytes, quality, side)


def _best_file(image: np.ndarray, budget: int, variants: tuple[dict, ...]) -> _Attempt:
    """The best of the full-size files and, if those are poor, of smaller copies."""
    best, side = None, 1.0
    while best is None or min(image.shape[:2]) * side >= _SMALLEST_SIDE:
        here = [_try_file(image, side, budget, codec) for codec in variants]
        found = min(here, key=lambda attempt: attempt.rank)
        if best is not None and best.fits and found.rank > best.rank:
            break  # from here on smaller copies only get worse
        best = found if best is None else min(best, found, key=lambda attempt: attempt.rank)
        if best.fits and best.quality >= _GOOD_QUALITY and side == 1:
            break
        side /= 2
    return best


def _try_file(image: np.ndarray, side: float, budget: int, codec: dict) -> _Attempt:
    """The file of the highest quality that fits, or of the lowest there is; by bisection."""
    full = Image.fromarray(image)
    size = tuple(max(1, round(length * side)) for length in full.size)
    copy = full if side == 1 else full.resize(size, Image.Resampling.BICUBIC)
    low, high = 1, 1 if codec.get("lossless") else _BEST_QUALITY
    file = _encode(copy, low, codec)
    if len(file) > budget:
        high = low
    while low < high:
        middle = (low + high + 1) // 2
        if len(larger := _encode(copy, middle, codec)) <= budget:
            low, file = middle, larger
        else:
            high = middle - 1
    decoded = Image.open(io.BytesIO(file)).convert("RGB")
    if side != 1:
        decoded = decoded.resize(full.size, Image.Resampling.BICUBIC)
    decoded = np.asarray(decoded)
    error = float(np.square(decoded.astype(np.float32) - image).mean())
    quality = _BEST_QUALITY if codec.get("lossless") else low
    return _Attempt(decoded, len(file), quality, side, len(file) <= budget, error)


def _encode(image: Image.Image, quality: int, codec: dict) -> bytes:
    file = io.BytesIO()
    image.save(file, quality=quality, **codec)
    return file.getvalue()
