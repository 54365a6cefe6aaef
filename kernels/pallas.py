"""Splatting on NVIDIA GPUs in Pallas (Mosaic GPU): tensor cores, no atomics, the same bits every
run.

Forward: a program a tile of 8 x 8 pixels loops over the blocks of 32 tokens whose common box meets
it.
Backward: a program a block of 64 tokens loops over the tiles of 8 x 4 pixels that it meets and sums
the gradient of its features and five moments of its geometry; where blocks are few, several
programs share a block's tiles and XLA adds their sums. Weights live in registers only. Float32
factors are split in two bfloat16 and multiplied as three products (float32-grade); bfloat16
features use one.

Needs JAX >= 0.11 and compute capability >= 8.0. `kernels/pallas_bodies.py` has the programs.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpstoken_jax.kernels import blocks
from gpstoken_jax.kernels.batching import fold_vmap
from gpstoken_jax.kernels.tiling import Tiling

FORWARD_TILE, FORWARD_BLOCK = (8, 8), 32
BACKWARD_TILE, BACKWARD_BLOCK = (8, 4), 64
MINIMUM_JAX = (0, 11)

INTERPRET = False  # tests set it to run the kernels on a CPU in Mosaic's interpreter


def in_this_jax() -> bool:
    """Whether the installed JAX has the Mosaic GPU kernels that this needs."""
    return tuple(map(int, jax.__version__.split(".")[:2])) >= MINIMUM_JAX


def unsupported(platform: str, features_dtype) -> str | None:
    """Why this implementation cannot serve, or None."""
    if not in_this_jax():
        return f"it needs JAX >= 0.11 (Python >= 3.12), this is {jax.__version__}"
    if jnp.dtype(features_dtype) not in (jnp.float32, jnp.bfloat16):
        return f"features must be float32 or bfloat16, not {features_dtype}"
    if INTERPRET:
        return None
    if platform not in ("gpu", "cuda"):
        return f"it needs an NVIDIA GPU; the device is a {platform}"
    device = jax.devices()[0]
    capability = getattr(device, "compute_capability", None)
    if capability is None or float(capability) < 8.0:
        return f"it needs compute capability >= 8.0; {device.device_kind} has {capability}"
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def splat(
    geometry: Float[Array, "b l 5"],
    features: Float[Array, "b l c"],
    size: tuple[int, int],
    support: float,
) -> Float[Array, "b h w c"]:
    """Sum over tokens of weight * feature at every pixel; float32, see `kernels.splat`."""
    return fold_vmap(functools.partial(_forward, size=size, support=support))(geometry, features)


def _splat_forward(geometry, features, size, support):
    return splat(geometry, features, size, support), (geometry, features)


def _splat_backward(size, support, residuals, cotangent):
    return fold_vmap(functools.partial(_backward, support=support))(*residuals, cotangent)


splat.defvjp(_splat_forward, _splat_backward)


def _parts(array: Array, narrow: bool) -> tuple[Array, ...]:
    """bfloat16 parts that add up to a float32 array, or the array rounded where that is enough."""
    high = array.astype(jnp.bfloat16)
    return (high,) if narrow else (high, (array - high.astype(jnp.float32)).astype(jnp.bfloat16))


def _forward(geometry, features, *, size, support):
    from gpstoken_jax.kernels import pallas_bodies  # needs a JAX with Mosaic GPU kernels

    batch, _, channels = features.shape
    tiling, narrow = Tiling(*size, *FORWARD_TILE), features.dtype == jnp.bfloat16
    tokens = blocks.token_blocks(geometry, features, FORWARD_BLOCK, support)
    listed, count = blocks.blocks_of_tiles(tokens.boxes, tiling)
    drawn = pallas_bodies.forward(
        listed,
        count,
        *map(jnp.asarray, tiling.coordinates()),
        tokens.table,
        _parts(tokens.features.swapaxes(1, 2), narrow),
        block=FORWARD_BLOCK,
        interpret=INTERPRET,
    )
    pixels = drawn.reshape(len(drawn), tiling.tiles * tiling.pixels, -1)
    pixels = blocks.unchunked(pixels, batch, channels)
    return tiling.join(pixels.reshape(batch, tiling.tiles, tiling.pixels, channels))


def _backward(geometry, features, cotangent, *, support):
    from gpstoken_jax.kernels import pallas_bodies

    batch, _, channels = features.shape
    tiling, narrow = Tiling(*cotangent.shape[1:3], *BACKWARD_TILE), features.dtype == jnp.bfloat16
    tokens = blocks.token_blocks(geometry, features, BACKWARD_BLOCK, support)
    listed, count = blocks.tiles_of_blocks(tokens.boxes, tiling)
    pixels = tiling.split(cotangent).reshape(batch, -1, channels)
    pixels = blocks.chunked(pixels).reshape(len(tokens.features), tiling.tiles, tiling.pixels, -1)
    d_features, moments = pallas_bodies.backward(
        listed,
        count,
        *map(jnp.asarray, tiling.coordinates()),
        tokens.table,
        _parts(tokens.features, narrow),
        _parts(pixels, narrow),
        _parts(pixels.swapaxes(2, 3), narrow),
        block=BACKWARD_BLOCK,
        splits=blocks.splits(len(tokens.features) * tokens.boxes.shape[1], tiling.tiles),
        interpret=INTERPRET,
    )
    return blocks.gradients(geometry, features, tokens.order, d_features, moments)
