"""RoIAlign along one axis, as a matrix."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def axis_weights(
    low: Float[Array, "*n"],
    high: Float[Array, "*n"],
    bins: int,
    size: int,
    pixels: Int[Array, "*#n p"],
) -> Float[Array, "*n bins p"]:
    """Share of each pixel in each bin of the interval [low, high].

    Bilinear sampling is separable: with Y and X the matrices of a box's two axes, RoIAlign of a map
    F is Y F X^T. Rows sum to 1 for intervals inside the map, and are 0 for empty or reversed ones.

    Args:
      low, high: ends in pixels, pixel i's centre at i.
      bins: how many bins of equal length the interval is cut into.
      size: length of the map's axis.
      pixels: indices whose weights are wanted, for instance all of `arange(size)`.

    A bin is the mean of ceil(its length) samples, so samples are at most one pixel apart, and more
    than half a pixel where a bin has several: at most four of a bin lie within one pixel of a given
    pixel, and each weight is a sum of few terms however large the interval.
    """
    low, high = (jnp.asarray(end, jnp.float32)[..., None, None] - 0.5 for end in (low, high))
    bin_side = (high - low) / bins
    samples = jnp.maximum(jnp.ceil(bin_side), 0)
    spacing = jnp.where(samples > 0, bin_side / jnp.maximum(samples, 1), 1)
    begin = low + jnp.arange(bins)[:, None] * bin_side
    pixel = pixels[..., None, :]
    # The first sample within a pixel's reach, with slack for rounding: the weights settle the rest.
    first = jnp.maximum(jnp.ceil((pixel - 1 - begin) / spacing - 0.51), 0)
    total = jnp.zeros(())
    for sample in (first + step for step in range(5)):
        position = begin + (sample + 0.5) * spacing
        counted = (sample < samples) & (position >= -1) & (position <= size)
        distance = jnp.abs(jnp.clip(position, 0, size - 1) - pixel)
        total = total + jnp.where(counted, jnp.maximum(1 - distance, 0), 0)
    return total / jnp.maximum(samples, 1)
