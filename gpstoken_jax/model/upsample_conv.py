"""Doubling a map by repeating pixels, then a 3x3 convolution, as one convolution of the small map.

Of the 3 x 3 pixels under the kernel only 2 x 2 differ, in one of four patterns: four kernels of
2 x 2 summed weights on the small map give the four pixels that each of its pixels becomes. The same
sums in 4/9 of the operations.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gpstoken_jax.model.convolution import by_kernel, is_zero, on_wide_cpu, products


class UpsampleConv(nn.Module):
    """Doubles height and width by repeating pixels and convolves; parameters of a 3x3 ``nn.Conv``.

    Attributes:
      features: output channels.
      dtype: compute dtype.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w d"]:
        """Doubles height and width, then convolves."""
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return upsample_conv(x.astype(self.dtype), kernel) + bias.astype(self.dtype)


@jax.custom_jvp
def upsample_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b 2*h 2*w d"]:
    """The 3x3 convolution of the doubled map; the compute dtype is that of ``x``."""
    return _interleaved(_conv(x, _kernels_of_repeated_pixels(kernel).astype(x.dtype)))


@partial(upsample_conv.defjvp, symbolic_zeros=True)
def _upsample_conv_jvp(primals, tangents):
    """The kernel's derivative takes the two steps, or products on a CPU.

    XLA on a CPU has no fast gradient of kernels of even size: it takes twenty times as long.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    parts = []
    if not is_zero(dx):
        parts.append(upsample_conv(dx, kernel))
    if not is_zero(dkernel):
        parts.append(on_wide_cpu(_by_products, _in_two_steps, x, dkernel))
    return upsample_conv(x, kernel), sum(parts)


def _by_products(x, kernel):
    return _interleaved(products(x, _kernels_of_repeated_pixels(kernel).astype(x.dtype)))


def _in_two_steps(x, kernel):
    return by_kernel(x.repeat(2, axis=1).repeat(2, axis=2), kernel.astype(x.dtype))


def _interleaved(windows: Float[Array, "b h+1 w+1 4*d"]) -> Float[Array, "b 2*h 2*w d"]:
    """Pixels of the doubled map; the windows go one beyond the small map on each side.

    Output pixel 2 i + r takes window i + r.
    """
    b, h, w = windows.shape[0], windows.shape[1] - 1, windows.shape[2] - 1
    windows = windows.reshape(b, h + 1, w + 1, 2, 2, -1)
    rows = [
        jnp.stack([windows[:, r : r + h, s : s + w, r, s] for s in (0, 1)], axis=3) for r in (0, 1)
    ]
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, -1)


def _conv(x: Float[Array, "b h w c"], kernel: Float[Array, "p q c d"]):
    padding = ((1, 1), (1, 1))
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _kernels_of_repeated_pixels(kernel: Float[Array, "3 3 c d"]) -> Float[Array, "2 2 c 4*d"]:
    """Sums of a 3x3 kernel's rows and columns that fall on the same pixel, for each (row, column).

    The first of two repeated pixels sees its neighbour once and itself twice, the second itself
    twice and its other neighbour once.
    """
    sums = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
    kernels = jnp.einsum("rpy,sqx,yxcd->pqcrsd", sums, sums, kernel, precision="highest")
    return kernels.reshape(2, 2, kernel.shape[2], -1)
