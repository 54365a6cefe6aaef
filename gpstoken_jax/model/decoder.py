"""Decoder: a rendered feature map becomes an image (the VQGAN decoder)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gpstoken_jax.model.layers import ResnetBlock, SpatialAttention, conv
from gpstoken_jax.model.tile_norm import TileNorm
from gpstoken_jax.model.upsample_conv import UpsampleConv


class Decoder(nn.Module):
    """Residual blocks with one attention layer, then levels that double the size in between.

    Attributes:
      channels: width at the image's resolution.
      multipliers: width of each level over ``channels``, from the image's resolution down; the map
        is ``2 ** (len(multipliers) - 1)`` times smaller than the image a side.
      blocks_per_level: residual blocks of each level.
      norm_groups: groups of every norm.
      remat: recompute each residual block in the backward pass instead of keeping its activations.
      dtype: compute dtype; the image is float32.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks_per_level: int
    norm_groups: int
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], tiles: tuple[int, int] = (1, 1)
    ) -> Float[Array, "b H W 3"]:
        """Decodes one map an image; ``tiles`` is the (rows, columns) of tiles merged in it."""

        def block(width: int, name: str) -> ResnetBlock:
            kind = nn.remat(ResnetBlock) if self.remat else ResnetBlock
            return kind(width, norm, self.dtype, name=name)

        def norm(name: str) -> TileNorm:
            return TileNorm(self.norm_groups, tiles, self.dtype, name=name)

        width = self.channels * self.multipliers[-1]
        x = conv(width, 3, self.dtype, "conv_in")(features.astype(self.dtype))
        x = block(width, "mid_block_1")(x)
        x = SpatialAttention(self.norm_groups, tiles, self.dtype, name="mid_attention")(x)
        x = block(width, "mid_block_2")(x)
        for level in reversed(range(len(self.multipliers))):
            width = self.channels * self.multipliers[level]
            for i in range(self.blocks_per_level):
                x = block(width, f"level_{level}_block_{i}")(x)
            if level:
                x = UpsampleConv(width, self.dtype, name=f"level_{level}_upsample")(x)
        # The release takes this last norm over the whole map, also when tiles are merged.
        x = TileNorm(self.norm_groups, dtype=self.dtype, name="norm_out")(x)
        return conv(3, 3, jnp.float32, "conv_out")(nn.swish(x))
