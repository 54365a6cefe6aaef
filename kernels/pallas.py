"""Splatting on NVIDIA GPUs in Pallas (Mosaic GPU): one launch forward, two more backward.

No sorting, no atomics, the same bits every run. `mosaic_forward` and `mosaic_backward` have the
kernels, `mosaic_tiles` what they share, `mosaic_words` the instructions they are written in. Needs
JAX >= 0.11 and compute capability >= 8.0. The kernels lean on private parts of JAX; where these are
missing, `unsupported` says so and `xla` serves.
"""

import functools
import importlib
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from gpstoken_jax.kernels.batching import fold_vmap

MINIMUM_JAX = (0, 11)
LARGEST_ARRAY = 2**31 - 1  # elements: the kernels' indices are int32


@functools.cache
def missing_in_jax() -> str | None:
    """Part that the kernels need and the installed JAX does not have, or None."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < MINIMUM_JAX:
        return f"it needs JAX >= 0.11 (Python >= 3.12), this is {jax.__version__}"
    try:
        importlib.import_module("gpstoken_jax.kernels.mosaic_words")
    except (ImportError, AttributeError) as error:
        return f"JAX {jax.__version__} lacks a part that the kernels are written with: {error}"
    return None


def unsupported(platform: str, features_dtype: DTypeLike) -> str | None:
    """Reason why this implementation cannot serve, or None."""
    if jnp.dtype(features_dtype) not in (jnp.float32, jnp.bfloat16):
        return f"features must be float32 or bfloat16, not {features_dtype}"
    if (missing := missing_in_jax()) is not None:
        return missing
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
    """Sum over tokens of weight * feature at every pixel, see `kernels.splat`."""
    draw = functools.partial(_forward, size=size, support=support, planned=False)
    return fold_vmap(draw)(geometry, features)[0]


def _splat_forward(geometry, features, size, support):
    draw = functools.partial(_forward, size=size, support=support, planned=True)
    image, *kept = fold_vmap(draw)(geometry, features)
    return image, (geometry, features, *kept)


def _splat_backward(size, support, residuals, cotangent):
    backward = functools.partial(_backward, size=size, support=support)
    return fold_vmap(backward)(*residuals, cotangent)


splat.defvjp(_splat_forward, _splat_backward)


def slot_count(tokens: int, size: tuple[int, int]) -> int:
    """Slots an image for partial sums of the backward: a token needs one a tile of 8 x 8 pixels.

    Several times what the tokens of a partition need; tokens that find none are summed in another
    way, so that memory does not depend on the data.
    """
    return 8 * tokens + 8 * math.prod(-(-side // 8) for side in size)


def _problem(geometry, features, size, support):
    from gpstoken_jax.kernels.mosaic_tiles import Problem

    narrow, slots = features.dtype == jnp.bfloat16, slot_count(features.shape[1], size)
    return Problem(*features.shape, *size, support, narrow, slots)


def _largest_index(batch: int, tokens: int, channels: int, size: tuple[int, int]) -> int:
    """Elements of the largest array that the kernels make."""
    pixels, padded = math.prod(size), -(-channels // 32) * 32
    sums = (slot_count(tokens, size) + 4 * tokens) * padded
    return batch * max(pixels * max(channels, 8), sums, tokens)


def _in_pieces(function, arrays, channels: int, size: tuple[int, int]) -> tuple[Array, ...]:
    """The function of the whole batch, or of pieces of it small enough for int32 indices."""
    batch, tokens = arrays[0].shape[:2]
    one = _largest_index(1, tokens, channels, size)
    if one > LARGEST_ARRAY:
        raise NotImplementedError(
            f"'pallas' indexes with int32, and one map of {size} with {channels} channels and "
            f"{tokens} tokens needs {one} elements; name implementation='xla'"
        )
    pieces = -(-batch // (LARGEST_ARRAY // one))
    split = zip(*(jnp.array_split(a, pieces) for a in arrays), strict=True)
    results = [function(*piece) for piece in split]
    return tuple(r[0] if pieces == 1 else jnp.concatenate(r) for r in zip(*results, strict=True))


def _forward(geometry, features, *, size, support, planned: bool) -> tuple[Array, ...]:
    """The map; for the backward also the plan of its slots, and the lists where they are made."""
    from gpstoken_jax.kernels import mosaic_forward, mosaic_lists

    def draw(geometry, features):
        problem = _problem(geometry, features, size, support)
        many = problem.tokens > mosaic_lists.ENOUGH
        lists = mosaic_lists.list_tokens(problem, geometry) if many else ()
        drawn = mosaic_forward.draw(problem, geometry, features, lists, planned)
        return (*drawn, *lists) if planned else (drawn,)

    return _in_pieces(draw, (geometry, features), features.shape[-1], size)


def _backward(geometry, features, *rest, size, support) -> tuple[Array, Array]:
    from gpstoken_jax.kernels import mosaic_backward

    def gradients(geometry, features, plan, *rest):
        *lists, cotangent = rest
        problem = _problem(geometry, features, size, support)
        return mosaic_backward.gradients(problem, geometry, features, cotangent, plan, lists)

    return _in_pieces(gradients, (geometry, features, *rest), features.shape[-1], size)
