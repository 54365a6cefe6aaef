"""ConvNeXt-small, and the distance of two images in what it takes them for.

Liu et al. 2022, "A ConvNet for the 2020s". Submodules carry torchvision's names.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from gpstoken_jax.features.resize import resize_antialiased

Normalisation = Literal["release", "correct"]

STAGES = ((96, 3), (192, 3), (384, 27), (768, 3))  # width and blocks
NETWORK_SIDE = 224
_EPSILON = 1e-6
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


@struct.dataclass
class ConvNeXtWeights:
    """The variables of `ConvNeXtSmall`: {"params": ...}."""

    variables: dict


def _precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


class _Block(nn.Module):
    """Depthwise 7 x 7, layer norm, an MLP four times as wide; scaled by channel and added."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        how = {"dtype": self.dtype, "precision": _precision(self.dtype)}
        groups = {"feature_group_count": self.width}
        y = nn.Conv(self.width, (7, 7), padding=3, **groups, **how, name="block.0")(x)
        y = nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="block.2")(y)
        y = nn.gelu(nn.Dense(4 * self.width, **how, name="block.3")(y), approximate=False)
        y = nn.Dense(self.width, **how, name="block.5")(y)
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (self.width,))
        return x + scale.astype(self.dtype) * y


class ConvNeXtSmall(nn.Module):
    """Images of 224 x 224 with normalised colours to the logits of ImageNet's 1000 classes."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b 1000"]:
        """Logits of the ImageNet classes."""
        how = {"dtype": self.dtype, "precision": _precision(self.dtype)}
        for stage, (width, depth) in enumerate(STAGES):
            name, side = f"features.{2 * stage}", 2
            if stage == 0:
                x = nn.Conv(width, (4, 4), strides=4, padding=0, **how, name=f"{name}.0")(x)
                x = self._norm(f"{name}.1")(x)
            else:
                x = self._norm(f"{name}.0")(x)
                x = nn.Conv(width, (side, side), strides=side, padding=0, **how, name=f"{name}.1")(
                    x
                )
            for block in range(depth):
                x = _Block(width, self.dtype, name=f"features.{2 * stage + 1}.{block}")(x)
        x = self._norm("classifier.0")(x.mean(axis=(1, 2)))
        return nn.Dense(1000, **how, name="classifier.2")(x).astype(jnp.float32)

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name=name)


def prepare_images(
    images: Float[Array, "b h w 3"], normalisation: Normalisation = "correct"
) -> Float[Array, "b 224 224 3"]:
    """The network's input from images in [-1, 1]: resized, colours normalised.

    normalisation: "correct" maps [-1, 1] to [0, 1] before ImageNet's mean and standard deviation
    are taken out, as the network was trained; "release" forgets to, as the published training code.
    Raises ValueError for another one.
    """
    if normalisation not in ("release", "correct"):
        raise ValueError(f'normalisation must be "release" or "correct", not {normalisation!r}.')
    small = resize_antialiased(images.astype(jnp.float32), (NETWORK_SIDE, NETWORK_SIDE))
    if normalisation == "correct":
        small = (small + 1) / 2
    return (small - _IMAGENET_MEAN) / _IMAGENET_STD


def convnext_logits(
    weights: ConvNeXtWeights,
    images: Float[Array, "b h w 3"],
    *,
    normalisation: Normalisation = "correct",
    dtype: jnp.dtype = jnp.float32,
) -> Float[Array, "b 1000"]:
    """Logits of images in [-1, 1] of any size."""
    inputs = prepare_images(images, normalisation)
    return ConvNeXtSmall(dtype=dtype).apply(weights.variables, inputs)


def convnext_perceptual(
    weights: ConvNeXtWeights,
    x: Float[Array, "b h w 3"],
    y: Float[Array, "b h w 3"],
    *,
    normalisation: Normalisation = "release",
    dtype: jnp.dtype = jnp.float32,
) -> Float[Array, " b"]:
    """Mean squared difference of the 1000 logits of each pair of images in [-1, 1].

    Differentiable in both; the two go through the network apart, so a gradient for one costs
    nothing for the other. Raises ValueError for shapes that differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"images of one shape are compared, not {x.shape} and {y.shape}.")
    how = {"normalisation": normalisation, "dtype": dtype}
    of_x, of_y = (convnext_logits(weights, images, **how) for images in (x, y))
    return jnp.mean(jnp.square(of_x - of_y), axis=-1)
