"""Partition on the host: cuts an image into regions, the most complex first.

Starting from the whole image, the region of the largest complexity is cut in half again and again
until there are as many regions as tokens; each region is the first guess of a Gaussian (GPSToken,
arXiv 2509.01109). This is the NumPy form, which evaluates only the regions that it comes across;
`partition_jit` does the same inside a compiled program.
"""

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from gpstoken_jax.partition.complexity import region_complexity
from gpstoken_jax.partition.geometry import regions_to_boxes, regions_to_geometry
from gpstoken_jax.partition.regions import Region, cuts, max_regions, whole


def partition(
    grey: Float[ArrayLike, "*b h w"],
    num_tokens: int,
    *,
    weight: float = 2.5,
    min_size: int = 8,
    bias: Float[ArrayLike, "..."] | None = None,
) -> tuple[Float[np.ndarray, "*b l 5"], Float[np.ndarray, "*b l 4"]]:
    """Initial Gaussians of one grey image [H, W] or of several [B, H, W].

    Args:
      grey: values in [-1, 1], `0.299 R + 0.587 G + 0.114 B`; any size from 2 x 2 up. NumPy or JAX.
      num_tokens: L, how many regions to make.
      weight: power of the entropy in a region's complexity; larger gathers tokens where edges are.
      min_size: a region is cut only while one of its sides has more than `min_size` + 1 pixels.
      bias: per pixel, added to the complexity of every region that holds the pixel: asks for more
        tokens there. [H, W], or [B, H, W] for one map an image. An 8 x 8 region's own complexity
        is 0 to 11,585.

    Returns: geometry [..., L, 5] as (sigma_x, sigma_y, rho, mu_x, mu_y) and boxes [..., L, 4] as
      (x1, y1, x2, y2) in [-1, 1], float32 NumPy arrays. The same regions in the same order as the
      published code.

    Raises:
      ValueError: a wrong shape, values that are not finite or outside [-1, 1], or more tokens
        than an image of this size has regions.
    """
    grey = np.asarray(grey)
    height, width = check_shape(grey.shape, num_tokens, min_size)
    images = grey.reshape(-1, height, width).astype(np.float32)
    _check_values(images)
    biases = _biases(bias, grey.shape)
    regions = np.stack(
        [
            greedy_regions(height, width, num_tokens, min_size, _scorer(image, weight, image_bias))
            for image, image_bias in zip(images, biases, strict=True)
        ]
    ).reshape(*grey.shape[:-2], num_tokens, 4)
    return regions_to_geometry(regions, height, width), regions_to_boxes(regions, height, width)


def greedy_regions(
    height: int, width: int, num_tokens: int, min_size: int, complexity: Callable[[Region], float]
) -> Int[np.ndarray, "l 4"]:
    """Cut the most complex region until there are `num_tokens`.

    Of equally complex regions the oldest is cut. The result is in order of complexity, largest
    first, except that the last two halves made stand at the end: the published order.
    """
    first = whole(height, width)
    made = [(-complexity(first), 0, first)]  # (-complexity, age, region): smallest is cut first
    alive, queue = {0}, list(made)
    for _ in range(num_tokens - 1):
        _, cut, region = heapq.heappop(queue)
        alive.remove(cut)
        for half, value in _cut(region, min_size, complexity):
            entry = (-value, len(made), half)
            alive.add(len(made))
            made.append(entry)
            if cuts(half, min_size):
                heapq.heappush(queue, entry)
    newest = made[-2:] if num_tokens > 1 else made
    older = sorted(made[age] for age in alive if age < len(made) - len(newest))
    return np.array([region for _, _, region in older + newest])


def _cut(
    region: Region, min_size: int, complexity: Callable[[Region], float]
) -> list[tuple[Region, float]]:
    """The halves of a region with their complexities; of two ways, that of the simplest half."""
    ways = [[(half, complexity(half)) for half in way] for way in cuts(region, min_size)]
    return min(ways, key=lambda halves: min(value for _, value in halves))


def _scorer(image: np.ndarray, weight: float, bias: np.ndarray | None) -> Callable[[Region], float]:
    def complexity(region: Region) -> float:
        left, top, right, bottom = region
        here = np.s_[top : bottom + 1, left : right + 1]
        value = region_complexity(image[here], weight)
        return value if bias is None else value + float(bias[here].sum())

    return complexity


def check_shape(shape: tuple[int, ...], num_tokens: int, min_size: int) -> tuple[int, int]:
    """(height, width) of grey images of this shape; ValueError if they cannot be partitioned so."""
    if len(shape) not in (2, 3) or min(shape[-2:]) < 2 or shape[0] < 1:
        raise ValueError(
            f"partition: grey must be [H, W] or [B, H, W] with sides of 2 or more, "
            f"got shape {shape}"
        )
    if min_size < 1:
        raise ValueError(f"partition: min_size must be at least 1, got {min_size}")
    height, width = shape[-2:]
    most = max_regions(height, width, min_size)
    if not (_is_whole(num_tokens) and 1 <= num_tokens <= most):
        raise ValueError(
            f"partition: num_tokens must be from 1 to {most} for a {height} x {width} image with "
            f"min_size {min_size}, got {num_tokens!r}"
        )
    return height, width


def _is_whole(number: Any) -> bool:
    return hasattr(number, "__index__") and not isinstance(number, bool)


def _check_values(images: np.ndarray) -> None:
    if not np.isfinite(images).all():
        raise ValueError("partition: grey has values that are not finite (NaN or infinite)")
    low, high = images.min(), images.max()
    if low < -1.001 or high > 1.001:
        raise ValueError(f"partition: grey must lie in [-1, 1], got values from {low} to {high}")


def _biases(bias: ArrayLike | None, shape: tuple[int, ...]) -> list[np.ndarray | None]:
    images = shape[0] if len(shape) == 3 else 1
    if bias is None:
        return [None] * images
    bias = np.asarray(bias)
    if bias.shape not in (shape, shape[-2:]):
        raise ValueError(
            f"partition: bias must have the shape of grey {shape} or of one image {shape[-2:]}, "
            f"got {bias.shape}"
        )
    if not np.isfinite(bias).all():
        raise ValueError("partition: bias has values that are not finite (NaN or infinite)")
    return list(np.broadcast_to(bias, (images, *shape[-2:])))
