"""Resizing as the networks that compare images were given it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_tensorflow1(
    images: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b m n c"]:
    """Bilinear resize of TensorFlow 1 (`ResizeBilinear`, `align_corners=False`).

    Output pixel i of m lies at i h / m of the input: no half-pixel offset and no antialiasing, and
    what lies beyond the last pixel repeats it. FID is defined with it.
    """
    rows, columns = (_weights(n, m) for n, m in zip(images.shape[1:3], size, strict=True))
    precision = jax.lax.Precision.HIGHEST
    images = jnp.einsum("ih,bhwc->biwc", rows, images, precision=precision)
    return jnp.einsum("jw,biwc->bijc", columns, images, precision=precision)


def _weights(length: int, new_length: int) -> Float[np.ndarray, "new old"]:
    """The matrix of a resize along one axis."""
    position = np.arange(new_length, dtype=np.float32) * np.float32(length / new_length)
    before = np.minimum(np.floor(position).astype(int), length - 1)
    after = np.minimum(before + 1, length - 1)
    fraction = position - before
    weights = np.zeros((new_length, length), np.float32)
    np.add.at(weights, (np.arange(new_length), before), 1 - fraction)
    np.add.at(weights, (np.arange(new_length), after), fraction)
    return weights


def resize_antialiased(
    images: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b m n c"]:
    """Bilinear resize with half-pixel centres whose filter widens when it shrinks (torchvision)."""
    shape = (images.shape[0], *size, images.shape[-1])
    return jax.image.resize(
        images, shape, "bilinear", antialias=True, precision=jax.lax.Precision.HIGHEST
    )
