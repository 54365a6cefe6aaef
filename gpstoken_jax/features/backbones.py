"""The convolutional part of VGG16 and AlexNet, giving the five feature maps that LPIPS compares."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

# width, kernel side, stride, padding, 3 x 3 max-pooling of stride 2 before it
ALEXNET_LAYERS = (
    (64, 11, 4, 2, False),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, True),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, False),
)

# The mean and standard deviation of ImageNet colours, as LPIPS rounds them for [-1, 1] images.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


def normalise_colours(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Map images in [-1, 1] to the colour statistics that the networks were trained with."""
    return (images.astype(jnp.float32) - jnp.array(_SHIFT)) / jnp.array(_SCALE)


def _precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """Full float32 products where float32 is asked for: a GPU would round them to TF32."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


class VGG16(nn.Module):
    """VGG16 without its classifier: colour-normalised images to relu1_2, 2_2, 3_3, 4_3, 5_3.

    `[B, H, W, 3]` to five maps `[B, H/2^i, W/2^i, (64, 128, 256, 512, 512)]`, H and W at least 16.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> tuple[jax.Array, ...]:
        """Feature maps of the five stages, each before the next one's pooling."""
        maps = []
        for stage, widths in enumerate(VGG16_STAGES, 1):
            if stage > 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for index, width in enumerate(widths, 1):
                x = nn.relu(self._conv(width, f"conv{stage}_{index}")(x))
            maps.append(x)
        return tuple(maps)

    def _conv(self, width: int, name: str) -> nn.Conv:
        precision = _precision(self.dtype)
        return nn.Conv(width, (3, 3), padding=1, dtype=self.dtype, precision=precision, name=name)


class AlexNet(nn.Module):
    """AlexNet without its classifier: colour-normalised images to relu1 .. relu5.

    `[B, H, W, 3]` to five maps of widths (64, 192, 384, 256, 256), H and W at least 31.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> tuple[jax.Array, ...]:
        """Feature maps of the five convolutions, after their ReLU."""
        maps = []
        for index, (width, side, stride, padding, pool) in enumerate(ALEXNET_LAYERS, 1):
            if pool:
                x = nn.max_pool(x, (3, 3), strides=(2, 2))
            convolution = nn.Conv(
                width,
                (side, side),
                strides=stride,
                padding=padding,
                dtype=self.dtype,
                precision=_precision(self.dtype),
                name=f"conv{index}",
            )
            x = nn.relu(convolution(x))
            maps.append(x)
        return tuple(maps)


BACKBONES = {"vgg16": VGG16, "alexnet": AlexNet}
SMALLEST_SIDE = {"vgg16": 16, "alexnet": 31}
