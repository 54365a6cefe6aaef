"""Splatting on NVIDIA GPUs in Triton, through jax-triton, where Pallas cannot serve.

The same scheme as `kernels/pallas.py`: lists of what meets what, tensor cores, no atomics, the same
bits every run. Products are TF32: three for float32 features, one for bfloat16 features, which it
holds exactly. `kernels/triton_bodies.py` has the programs. Both packages are optional and are not
imported before a GPU asks for them.
"""

import functools
import importlib.metadata

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpstoken_jax.kernels import blocks
from gpstoken_jax.kernels.batching import fold_vmap
from gpstoken_jax.kernels.tiling import Tiling

FORWARD_TILE, BACKWARD_TILE = (8, 8), (8, 4)  # a larger one makes the backward spill registers
BLOCK = 32
# jax-triton 0.4.1 has a dead-code rule of the wrong arity for JAX >= 0.12: tracing it fails.
LAST_FOR_OLD_JAX = (0, 4, 1)
PTX_VERSION = 88  # newer assembly, which Triton 3.9 writes, is refused by CUDA 13.0's assembler


def unsupported(platform: str, features_dtype) -> str | None:
    """Why this implementation cannot serve, or None."""
    if jnp.dtype(features_dtype) not in (jnp.float32, jnp.bfloat16):
        return f"features must be float32 or bfloat16, not {features_dtype}"
    if platform not in ("gpu", "cuda"):
        return f"it needs an NVIDIA GPU; the device is a {platform}"
    missing = [name for name in ("triton", "jax-triton") if _version(name) is None]
    if missing:
        return f"install {' and '.join(missing)} to use it"
    if _version("jax") >= (0, 12) and _version("jax-triton") <= LAST_FOR_OLD_JAX:
        return "jax-triton up to 0.4.1 does not trace under JAX >= 0.12; JAX 0.11 works"
    capability = getattr(jax.devices()[0], "compute_capability", None)
    if capability is None or float(capability) < 8.0:
        return f"it needs compute capability >= 8.0, this device has {capability}"
    return None


def _version(package: str) -> tuple[int, ...] | None:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


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


def launch(kernel, arguments, outputs, grid, **sizes):
    """Run a Triton program on the arrays, with `sizes` as its compile-time arguments."""
    import jax_triton

    return jax_triton.triton_call(
        *arguments,
        kernel=kernel,
        out_shape=outputs,
        grid=grid,
        num_warps=4,
        num_stages=2,
        backend_options={"ptx_version": PTX_VERSION},
        **sizes,
    )


def _sizes(tokens: blocks.Blocks, tiling: Tiling) -> dict:
    items, length, channels = tokens.features.shape
    return {
        "TILES": tiling.tiles,
        "BLOCKS": length // BLOCK,
        "LENGTH": length,
        "CHUNKS": items // len(tokens.table),
        "PIXELS": tiling.pixels,
        "BLOCK": BLOCK,
        "CHANNELS": channels,
        "PRECISION": "tf32" if tokens.features.dtype == jnp.bfloat16 else "tf32x3",
    }


def _forward(geometry, features, *, size, support):
    from gpstoken_jax.kernels import triton_bodies

    batch, _, channels = features.shape
    tiling = Tiling(*size, *FORWARD_TILE)
    tokens = blocks.token_blocks(geometry, features, BLOCK, support)
    items, _, chunk = tokens.features.shape
    pixels = launch(
        triton_bodies.forward,
        (
            *blocks.blocks_of_tiles(tokens.boxes, tiling),
            *map(jnp.asarray, tiling.coordinates()),
            tokens.table,
            tokens.features,
        ),
        jax.ShapeDtypeStruct((items, tiling.tiles * tiling.pixels, chunk), jnp.float32),
        (tiling.tiles, items, 1),
        **_sizes(tokens, tiling),
    )
    pixels = blocks.unchunked(pixels, batch, channels)
    return tiling.join(pixels.reshape(batch, tiling.tiles, tiling.pixels, channels))


def _backward(geometry, features, cotangent, *, support):
    from gpstoken_jax.kernels import triton_bodies

    batch, _, channels = features.shape
    tiling = Tiling(*cotangent.shape[1:3], *BACKWARD_TILE)
    tokens = blocks.token_blocks(geometry, features, BLOCK, support)
    items, length, chunk = tokens.features.shape
    pixels = tiling.split(cotangent.astype(features.dtype)).reshape(batch, -1, channels)
    splits = blocks.splits(items * length // BLOCK, tiling.tiles)
    d_features, moments = launch(
        triton_bodies.backward,
        (
            *blocks.tiles_of_blocks(tokens.boxes, tiling),
            *map(jnp.asarray, tiling.coordinates()),
            tokens.table,
            tokens.features,
            blocks.chunked(pixels),
        ),
        (
            jax.ShapeDtypeStruct((splits, items, length, chunk), jnp.float32),
            jax.ShapeDtypeStruct((splits, items, 5, length), jnp.float32),
        ),
        (length // BLOCK, items, splits),
        ITEMS=items,
        SPLITS=splits,
        **_sizes(tokens, tiling),
    )
    return blocks.gradients(geometry, features, tokens.order, d_features, moments)
