"""Encoder: an image and its initial Gaussians become refined Gaussian tokens."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gpstoken_jax.model.layers import ResnetBlock, conv, group_norm
from gpstoken_jax.model.roi_align import roi_align
from gpstoken_jax.partition.geometry import boxes_to_pixels

Dtype = Any


class Encoder(nn.Module):
    """Reads the image inside each token's box and refines the token (paper, section 3.2).

    Attributes:
      feature_channels: C, features of a token.
      channels: width of the convolutional stem.
      stem_blocks: residual blocks of the stem.
      norm_groups: groups of the stem's GroupNorms.
      roi_size: RoIAlign samples each box on roi_size x roi_size positions.
      width: width of the transformer.
      depth: number of transformer blocks.
      num_heads: attention heads.
      mlp_ratio: hidden width of a block's MLP over ``width``.
      remat: recompute each block in the backward pass instead of keeping its activations.
      dtype: compute dtype; the tokens are float32.
    """

    feature_channels: int
    channels: int
    stem_blocks: int
    norm_groups: int
    roi_size: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: int
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        geometry: Float[Array, "b l 5"],
        boxes: Float[Array, "b l 4"],
    ) -> Float[Array, "b l 5+c"]:
        features = Stem(self.channels, self.stem_blocks, self.norm_groups, self.dtype, name="stem")(
            images
        )
        pixels = boxes_to_pixels(boxes, *features.shape[1:3])
        rois = roi_align(features, pixels, (self.roi_size, self.roi_size))
        conditions = BlockConditions(self.width, self.depth, self.dtype, name="conditions")(rois)
        x = GeometryEmbedding(self.width, self.dtype, name="embedding")(geometry)
        x = self._transformer(x, conditions)
        delta = nn.Dense(5, kernel_init=nn.initializers.zeros, name="geometry_head")(x)
        texture = nn.Dense(self.feature_channels, name="feature_head")(x)
        return jnp.concatenate([refine_geometry(geometry, delta), texture], axis=-1)

    def _transformer(
        self, x: Float[Array, "b l d"], conditions: Float[Array, "n b l d"]
    ) -> Float[Array, "b l d"]:
        # One block's code, scanned over stacked parameters: compiles in the time of one block.
        block = nn.remat(TransformerBlock, prevent_cse=False) if self.remat else TransformerBlock
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        x, _ = blocks(self.num_heads, self.mlp_ratio, self.dtype, name="blocks")(x, conditions)
        return x.astype(jnp.float32)


class Stem(nn.Module):
    """A 3x3 convolution and residual blocks at full resolution."""

    channels: int
    blocks: int
    norm_groups: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w c"]:
        def norm(name: str) -> nn.Module:
            return group_norm(self.norm_groups, self.dtype, name)

        x = conv(self.channels, 3, self.dtype, "conv_in")(images.astype(self.dtype))
        for i in range(self.blocks):
            x = ResnetBlock(self.channels, norm, self.dtype, name=f"block_{i}")(x)
        return x


class BlockConditions(nn.Module):
    """What each transformer block adds to each token from the token's box, for all blocks at once.

    The release projects every position of a box to ``width`` channels (``roialign_layer``), then
    takes, in each block, a weighted sum over the positions (``roimlp``). Both are linear, so the
    sum comes first here: ``[B, L, positions, width]`` is never made.
    """

    width: int
    depth: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, rois: Float[Array, "b l p q c"]) -> Float[Array, "n b l d"]:
        b, l, h, w, c = rois.shape
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (c, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        position_kernel = self.param("position_kernel", init, (h * w, self.depth))
        position_bias = self.param("position_bias", nn.initializers.zeros, (self.depth,))
        pooled = jnp.einsum(
            "blpc,pn->nblc",
            rois.reshape(b, l, h * w, c).astype(self.dtype),
            position_kernel.astype(self.dtype),
        )
        offset = position_kernel.sum(0)[:, None] * bias + position_bias[:, None]
        conditions = jnp.einsum("nblc,cd->nbld", pooled, kernel.astype(self.dtype))
        return conditions + offset[:, None, None].astype(self.dtype)


class GeometryEmbedding(nn.Module):
    """One learned vector plus an MLP of the five initial values of each Gaussian."""

    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, geometry: Float[Array, "b l 5"]) -> Float[Array, "b l d"]:
        query = self.param("query", nn.initializers.normal(1.0), (self.width,))
        x = nn.Dense(self.width, dtype=self.dtype, name="dense1")(geometry)
        x = nn.Dense(self.width, dtype=self.dtype, name="dense2")(nn.gelu(x, approximate=False))
        return x + query.astype(self.dtype)


class TransformerBlock(nn.Module):
    """Adds the condition, then pre-norm self-attention and MLP; the token order does not matter.

    Returns ``(x, None)``, the form that ``nn.scan`` wants.
    """

    num_heads: int
    mlp_ratio: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], condition: Float[Array, "b l d"]
    ) -> tuple[Float[Array, "b l d"], None]:
        x = x + condition
        x = x + self._attention(self._norm("norm1")(x))
        return x + self._mlp(self._norm("norm2")(x)), None

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=name)

    def _attention(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        b, l, width = x.shape
        qkv = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(x)
        q, k, v = jnp.split(qkv.reshape(b, l, 3 * self.num_heads, -1), 3, axis=2)
        attended = jax.nn.dot_product_attention(q, k, v).reshape(b, l, width)
        return nn.Dense(width, dtype=self.dtype, name="attention_out")(attended)

    def _mlp(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        width = x.shape[-1]
        x = nn.Dense(self.mlp_ratio * width, dtype=self.dtype, name="mlp1")(x)
        return nn.Dense(width, dtype=self.dtype, name="mlp2")(nn.gelu(x, approximate=False))


def refine_geometry(
    geometry: Float[Array, "*b l 5"], delta: Float[Array, "*b l 5"]
) -> Float[Array, "*b l 5"]:
    """Moves Gaussians by ``delta`` in logit space, so that they stay valid.

    ``sigma = sigmoid(logit(sigma_0) + delta)``; rho and mu likewise on (-1, 1). Written without the
    logarithm: a value on the boundary (a one-pixel region has sigma 0) stays there with a finite
    gradient, where the release's form gives NaN.
    """
    sigma, rest = geometry[..., :2], geometry[..., 2:]
    # At e^40 a value is on the boundary in float32, and the squares of the gradient still fit.
    odds = jnp.exp(-jnp.clip(delta, -40.0, 40.0))
    sigma = _scale_odds(sigma, odds[..., :2])
    rest = 2 * _scale_odds((1 + rest) / 2, odds[..., 2:]) - 1
    return jnp.concatenate([sigma, rest], axis=-1)


def _scale_odds(p: Float[Array, "..."], odds: Float[Array, "..."]) -> Float[Array, "..."]:
    return p / (p + (1 - p) * odds)
