"""The definition, written plainly: every token at every pixel, differentiated by JAX.

Memory and time grow with B x L x H x W; it is what the other implementations are measured against.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from gpstoken_jax.kernels.gaussian import local_weights, pixel_coordinates, well_posed


def unsupported(platform: str, features_dtype: DTypeLike) -> str | None:
    """Always None: the definition can serve everywhere."""
    return None


def splat(
    geometry: Float[Array, "b l 5"],
    features: Float[Array, "b l c"],
    size: tuple[int, int],
    support: float,
) -> Float[Array, "b h w c"]:
    """Sum over tokens of weight * feature at every pixel; float32, see `kernels.splat`."""
    return draw(well_posed(geometry), features, size, support)


def draw(
    geometry: Float[Array, "b l 5"],
    features: Float[Array, "b l c"],
    size: tuple[int, int],
    support: float,
) -> Float[Array, "b h w c"]:
    """The map of `splat`, of geometry that is well posed."""
    height, width = size
    y, x = np.meshgrid(pixel_coordinates(height), pixel_coordinates(width), indexing="ij")
    pixels = jnp.asarray(x.ravel()), jnp.asarray(y.ravel())
    weight = local_weights(geometry, *pixels, support)[2]
    features = features.astype(jnp.float32)
    image = jnp.einsum("blp,blc->bpc", weight, features, precision=jax.lax.Precision.HIGHEST)
    return image.reshape(*image.shape[:1], height, width, image.shape[-1])
