"""Convolutions and their gradients beside those of XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.model.convolution import convolve
from gpstoken_jax.model.upsample_conv import upsample_conv
from gpstoken_jax.runtime.platforms import tracing_for


def plain(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def draw(shape, kernel_side=3):
    """Maps, a kernel, and tangents of both."""
    *map_shape, d = shape
    rng = np.random.default_rng(0)
    kernel_shape = kernel_side, kernel_side, map_shape[-1], d
    shapes = map_shape, kernel_shape, map_shape, kernel_shape
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def both(function, *arguments):
    """Of our convolution and the plain one."""
    return [jax.jit(lambda *a, conv=conv: function(conv, *a))(*arguments) for conv in CONVOLUTIONS]


CONVOLUTIONS = convolve, plain
SHAPES = [
    ((2, 5, 7, 32, 48), 3),
    ((1, 6, 4, 40, 32), 5),
    ((2, 4, 4, 3, 64), 3),
    ((2, 4, 4, 64, 32), 1),
    ((2, 41, 60, 32, 32), 3),  # in parts of so many rows that the last one has less
]


@pytest.mark.parametrize("shape, side", SHAPES)
def test_values_and_derivatives_are_those_of_the_plain_one(shape, side):
    x, kernel, dx, dkernel = draw(shape, side)

    def derivatives(conv, x, kernel, dx, dkernel):
        def loss(x, kernel):
            return jnp.sin(conv(x, kernel)).sum()

        forward = jax.jvp(conv, (x, kernel), (dx, dkernel))
        second = jax.jvp(jax.grad(loss, (0, 1)), (x, kernel), (dx, dkernel))
        vmapped = jax.vmap(jax.grad(loss, 1), (0, None))(x[:, None], kernel)
        return forward, second, vmapped

    ours, expected = both(derivatives, x, kernel, dx, dkernel)
    for a, b in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    "conv, side, positions", [(convolve, 3, 9), (convolve, 1, 1), (upsample_conv, 3, 4)]
)
def test_kernels_gradient_is_products_on_a_cpu_and_a_convolution_elsewhere(conv, side, positions):
    def program(channels, platform):
        x, kernel, *_ = draw((1, 4, 4, channels, channels), side)
        grad = jax.jit(jax.grad(lambda kernel: jnp.sin(conv(x, kernel)).sum()))
        with tracing_for(None):
            return grad.trace(kernel).lower(lowering_platforms=(platform,)).as_text()

    wide = program(32, "cpu")
    assert wide.count("stablehlo.dot_general") >= positions
    forward = 1
    assert wide.count("stablehlo.convolution") == forward
    for text in (program(32, "cuda"), program(16, "cpu")):  # narrow ones gain nothing
        assert text.count("stablehlo.convolution") == forward + 1


@pytest.mark.parametrize("conv", [convolve, upsample_conv])
def test_no_copies_of_the_map_wait_for_the_backward_pass(conv):
    x, kernel, *_ = draw((2, 8, 8, 32, 32))
    _, backward = jax.vjp(conv, x, kernel)
    kept = sum(leaf.size for leaf in jax.tree.leaves(backward))
    assert kept <= x.size + 4 * kernel.size  # the kernel's sums among them


@pytest.mark.parametrize("conv, positions", [(convolve, 9), (upsample_conv, 4)])
def test_nothing_is_computed_for_what_is_not_differentiated(conv, positions):
    x, kernel, *_ = draw((1, 4, 4, 32, 32))

    def count(argument):
        def loss(*arguments):
            return jnp.sin(conv(*arguments)).sum()

        text = jax.jit(jax.grad(loss, argument)).lower(x, kernel).as_text()
        return [text.count(f"stablehlo.{kind}") for kind in ("convolution", "dot_general")]

    by_map, by_kernel = count(0), count(1)
    assert (by_map[0], by_kernel[0]) == (2, 1)  # the forward pass's, and the map's gradient
    assert by_kernel[1] >= by_map[1] + positions  # the kernel's gradient
