"""The layout of an image: its initial Gaussians and their boxes, from its colours."""

from functools import partial

import jax
from jaxtyping import Array, Float

from gpstoken_jax.partition.device import partition_jit
from gpstoken_jax.runtime.platforms import known_platform

GREY_WEIGHTS = (0.299, 0.587, 0.114)


def to_grey(images: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w"]:
    """Luma of RGB images, in the range of the input; the sum has the release's order."""
    red, green, blue = (images[..., i] * weight for i, weight in enumerate(GREY_WEIGHTS))
    return red + green + blue


def partition_images(
    images: Float[Array, "b h w 3"],
    num_tokens: int,
    *,
    weight: float = 2.5,
    min_size: int = 8,
    bias: Float[Array, "#b h w"] | None = None,
) -> tuple[Float[Array, "b l 5"], Float[Array, "b l 4"]]:
    """Partitions RGB images in [-1, 1]; compiled once a shape. See ``partition``."""
    options = {"weight": weight, "min_size": min_size}
    return _partition_images(images, num_tokens, **options, bias=bias, platform=known_platform())


@partial(jax.jit, static_argnames=("num_tokens", "weight", "min_size", "platform"))
def _partition_images(images, num_tokens, *, platform, **options):
    # JAX keeps what it has traced by its arguments: the platform that it was traced for is one.
    grey = to_grey(images).clip(-1.0, 1.0)
    return partition_jit(grey, num_tokens, **options)
