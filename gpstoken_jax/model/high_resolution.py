"""Images of any number of tiles: encoded tile by tile, decoded in one of four ways.

`merged` draws the tokens of all tiles on one large map and decodes it at once, with the statistics
of each tile: tiles meet without seams. `aligned` does the same, but for the tokens' places, which
are to the pixel those that they have in their tiles. `tiles` decodes every tile for itself,
`blended` windows over their seams too. The published code decodes S64 and M128 in the first way and
L256 in the third. One tile is the ordinary case of all.

Everything can be traced. Memory is bounded: no more tiles are encoded, or decoded apart, at a time
than there are images, and merged maps are decoded one image at a time.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gpstoken_jax.model.blended import Decode, decode_blended
from gpstoken_jax.model.gpstoken import GPSToken, Params
from gpstoken_jax.model.layers import merge_tiles, split_tiles
from gpstoken_jax.model.tiles import AnyArray, merge_tokens, split_tokens, tile_grid
from gpstoken_jax.partition.images import partition_images

WAYS = ("merged", "aligned", "tiles", "blended")
WAYS_APART = ("tiles", "blended")  # in parts as large as one tile, each for itself


class Decoded(NamedTuple):
    """Images [B, H, W, 3], and a measure of trouble with their standard deviations.

    That is, for each image, the share of its interpolated standard deviations that had to be kept
    away from zero, in the norm where it was largest (see ``tile_norm``): 0 when all is well, and
    always for one tile or tiles decoded apart.
    """

    images: Float[Array, "b h w 3"]
    floored_std: Float[Array, " b"]


def encode_images(
    model: GPSToken,
    params: Params,
    images: Float[Array, "b h w 3"],
    num_tokens: int,
    *,
    weight: float = 2.5,
    min_size: int = 8,
    bias: Float[Array, "#b h w"] | None = None,
) -> tuple[Float[Array, "b l 5"], Float[Array, "b l 5+c"]]:
    """Initial Gaussians and tokens of images whose sides are multiples of the model's.

    Args:
      model: the tokenizer.
      params: its weights, ``{"params": ...}``.
      images: in [-1, 1].
      num_tokens: of each tile, so L is ``num_tokens * rows * columns``.
      weight, min_size, bias: of the partition, see ``partition_images``.

    Returns:
      Geometry before the encoder, and tokens, both in coordinates of the whole image.

    Raises:
      ValueError: an image that is not made of whole tiles, or what the partition refuses.
    """
    tiles = tile_grid(*images.shape[1:3], model.config.image_size)
    if bias is not None:
        bias = jnp.broadcast_to(bias, images.shape[:3])
        bias = split_tiles(bias[..., None], tiles)[..., 0]

    def encode(batch):
        geometry, boxes = partition_images(
            batch[0], num_tokens, weight=weight, min_size=min_size, bias=batch[1]
        )
        return geometry, model.apply(params, batch[0], geometry, boxes, method="encode")

    some = (split_tiles(images, tiles), bias)
    geometry, tokens = (
        encode(some) if tiles == (1, 1) else _by_parts(encode, some, size=len(images))
    )
    return merge_tokens(geometry, tiles), merge_tokens(tokens, tiles)


def decode_images(
    model: GPSToken,
    params: Params,
    tokens: Float[Array, "b l 5+c"],
    tiles: tuple[int, int] = (1, 1),
    *,
    way: str = "merged",
) -> Decoded:
    """Images from the tokens of all their tiles, as ``encode_images`` gives them.

    Args:
      model: the tokenizer.
      params: its weights, ``{"params": ...}``.
      tokens: in coordinates of the whole image. But for ``"merged"`` the tokens of a tile must
        stand together, and tiles row by row.
      tiles: (rows, columns) of tiles of an image.
      way: ``"merged"``, ``"aligned"``, ``"tiles"`` or ``"blended"``.

    Raises:
      ValueError: an unknown way, or tokens that do not fit the model or the tiles.
    """
    if way not in WAYS:
        raise ValueError(f"high resolution is decoded {', '.join(WAYS)}, not {way!r}")
    none = jnp.zeros(len(tokens))
    if tiles == (1, 1):
        return Decoded(model.apply(params, tokens, method="decode"), none)
    if way in WAYS_APART:
        decode = partial(model.apply, params, method="decode")

        def by_parts(sets):
            return [_by_parts(decode, some, size=len(tokens)) for some in sets]

        return Decoded(decode_apart(model, by_parts, tokens, tiles, way=way), none)
    if way == "aligned":
        tokens = merge_tokens(split_tokens(tokens, tiles), tiles, map_size=model.config.render_size)
    return lax.map(lambda one: _decode_merged(model, params, one, tiles), tokens)


def decode_apart(
    model: GPSToken,
    decode: Decode,
    tokens: Float[AnyArray, "b l 5+c"],
    tiles: tuple[int, int],
    *,
    way: str,
) -> Float[AnyArray, "b h w 3"]:
    """Images put together from parts, in one of ``WAYS_APART``.

    Args:
      model: the tokenizer.
      decode: images as large as one tile, see ``blended.Decode``.
      tokens, tiles: as of ``decode_images``; NumPy's arrays are worked on by NumPy.
      way: ``"tiles"`` or ``"blended"``.
    """
    parts = split_tokens(tokens, tiles)
    if way == "tiles":
        return merge_tiles(decode([parts])[0], tiles)
    size, map_size = model.config.image_size, model.config.render_size
    return decode_blended(decode, parts, tiles, image_size=size, map_size=map_size)


def floored_std_warning(shares: Mapping[str, float]) -> str | None:
    """Words a program's warning of ``Decoded.floored_std`` by image name; None if all is well."""
    affected = {name: share for name, share in shares.items() if share > 0}
    if not affected:
        return None
    worst = max(affected, key=affected.get)
    return (
        f"in {len(affected)} image(s) the standard deviation interpolated between tiles came "
        f"near zero and was held above it: at most {affected[worst]:.2%} of a norm's values, in "
        f"{worst}. Tiles decoded apart need no such interpolation (--high_resolution=tiles)"
    )


def _decode_merged(
    model: GPSToken, params: Params, tokens: Float[Array, "l 5+c"], tiles: tuple[int, int]
) -> Decoded:
    image, recorded = model.apply(
        params, tokens[None], tiles, method="decode", mutable="diagnostics"
    )
    return Decoded(image[0], jnp.stack(jax.tree.leaves(recorded)).max())


def _by_parts(function, tiles, *, size: int):
    """``function`` of all tiles, ``size`` of them at a time."""
    parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), tiles)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), lax.map(function, parts))
