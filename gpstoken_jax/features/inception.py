"""Inception-v3 features of images, and the distance of two images in them."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from gpstoken_jax.features.inception_network import NETWORK_SIDE, InceptionOutputs, InceptionV3
from gpstoken_jax.features.resize import resize_tensorflow1

Scaling = Literal["release", "correct"]

# What an image in [-1, 1] plus one is multiplied by before the network's own (v - 128) / 128.
_SCALES = {"correct": 127.5, "release": 255.0}


@struct.dataclass
class InceptionWeights:
    """The variables of `InceptionV3`: {"params": ..., "batch_stats": ...}."""

    variables: dict


def prepare_images(
    images: Float[Array, "b h w 3"], scaling: Scaling = "correct"
) -> Float[Array, "b 299 299 3"]:
    """The network's input from images in [-1, 1].

    scaling: "correct" maps [-1, 1] to [0, 255] as the FID does. "release" is what the published
    training code does: it multiplies by 255 instead of 127.5, so the network sees [-1, 2.98].
    Raises ValueError for another scaling.
    """
    if scaling not in _SCALES:
        raise ValueError(f"scaling must be one of {sorted(_SCALES)}, not {scaling!r}.")
    levels = (images.astype(jnp.float32) + 1) * _SCALES[scaling]
    return (resize_tensorflow1(levels, (NETWORK_SIDE, NETWORK_SIDE)) - 128) / 128


def inception_outputs(
    weights: InceptionWeights,
    images: Float[Array, "b h w 3"],
    *,
    scaling: Scaling = "correct",
    train: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> InceptionOutputs:
    """Features and logits of images in [-1, 1] of any size; see `InceptionOutputs`.

    For a FID that agrees with others round the images to 8 bits first (`metrics.to_unit_range`).
    train: normalise by the statistics of this batch; dtype: of the computation.
    """
    network = InceptionV3(train=train, dtype=dtype)
    inputs = prepare_images(images, scaling)
    if not train:
        return network.apply(weights.variables, inputs)
    return network.apply(weights.variables, inputs, mutable=["batch_stats"])[0]


def fid_features(
    weights: InceptionWeights, images: Float[Array, "b h w 3"], *, dtype: jnp.dtype = jnp.float32
) -> dict[str, Float[Array, "b d"]]:
    """Features of images in [-1, 1]: "fid" (2048), "sfid" (2023) and "classes" (1008).

    The first two are for Fréchet distances, the last, probabilities, for the Inception Score. The
    spatial ones run over rows, columns and then channels, as in the evaluation suite of
    "Diffusion Models Beat GANs", whose reference statistics can so be compared with.
    """
    outputs = inception_outputs(weights, images, dtype=dtype)
    return {
        "fid": outputs.pool,
        "sfid": outputs.spatial.reshape(len(images), -1),
        "classes": jax.nn.softmax(outputs.logits),
    }


def inception_perceptual(
    weights: InceptionWeights,
    x: Float[Array, "b h w 3"],
    y: Float[Array, "b h w 3"],
    *,
    scaling: Scaling = "release",
    train: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> Float[Array, " b"]:
    """Mean squared difference of the 2048 pool features of each pair of images in [-1, 1].

    Differentiable in both. train: normalise by the statistics of x and y together, one batch; the
    published training does not (it calls eval() on the network), though its code means to.
    Otherwise the two go through the network apart, so a gradient for one costs nothing for the
    other. Raises ValueError for shapes that differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"images of one shape are compared, not {x.shape} and {y.shape}.")

    def features(images):
        options = {"scaling": scaling, "train": train, "dtype": dtype}
        return inception_outputs(weights, images, **options).pool

    if train:
        of_x, of_y = jnp.split(features(jnp.concatenate([x, y])), 2)
    else:
        of_x, of_y = features(x), features(y)
    return jnp.mean(jnp.square(of_x - of_y), axis=-1)
