"""The published renderer taken literally, to have something to compare with: Pallas, Triton.

As the release's CUDA has it: forward, one thread a pixel, which goes through all tokens; backward,
one thread a token, which goes through all pixels. No culling, no tiles, no tensor cores. The
release takes one image at a time; here the images of a batch run side by side, in its favour.
Benchmark only: float32, pixels a multiple of `PIXELS` and tokens of `TOKENS`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jaxtyping import Float

from gpstoken_jax.kernels.gaussian import geometry_gradient, moments, well_posed

PIXELS = 128  # threads of a block, forward
TOKENS = 32  # threads of a block, backward


def splat(
    geometry: Float[Array, "b l 5"],
    features: Float[Array, "b l c"],
    size: tuple[int, int],
    support: float,
    interpret: bool = False,
) -> Float[Array, "b h w c"]:
    """Sum over tokens of weight * feature at every pixel; float32, see `kernels.splat`."""
    return _splat(well_posed(geometry), features, size, support, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _splat(geometry, features, size, support, interpret):
    batch, tokens, channels = features.shape
    pixels = size[0] * size[1]
    image = _launch(
        functools.partial(_one_pixel_a_thread, size=size, support=support),
        (batch, pixels // PIXELS),
        [_all_rows(tokens, 5), _all_rows(tokens, channels)],
        [_some_rows(PIXELS, channels)],
        [(batch, pixels, channels)],
        PIXELS,
        interpret,
    )(geometry, features)[0]
    return image.reshape(batch, *size, channels)


def _splat_forward(geometry, features, size, support, interpret):
    return _splat(geometry, features, size, support, interpret), (geometry, features)


def _splat_backward(size, support, interpret, residuals, cotangent):
    geometry, features = residuals
    batch, tokens, channels = features.shape
    pixels = size[0] * size[1]
    sums, d_features = _launch(
        functools.partial(_one_token_a_thread, size=size, support=support),
        (batch, tokens // TOKENS),
        [_some_rows(TOKENS, 5), _some_rows(TOKENS, channels), _all_rows(pixels, channels)],
        [_some_rows(TOKENS, 5), _some_rows(TOKENS, channels)],
        [(batch, tokens, 5), (batch, tokens, channels)],
        TOKENS,
        interpret,
    )(geometry, features, cotangent.reshape(batch, pixels, channels))
    return geometry_gradient(geometry, tuple(jnp.moveaxis(sums, -1, 0))), d_features


_splat.defvjp(_splat_forward, _splat_backward)


def _launch(kernel, grid, inputs, outputs, shapes, threads: int, interpret: bool):
    from jax.experimental.pallas import triton

    return pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes],
        grid=grid,
        in_specs=inputs,
        out_specs=outputs,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=threads // 32, num_stages=1),
    )


def _all_rows(count: int, columns: int) -> pl.BlockSpec:
    """Every row of this block's image."""
    return pl.BlockSpec((None, count, columns), lambda image, _: (image, 0, 0))


def _some_rows(count: int, columns: int) -> pl.BlockSpec:
    """The rows of this block's threads."""
    return pl.BlockSpec((None, count, columns), lambda image, block: (image, block, 0))


def _coordinates(pixel: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    height, width = size
    step = lambda place, count: place.astype(jnp.float32) * (2.0 / (count - 1)) - 1.0  # noqa: E731
    row = jax.lax.div(pixel, jax.lax.full_like(pixel, width))  # `//` does not lower to Triton
    return step(pixel - row * width, width), step(row, height)


def _weight(values, x: Array, y: Array, support: float) -> tuple[Array, Array, Array]:
    sigma_x, sigma_y, rho, mu_x, mu_y = values
    u, v = (x - mu_x) / sigma_x, (y - mu_y) / sigma_y
    inside = (jnp.abs(u) <= support) & (jnp.abs(v) <= support)
    a = u - rho * v
    exponent = a * a * (0.5 / ((1.0 - rho) * (1.0 + rho))) + 0.5 * v * v
    return u, v, jnp.where(inside, jnp.exp(-exponent), 0.0)


def _one_pixel_a_thread(geometry, features, image, *, size, support):
    channels = features.shape[-1]
    x, y = _coordinates(pl.program_id(1) * PIXELS + jnp.arange(PIXELS), size)

    def add(token, colours):
        values = [geometry[token, i] for i in range(5)]
        weight = _weight(values, x, y, support)[2]
        return tuple(c + weight * features[token, i] for i, c in enumerate(colours))

    start = (jnp.zeros(PIXELS, jnp.float32),) * channels
    colours = jax.lax.fori_loop(0, features.shape[0], add, start)
    for i, colour in enumerate(colours):
        image[:, i] = colour


def _one_token_a_thread(geometry, features, cotangent, sums, d_features, *, size, support):
    channels = features.shape[-1]
    values = [geometry[:, i] for i in range(5)]
    vector = [features[:, i] for i in range(channels)]

    def add(pixel, totals):
        u, v, weight = _weight(values, *_coordinates(pixel, size), support)
        incoming = [cotangent[pixel, i] for i in range(channels)]
        gradient = sum(a * b for a, b in zip(vector, incoming, strict=True))
        parts = (*moments(values[2], u, v, weight * gradient), *(weight * i for i in incoming))
        return tuple(t + p for t, p in zip(totals, parts, strict=True))

    start = (jnp.zeros(TOKENS, jnp.float32),) * (5 + channels)
    totals = jax.lax.fori_loop(0, size[0] * size[1], add, start)
    for i, total in enumerate(totals[:5]):
        sums[:, i] = total
    for i, total in enumerate(totals[5:]):
        d_features[:, i] = total
