"""Complexity of a piece of an image: the entropy of its edges.

A region of any size is resized to 64 x 64; the magnitudes of its Sobel gradients are counted in
bins of 11/512; the entropy of the counts, raised to a power and multiplied by the region's area, is
its complexity (GPSToken, arXiv 2509.01109; the numbers are those of the published code).

`region_complexity` is NumPy in the precisions of the published code (float32 resize, float64 after
it), and gives the same counts. `complexities` is JAX, float32, for many regions of one shape at a
time; a pixel in a few thousand may be counted in the next bin.
"""

from functools import cache, partial

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

SIDE = 64  # every region is resized to SIDE x SIDE
BINS = 256  # of the published 512 over [-5.5, 5.5], those that a magnitude can fall in

# Rounded up, so that a magnitude of exactly n bin widths is never counted in bin n - 1.
_BINS_PER_UNIT = np.nextafter(512 / 11, np.inf)


def region_complexity(grey: Float[np.ndarray, "h w"], weight: float) -> float:
    """Entropy ** weight * h * w of one region of a grey image in [-1, 1]."""
    height, width = grey.shape
    entropy = entropy_terms()[edge_counts(grey)].sum()
    return float(entropy**weight * height * width)


def complexities(patches: Float[Array, "n h w"], weight: float) -> Float[Array, "n"]:
    """`region_complexity` of n regions, in JAX.

    Resize and Sobel filters are linear and separable, so a gradient is rows @ region @ columns^T
    with two constant matrices. The vertical axis is kept first and the regions side by side, so
    that each of the four products is one plain matrix product.
    """
    n, h, w = patches.shape
    gx, gy = _gradients(jnp.swapaxes(patches, 0, 1))
    bins = (jnp.sqrt(gx * gx + gy * gy) * np.float32(_BINS_PER_UNIT)).astype(jnp.int32)
    # Whatever the values (NaN too), no index may leave the histogram: nothing checks it below.
    bins = jnp.clip(bins.reshape(SIDE, n, SIDE), 0, BINS - 1)
    bins = (bins + BINS * jnp.arange(n, dtype=jnp.int32)[:, None]).ravel()
    counts = jnp.zeros(n * BINS, jnp.int32).at[bins].add(1, mode="promise_in_bounds")
    terms = jnp.asarray(entropy_terms(), jnp.float32).at[counts].get(mode="promise_in_bounds")
    return terms.reshape(n, BINS).sum(axis=-1) ** weight * (h * w)


def _gradients(patches: Float[Array, "h n w"]) -> tuple[Float[Array, "64 n*64"], ...]:
    h, n, w = patches.shape
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    rows, columns = patches.reshape(h * n, w) / 2, gradient_matrices(w)
    smooth, slope = (product(rows, matrix.T).reshape(h, n * SIDE) for matrix in columns)
    vertical_smooth, vertical_slope = gradient_matrices(h)
    return product(vertical_smooth, slope), product(vertical_slope, smooth)


@cache
def gradient_matrices(size: int) -> tuple[Float[np.ndarray, "64 n"], Float[np.ndarray, "64 n"]]:
    """Resize of one axis to 64 followed by the Sobel filter's (1, 2, 1), and by its (-1, 0, 1)."""
    first, second, fraction = _taps(size)
    resize_matrix = np.zeros((SIDE, size))
    np.add.at(resize_matrix, (np.arange(SIDE), first), 1 - fraction)
    np.add.at(resize_matrix, (np.arange(SIDE), second), fraction)
    p = np.pad(resize_matrix, ((1, 1), (0, 0)), mode="edge")
    smooth, slope = p[2:] + p[:-2] + 2 * p[1:-1], p[2:] - p[:-2]
    return smooth.astype(np.float32), slope.astype(np.float32)


def edge_counts(grey: Float[np.ndarray, "h w"]) -> Int[np.ndarray, "256"]:
    """Histogram of the gradient magnitudes of a grey image in [-1, 1] resized to 64 x 64."""
    resized = resize((np.asarray(grey, np.float32) + 1) / 2)
    bins = (gradient_magnitude(resized) * _BINS_PER_UNIT).astype(np.intp)
    return np.bincount(bins.ravel(), minlength=BINS)


@cache
def entropy_terms() -> Float[np.ndarray, "4097"]:
    """-p log2 p for every count of a bin, with the published code's two small constants."""
    p = np.arange(SIDE * SIDE + 1) / (SIDE * SIDE + 1e-5)
    return -p * np.log2(p + 1e-10)


def resize(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "64 64"]:
    """Bilinear resize to 64 x 64 in float32: half-pixel centres, clamped edges, no antialiasing.

    Columns first, then rows, each as a fused multiply-add: to the bit what OpenCV's INTER_LINEAR
    computes (but for the last bit of a few columns when one side needs no resizing, or is a single
    pixel).
    """
    height, width = image.shape
    if width != SIDE:
        first, second, fraction = _taps(width)
        image = _lerp(image.take(first, 1), image.take(second, 1), fraction)
    if height != SIDE:
        first, second, fraction = _taps(height)
        image = _lerp(image.take(first, 0), image.take(second, 0), fraction[:, None])
    return image


@cache
def _taps(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of 64 positions over `size` pixels: the pixel before, the one after, and how far between."""
    position = (np.arange(SIDE) + np.float32(0.5)) * (np.float32(size) / SIDE) - np.float32(0.5)
    position = position.astype(np.float32)
    below = np.floor(position)
    first = below.astype(np.intp)
    first, second = (np.clip(index, 0, size - 1) for index in (first, first + 1))
    return first, second, (position - below).astype(np.float64)


def _lerp(a: np.ndarray, b: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    # The difference is rounded to float32; the product and the sum are rounded once, together.
    result = np.multiply(b - a, fraction, dtype=np.float64)
    result += a
    return result.astype(np.float32)


def gradient_magnitude(image: Float[np.ndarray, "64 64"]) -> Float[np.ndarray, "64 64"]:
    """Length of the 3 x 3 Sobel gradient (unnormalised, edges replicated), in float64."""
    p = _replicate_border(image)
    middle = p[1:-1]
    smooth, slope = p[2:] + p[:-2], p[2:] - p[:-2]
    smooth += middle
    smooth += middle
    gx, gy = smooth[:, 2:] - smooth[:, :-2], slope[:, 2:] + slope[:, :-2]
    middle = slope[:, 1:-1]
    gy += middle
    gy += middle
    gx *= gx
    gy *= gy
    gx += gy
    return np.sqrt(gx, out=gx)


def _replicate_border(image: np.ndarray) -> np.ndarray:
    # Five times as fast as np.pad, which would be a third of the whole partition's time.
    p = np.empty((SIDE + 2, SIDE + 2))
    p[1:-1, 1:-1] = image
    p[0, 1:-1], p[-1, 1:-1] = image[0], image[-1]
    p[:, 0], p[:, -1] = p[:, 1], p[:, -2]
    return p
