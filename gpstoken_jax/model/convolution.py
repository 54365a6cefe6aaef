"""Convolutions that keep a map's size, whose kernel has a gradient that is fast on a CPU, too.

XLA's gradient of a kernel is a convolution with a window as large as the map. On a CPU it takes 3
to 6 times as long as the same sums as matrix products, one for each of the kernel's positions, and
in a loop, which `train.accumulate` makes, a hundred times (docs/speed.md).
"""

import math
from collections.abc import Callable
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
    return on_wide_cpu(
        partial(products, precision=precision), partial(_plain, precision), x, kernel
    )


def on_wide_cpu(
    cpu: Callable, default: Callable, x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Array:
    """One of two forms: ``cpu`` for wide kernels on a CPU. Keeps x alone for the backward pass."""
    if min(kernel.shape[2:]) < _LEAST_CHANNELS:
        return default(x, kernel)
    either = partial(by_platform, cpu=cpu, default=default)
    # Not the shifted copies of x that are made on the way.
    return jax.checkpoint(either, prevent_cse=False)(x, kernel)


def products(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], precision: Any = None
) -> Float[Array, "b g v d"]:
    """Convolves maps with k // 2 zeros around by a matrix product for each of the k x k positions.

    A few rows of the map at a time: the transpose reads them once for each position, and so many
    are in the cache.
    """
    side, (batch, height, width, channels) = len(kernel), x.shape
    margin = side // 2
    height, width = height + 2 * margin - side + 1, width + 2 * margin - side + 1  # of the result
    rows = math.ceil(height / min(math.ceil(height * width / _PIXELS), height))
    parts = math.ceil(height / rows)
    below = margin + parts * rows - height
    padded = jnp.pad(x, ((0, 0), (margin, below), (margin, margin), (0, 0)))

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

    _, y = jax.lax.scan(of_rows, None, jnp.arange(0, parts * rows, rows))
    y = y.reshape(parts, batch, rows, width, -1).swapaxes(0, 1)
    return y.reshape(batch, parts * rows, width, -1)[:, :height]


def _plain(precision, x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers, precision=precision
    )
