"""Encoder: an image and its initial Gaussians become refined Gaussian tokens."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gpstoken_jax.model.layers import ResnetBlock, conv, group_norm
from gpstoken_jax.model.roi_align import roi_align
from gpstoken_jax.model.transformer import mlp, stack_blocks
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
      condition: ``"roi"``, the image inside a token's box; ``"image"``, all of the image for every
        token; ``"none"``, nothing but the initial Gaussians.
      refine: move the initial Gaussians; otherwise only their features are made.
      isotropic: make the Gaussians circles of the same area.
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
    condition: str = "roi"
    refine: bool = True
    isotropic: bool = False
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        geometry: Float[Array, "b l 5"],
        boxes: Float[Array, "b l 4"],
    ) -> Float[Array, "b l 5+c"]:
        """Encodes images [B, H, W, 3] in [-1, 1] with initial geometry and boxes as tokens."""
        x = GeometryEmbedding(self.width, self.dtype, name="embedding")(geometry)
        conditions = None
        if self.condition != "none":
            conditions = self._conditions(images, boxes)
        blocks = stack_blocks(
            self.depth,
            remat=self.remat,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            dtype=self.dtype,
            activation=exact_gelu,
        )
        x = blocks(x, conditions)[0].astype(jnp.float32)
        if self.refine:
            delta = nn.Dense(5, kernel_init=nn.initializers.zeros, name="geometry_head")(x)
            geometry = refine_geometry(geometry, delta)
        if self.isotropic:
            geometry = make_isotropic(geometry)
        texture = nn.Dense(self.feature_channels, name="feature_head")(x)
        return jnp.concatenate([geometry, texture], axis=-1)

    def _conditions(
        self, images: Float[Array, "b h w 3"], boxes: Float[Array, "b l 4"]
    ) -> Float[Array, "n b l d"]:
        if self.condition not in ("roi", "image"):
            raise ValueError(
                f"model.encoder.condition must be 'roi', 'image' or 'none', not {self.condition!r}"
            )
        stem = Stem(self.channels, self.stem_blocks, self.norm_groups, self.dtype, name="stem")
        features = stem(images)
        if self.condition == "image":
            boxes = jnp.broadcast_to(jnp.array([-1.0, -1.0, 1.0, 1.0]), boxes.shape)
        pixels = boxes_to_pixels(boxes, *features.shape[1:3])
        size = (self.roi_size, self.roi_size)
        if self.is_initializing():  # parameters depend on its shape alone
            rois = jnp.zeros((*boxes.shape[:2], *size, self.channels), features.dtype)
        else:
            rois = roi_align(features, pixels, size)
        return BlockConditions(self.width, self.depth, self.dtype, name="conditions")(rois)


class Stem(nn.Module):
    """A 3x3 convolution and residual blocks at full resolution."""

    channels: int
    blocks: int
    norm_groups: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w c"]:
        """Feature map of the images, at their resolution."""

        def norm(name: str) -> nn.Module:
            return group_norm(self.norm_groups, self.dtype, name)

        x = conv(self.channels, 3, self.dtype, "conv_in")(images.astype(self.dtype))
        for i in range(self.blocks):
            x = ResnetBlock(self.channels, norm, self.dtype, name=f"block_{i}")(x)
        return x


class BlockConditions(nn.Module):
    """Conditions of all transformer blocks, made from each token's box at once.

    The release projects every position of a box to ``width`` channels (``roialign_layer``), then
    takes, in each block, a weighted sum over the positions (``roimlp``). Both are linear, so the
    sum comes first here: ``[B, L, positions, width]`` is never made.
    """

    width: int
    depth: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, rois: Float[Array, "b l p q c"]) -> Float[Array, "n b l d"]:
        """Maps the boxes' samples to one condition a block."""
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
        """Embeds each token's geometry, added to one learned query."""
        query = self.param("query", nn.initializers.normal(1.0), (self.width,))
        widths, names = (self.width, self.width), ("dense1", "dense2")
        x = mlp(geometry, widths, exact_gelu, names, dtype=self.dtype)
        return x + query.astype(self.dtype)


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the error function, as the published code has it; not by tanh."""
    return nn.gelu(x, approximate=False)


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


def make_isotropic(geometry: Float[Array, "*b l 5"]) -> Float[Array, "*b l 5"]:
    """Makes Gaussians circles: both sigmas their geometric mean, rho 0."""
    sigma = jnp.exp(jnp.log(jnp.maximum(geometry[..., :2], 1e-12)).mean(-1, keepdims=True))
    return jnp.concatenate([sigma, sigma, jnp.zeros_like(sigma), geometry[..., 3:]], axis=-1)


def _scale_odds(p: Float[Array, "..."], odds: Float[Array, "..."]) -> Float[Array, "..."]:
    return p / (p + (1 - p) * odds)
