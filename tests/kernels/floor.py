"""The least time that a GPU could need for a shape: what the benchmark sets kernels beside.

Three limits, whichever is largest: one power of two a (pixel, token) pair inside the token's box,
the products on tensor cores, and every input and output once through memory. Backward computes each
weight once more and has two products, the features' gradient and the weights' gradient.
"""

from dataclasses import dataclass

import numpy as np

from gpstoken_jax.kernels.gaussian import pixel_coordinates
from tests.kernels.specs import Spec

PRODUCTS = 3  # bfloat16 products for one of float32 grade


@dataclass(frozen=True)
class Rates:
    """A device's peak rates, a second: powers of two, bfloat16 operations, bytes."""

    powers: float
    operations: float
    bytes: float


# NVIDIA's figures: multiprocessors x 16 a clock, dense bfloat16, memory bandwidth.
RATES = {
    "NVIDIA H100 80GB HBM3": Rates(132 * 16 * 1.755e9, 989e12, 3.35e12),
    "NVIDIA H200": Rates(132 * 16 * 1.755e9, 989e12, 4.8e12),
    "NVIDIA A100-SXM4-40GB": Rates(108 * 16 * 1.41e9, 312e12, 1.555e12),
}


def pairs(spec: Spec, support: float = 3.0) -> int:
    """(pixel, token) pairs where the pixel lies in the token's support box."""
    geometry = np.asarray(spec.arguments()[0])
    pixels = pixel_coordinates(spec.side)
    covered = [
        np.searchsorted(pixels, mu + support * sigma, "right")
        - np.searchsorted(pixels, mu - support * sigma, "left")
        for mu, sigma in (
            (geometry[..., 3], geometry[..., 0]),
            (geometry[..., 4], geometry[..., 1]),
        )
    ]
    return int((covered[0] * covered[1]).sum())


def seconds(spec: Spec, rates: Rates, direction: str) -> float:
    """The floor of "forward" or "forward+backward"."""
    count, channels = pairs(spec), spec.channels
    image = 4 * spec.batch * spec.side**2 * channels
    tokens = 4 * spec.batch * spec.tokens * (5 + channels)

    def limit(dots: int, moved: int) -> float:
        operations = 2 * count * channels * dots * PRODUCTS
        return max(count / rates.powers, operations / rates.operations, moved / rates.bytes)

    forward = limit(1, image + tokens)
    if direction == "forward":
        return forward
    return forward + limit(2, image + 2 * tokens)
