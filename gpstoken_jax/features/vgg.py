"""VGG16 features of whole images, for those who have no Inception weights.

They come from the LPIPS weight file, whose backbone is VGG16 as trained on ImageNet. A distance in
them is named after VGG16 and never a FID, whose network is another one.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gpstoken_jax.features.lpips import LPIPSWeights, backbone_features

VGG_FEATURES = 512


def vgg_features(
    weights: LPIPSWeights, images: Float[Array, "b h w 3"], *, dtype: jnp.dtype = jnp.float32
) -> Float[Array, "b 512"]:
    """Means over positions of the last map (relu5_3) of images in [-1, 1], sides at least 16.

    Computed in `dtype`, averaged in float32. Raises ValueError for weights of another network.
    """
    if weights.network != "vgg16":
        raise ValueError(f"VGG16 features need VGG16 weights, not those of {weights.network}.")
    last = backbone_features(weights, images, dtype=dtype)[-1]
    return last.astype(jnp.float32).mean(axis=(1, 2))


def vgg_perceptual(
    weights: LPIPSWeights,
    x: Float[Array, "b h w 3"],
    y: Float[Array, "b h w 3"],
    *,
    dtype: jnp.dtype = jnp.float32,
) -> Float[Array, " b"]:
    """Mean squared difference of the 512 `vgg_features` of each pair of images in [-1, 1].

    What `inception_perceptual` is with another network: it compares what is in the images and not
    where, and so adds to LPIPS, which compares position by position. Differentiable in both.
    Raises ValueError for shapes that differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"images of one shape are compared, not {x.shape} and {y.shape}.")
    of_x, of_y = (vgg_features(weights, images, dtype=dtype) for images in (x, y))
    return jnp.mean(jnp.square(of_x - of_y), axis=-1)
