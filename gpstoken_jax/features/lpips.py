"""LPIPS: how different two images look, from features of a classification network.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018; version 0.1 of its weights.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from gpstoken_jax.features.backbones import BACKBONES, SMALLEST_SIDE, normalise_colours

_EPSILON = 1e-10
_KEEP = 0.5


@struct.dataclass
class LPIPSWeights:
    """Everything LPIPS needs: a backbone's parameters and one non-negative weight a channel.

    Attributes:
      backbone: the variables of ``BACKBONES[network]`` without the "params" level.
      heads: five vectors, one a feature map.
      network: "vgg16" or "alexnet" (static).
    """

    backbone: dict
    heads: tuple[jax.Array, ...]
    network: str = struct.field(pytree_node=False, default="vgg16")


def backbone_features(
    weights: LPIPSWeights, images: Float[Array, "b h w 3"], *, dtype: jnp.dtype = jnp.float32
) -> tuple[jax.Array, ...]:
    """The five feature maps of images in [-1, 1], computed in `dtype`.

    Raises ValueError when an image is too small for the network's pooling.
    """
    smallest = SMALLEST_SIDE[weights.network]
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < smallest:
        raise ValueError(
            f"LPIPS ({weights.network}) needs images [B, H, W, 3] with sides of at least "
            f"{smallest}, not {images.shape}."
        )
    network = BACKBONES[weights.network](dtype=dtype)
    return network.apply({"params": weights.backbone}, normalise_colours(images))


def lpips(
    weights: LPIPSWeights,
    x: Float[Array, "b h w 3"],
    y: Float[Array, "b h w 3"],
    *,
    dtype: jnp.dtype = jnp.float32,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, " b"]:
    """LPIPS distance of each pair of images in [-1, 1]; 0 for equal images, higher is worse.

    Differentiable in both images. The two go through the network apart, so a gradient for one
    costs nothing for the other. Features are computed in `dtype`, the distance in float32.
    dropout_key: None for the metric. A key drops half of the squared differences at random, as the
    published training did by leaving its LPIPS in training mode; only to reproduce that.
    Raises ValueError for shapes that differ or are too small.
    """
    if x.shape != y.shape:
        raise ValueError(f"lpips compares images of one shape, not {x.shape} and {y.shape}.")
    maps = zip(
        backbone_features(weights, x, dtype=dtype),
        backbone_features(weights, y, dtype=dtype),
        weights.heads,
        _layer_keys(dropout_key, len(weights.heads)),
        strict=True,
    )
    return sum(_layer_distance(*layer) for layer in maps)


def _layer_keys(key: PRNGKeyArray | None, count: int) -> list:
    return [None] * count if key is None else list(jax.random.split(key, count))


def _layer_distance(
    x: Float[Array, "b h w c"],
    y: Float[Array, "b h w c"],
    head: Float[Array, " c"],
    dropout_key: PRNGKeyArray | None,
) -> Float[Array, " b"]:
    difference = jnp.square(_unit_length(x) - _unit_length(y))
    if dropout_key is not None:
        kept = jax.random.bernoulli(dropout_key, _KEEP, difference.shape)
        difference = jnp.where(kept, difference / _KEEP, 0)
    return jnp.mean(jnp.sum(difference * head, axis=-1), axis=(1, 2))


def _unit_length(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Divide each feature vector by its length; a vector of zeros stays one, with zero gradient.

    Where no channel fires, the plain square root would have an infinite slope and turn the whole
    gradient into NaN.
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    length = jnp.sqrt(jnp.where(squared > 0, squared, 1))
    return jnp.where(squared > 0, x / (length + _EPSILON), 0)
