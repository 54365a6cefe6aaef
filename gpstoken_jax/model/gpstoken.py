"""GPSToken: image -> Gaussian tokens -> feature map -> image (arXiv 2509.01109)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax import kernels
from gpstoken_jax.model.decoder import Decoder
from gpstoken_jax.model.encoder import Encoder
from gpstoken_jax.model.published_init import published_init
from gpstoken_jax.partition import partition_images

Params = Any


class GPSToken(nn.Module):
    """The tokenizer. ``config`` is the ``model`` section of a config file (see configs/).

    The number of tokens L is that of the geometry given, never of the config: one set of weights
    serves any L. Images are in [-1, 1]; geometry and boxes are what ``partition`` returns.
    """

    config: ConfigDict

    def setup(self) -> None:
        """Creates the encoder and the decoder."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        self.encoder = Encoder(config.feature_channels, **config.encoder, dtype=dtype)
        self.decoder = Decoder(**config.decoder, dtype=dtype)

    def reconstruct(
        self, images: Float[Array, "b h w 3"], num_tokens: int, **partition: Any
    ) -> Float[Array, "b h w 3"]:
        """Takes images in [-1, 1] all the way; ``partition`` is that of ``partition_images``."""
        geometry, boxes = partition_images(images, num_tokens, **partition)  # where tokens start
        tokens = self.encode(images, geometry, boxes)  # the encoder moves and fills them
        features = self.render(tokens)  # a kernel splats them
        return self.decoder(features)

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        geometry: Float[Array, "b l 5"],
        boxes: Float[Array, "b l 4"],
    ) -> Float[Array, "b h w 3"]:
        """Reconstructs images from the tokens that begin at a geometry."""
        return self.decode(self.encode(images, geometry, boxes))

    def encode(
        self,
        images: Float[Array, "b h w 3"],
        geometry: Float[Array, "b l 5"],
        boxes: Float[Array, "b l 4"],
    ) -> Float[Array, "b l 5+c"]:
        """Refines initial Gaussians into tokens ``[sigma_x, sigma_y, rho, mu_x, mu_y, features]``.

        Raises:
          ValueError: if the shapes do not fit together.
        """
        _check_encode_shapes(images, geometry, boxes)
        return self.encoder(images, geometry, boxes)

    def render(
        self, tokens: Float[Array, "b l 5+c"], tiles: tuple[int, int] = (1, 1)
    ) -> Float[Array, "b h w c"]:
        """Splats tokens into a feature map of ``config.render_size`` pixels a side and tile.

        tiles: (rows, columns) of tiles whose tokens were merged, see ``tiles.merge_tokens``.
        """
        _check_tokens(tokens, self.config.feature_channels)
        size = tuple(count * self.config.render_size for count in tiles)
        return kernels.splat(tokens[..., :5], tokens[..., 5:], size, support=self.config.support)

    def decode(
        self, tokens: Float[Array, "b l 5+c"], tiles: tuple[int, int] = (1, 1)
    ) -> Float[Array, "b h w 3"]:
        """Renders tokens and decodes the map; values may leave [-1, 1] slightly.

        tiles: as of ``render``. Merged tokens become one map, decoded at once with the statistics
        of each tile (see ``tile_norm``).
        """
        return self.decoder(self.render(tokens, tiles), tiles)


def _check_encode_shapes(images, geometry, boxes) -> None:
    b, l = geometry.shape[:2] if geometry.ndim == 3 else (None, None)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be [B, H, W, 3], channel-last; got {images.shape}")
    if geometry.shape != (images.shape[0], l, 5) or boxes.shape != (b, l, 4):
        raise ValueError(
            "geometry must be [B, L, 5] and boxes [B, L, 4] for the same B images; "
            f"got images {images.shape}, geometry {geometry.shape}, boxes {boxes.shape}"
        )


def _check_tokens(tokens, feature_channels: int) -> None:
    if tokens.ndim != 3 or tokens.shape[-1] != 5 + feature_channels:
        raise ValueError(
            f"tokens must be [B, L, {5 + feature_channels}] (5 geometry values and "
            f"{feature_channels} features); got {tokens.shape}"
        )


def init_params(model: GPSToken, key: PRNGKeyArray) -> Params:
    """Draws random parameters, ``{"params": ...}``, as ``model.init`` of the config says.

    For their shapes alone call it under ``jax.eval_shape``.

    Raises:
      ValueError: unless that is ``"published"`` (PyTorch's) or ``"flax"``.
    """
    init = model.config.get("init", "flax")
    if init not in ("published", "flax"):
        raise ValueError(f"model.init must be 'published' or 'flax', not {init!r}")
    size = model.config.image_size
    images, geometry = jnp.zeros((1, size, size, 3)), jnp.full((1, 1, 5), 0.5)
    boxes = jnp.array([[[-1.0, -1.0, 1.0, 1.0]]])
    params = {"params": model.init(key, images, geometry, boxes)["params"]}
    return published_init(params, key) if init == "published" else params
