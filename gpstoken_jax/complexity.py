"""How much there is to see in a piece of an image: the entropy of its edges.

A region of any size is resized to 64 x 64; the magnitudes of its Sobel gradients are counted in
bins of 11/512; the entropy of the counts, raised to a power and multiplied by the region's area,
is its complexity (GPSToken, arXiv 2509.01109; the numbers are those of the published code). This
is the NumPy form, in the precisions of the published one (float32 resize, float64 after it), so
that it gives the same counts.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, Int

SIDE = 64  # every region is resized to SIDE x SIDE
BINS = 256  # of the published 512 bins over [-5.5, 5.5], those a magnitude can fall in
BIN_WIDTH = 11 / 512

# Rounded up, so that a magnitude of exactly n bin widths is never counted in bin n - 1.
_BINS_PER_UNIT = np.nextafter(1 / BIN_WIDTH, np.inf)


def region_complexity(grey: Float[np.ndarray, "h w"], weight: float) -> float:
    """entropy ** weight * h * w of one region of a grey image in [-1, 1]."""
    height, width = grey.shape
    return float(edge_entropy(edge_counts(grey)) ** weight * height * width)


def edge_counts(grey: Float[np.ndarray, "h w"]) -> Int[np.ndarray, "256"]:
    """Histogram of the gradient magnitudes of a grey image in [-1, 1] resized to 64 x 64."""
    resized = resize((np.asarray(grey, np.float32) + 1) / 2)
    bins = (gradient_magnitude(resized) * _BINS_PER_UNIT).astype(np.intp)
    return np.bincount(bins.ravel(), minlength=BINS)


def edge_entropy(counts: Int[np.ndarray, "256"]) -> float:
    """Entropy in bits of a histogram of SIDE x SIDE values."""
    return entropy_terms()[counts].sum()


@cache
def entropy_terms() -> Float[np.ndarray, "4097"]:
    """-p log2 p for every count of a bin, with the published code's two small constants."""
    p = np.arange(SIDE * SIDE + 1) / (SIDE * SIDE + 1e-5)
    return -p * np.log2(p + 1e-10)


def resize(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "64 64"]:
    """Bilinear resize to 64 x 64 in float32: half-pixel centres, clamped edges, no antialiasing.

    Columns first, then rows, each as a fused multiply-add, to the bit what OpenCV's INTER_LINEAR
    computes (but for the last bit of a few columns when one side needs no resizing, or is a
    single pixel).
    """
    height, width = image.shape
    if width != SIDE:
        first, second, fraction = taps(width)
        image = _lerp(image[:, first], image[:, second], fraction)
    if height != SIDE:
        first, second, fraction = taps(height)
        image = _lerp(image[first], image[second], fraction[:, None])
    return image


@cache
def taps(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of 64 positions over `size` pixels: the pixel before, the one after, and how far between."""
    position = (np.arange(SIDE) + np.float32(0.5)) * (np.float32(size) / SIDE) - np.float32(0.5)
    position = position.astype(np.float32)
    below = np.floor(position)
    first = below.astype(np.intp)
    first, second = (np.clip(index, 0, size - 1) for index in (first, first + 1))
    return first, second, (position - below).astype(np.float64)


def _lerp(a: np.ndarray, b: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    # The difference is rounded to float32; the product and the sum are rounded once, together.
    return ((b - a).astype(np.float64) * fraction + a).astype(np.float32)


def gradient_magnitude(image: Float[np.ndarray, "64 64"]) -> Float[np.ndarray, "64 64"]:
    """Length of the 3 x 3 Sobel gradient (unnormalised, edges replicated), in float64."""
    p = np.pad(image.astype(np.float64), 1, mode="edge")
    smooth = p[2:] + p[:-2] + 2 * p[1:-1]
    slope = p[2:] - p[:-2]
    gx = smooth[:, 2:] - smooth[:, :-2]
    gy = slope[:, 2:] + slope[:, :-2] + 2 * slope[:, 1:-1]
    return np.sqrt(gx * gx + gy * gy)
