"""Convolutions that keep a map's size, whose kernel has a gradient that is fast on a CPU, too.

XLA's gradient of a kernel is a convolution with a window as large as the map. On a CPU it takes 3
to 6 times as long as the same sums as matrix products, one for each of the kernel's positions, and
in a loop, which `train.accumulate` makes, a hundred times (docs/speed.md).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gpstoken_jax.runtime.platforms import by_platform

_LEAST_CHANNELS = 32  # with fewer the products are too thin to gain anything
_PIXELS = 1024  # of an image, in a product: 0.5 MB of 128 channels


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], *_: Any, **options: Any
) -> Float[Array, "b h w d"]:
    """Convolves at stride 1 with zeros around the map; for ``nn.Conv(conv_general_dilated=...)``.

    Args:
      x: maps.
      kernel: of an odd side, in the dtype of ``x``.
      options: what ``nn.Conv`` says; only its precision matters here.
    """
    return _convolve(options.get("precision"), x, kernel)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _convolve(precision, x, kernel):
    return _plain(precision, x, kernel)


@partial(_convolve.defjvp, symbolic_zeros=True)
def _convolve_jvp(precision, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    parts = []
    if not is_zero(dx):
        parts.append(_plain(precision, dx, kernel))
    if not is_zero(dkernel):
        parts.append(by_kernel(x, dkernel, precision))
    return _plain(precision, x, kernel), sum(parts)


def is_zero(tangent: Any) -> bool:
    """True for the tangent of what is not differentiated, in a rule with ``symbolic_zeros``."""
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def by_kernel(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], precision: Any = None
) -> Float[Array, "b h w d"]:
    """The same, linear in the kernel and with a fast transpose, which is the kernel's gradient."""
    if len(kernel) == 1 or min(kernel.shape[2:]) < _LEAST_CHANNELS:
        return _plain(precision, x, kernel)
    either = partial(
        by_platform, cpu=partial(_products, precision), default=partial(_plain, precision)
    )
    # So that x alone is kept for the backward pass, and not its shifted copies.
    return jax.checkpoint(either, prevent_cse=False)(x, kernel)


def _products(precision, x, kernel):
    """A product of matrices for each position, a few rows of the map at a time.

    Their transpose reads both maps once for each position: as many rows as the cache holds.
    """
    side, (batch, height, width, channels) = len(kernel), x.shape
    padded = jnp.pad(x, ((0, 0), *[(side // 2, side // 2)] * 2, (0, 0)))
    divisors = [n for n in range(1, height + 1) if height % n == 0]
    rows = max((n for n in divisors if n * width <= _PIXELS), default=1)

    def of_rows(_, top):
        part = jax.lax.dynamic_slice_in_dim(padded, top, rows + side - 1, axis=1)
        return None, sum(
            jnp.matmul(
                part[:, i : i + rows, j : j + width].reshape(-1, channels),
                kernel[i, j],
                precision=precision,
            )
            for i in range(side)
            for j in range(side)
        )

    _, y = jax.lax.scan(of_rows, None, jnp.arange(0, height, rows))
    return (
        y.reshape(height // rows, batch, rows, width, -1).swapaxes(0, 1).reshape(*x.shape[:3], -1)
    )


def _plain(precision, x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers, precision=precision
    )
