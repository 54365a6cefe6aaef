"""Layers that the encoder and the decoder share: convolutions, norms, residual blocks.

Activations are channel-last ``[B, H, W, C]``. ``dtype`` is the compute dtype; parameters and all
reductions of the norms are float32.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gpstoken_jax.model.convolution import convolve

Dtype = Any

NORM_EPS = 1e-6


def conv(features: int, kernel: int, dtype: Dtype, name: str) -> nn.Conv:
    """A stride-1 convolution that keeps the spatial size, named after its parameters."""
    sides = (kernel, kernel)
    return nn.Conv(features, sides, dtype=dtype, conv_general_dilated=convolve, name=name)


def group_norm(groups: int, dtype: Dtype, name: str) -> nn.GroupNorm:
    """Ordinary GroupNorm, ``(x - mean) / sqrt(var + eps)``.

    The variance is the mean of squared deviations: the one-pass form ``E[x^2] - E[x]^2`` cancels in
    float32 where a map is nearly constant, which flat images are.
    """
    return nn.GroupNorm(groups, epsilon=NORM_EPS, use_fast_variance=False, dtype=dtype, name=name)


class ResnetBlock(nn.Module):
    """norm, swish, 3x3 conv, norm, swish, 3x3 conv, plus the input (through a 1x1 if it widens).

    Attributes:
      features: output channels.
      norm: makes a normalisation layer from its name.
      dtype: compute dtype.
    """

    features: int
    norm: Callable[[str], nn.Module]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Adds two normalised convolutions to the input."""
        h = conv(self.features, 3, self.dtype, "conv1")(nn.swish(self.norm("norm1")(x)))
        h = conv(self.features, 3, self.dtype, "conv2")(nn.swish(self.norm("norm2")(h)))
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, self.dtype, "nin_shortcut")(x)
        return x + h


class SpatialAttention(nn.Module):
    """Single-head self-attention over the positions of each tile of a map, with a residual.

    Attributes:
      norm_groups: groups of the (ordinary) GroupNorm.
      tiles: (rows, columns) of tiles; positions attend, and statistics are taken, within a tile.
      dtype: compute dtype.
    """

    norm_groups: int
    tiles: tuple[int, int] = (1, 1)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Adds attention over the pixels of each tile."""
        tiled = split_tiles(x, self.tiles)
        n, h, w, c = tiled.shape
        normed = group_norm(self.norm_groups, self.dtype, "norm")(tiled)
        q, k, v = (
            conv(c, 1, self.dtype, name)(normed).reshape(n, h * w, 1, c) for name in ("q", "k", "v")
        )
        # Its weights, (h w)^2 an image, are the largest array of a training: computed again in the
        # backward pass, for 1 % of a step.
        attended = jax.checkpoint(jax.nn.dot_product_attention)(q, k, v).reshape(n, h, w, c)
        return x + merge_tiles(conv(c, 1, self.dtype, "proj_out")(attended), self.tiles)


def split_tiles(
    x: Float[Array, "b h w c"], tiles: tuple[int, int]
) -> Float[Array, "b*rows*cols h/rows w/cols c"]:
    """Cuts maps into (rows, cols) equal tiles, image by image and row by row.

    Raises:
      ValueError: if the map does not divide into that many tiles.
    """
    rows, cols = tiles
    b, h, w, c = x.shape
    if h % rows or w % cols:
        raise ValueError(f"a map of {h} x {w} does not divide into {rows} x {cols} equal tiles")
    if tiles == (1, 1):
        return x
    x = x.reshape(b, rows, h // rows, cols, w // cols, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b * rows * cols, h // rows, w // cols, c)


def merge_tiles(
    x: Float[Array, "n h w c"], tiles: tuple[int, int]
) -> Float[Array, "n/(rows*cols) h*rows w*cols c"]:
    """Puts tiles side by side again; the inverse of ``split_tiles``."""
    rows, cols = tiles
    n, h, w, c = x.shape
    x = x.reshape(n // (rows * cols), rows, cols, h, w, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * h, cols * w, c)
