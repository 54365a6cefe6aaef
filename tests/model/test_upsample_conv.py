"""The fused upsampling convolution against its definition: repeat pixels, then convolve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gpstoken_jax.model.layers import conv
from gpstoken_jax.model.upsample_conv import UpsampleConv


@pytest.mark.parametrize(
    "shape, features",  # wide ones have a gradient of their own on a CPU, a few rows at a time
    [
        ((2, 5, 7, 3), 6),
        ((1, 1, 1, 4), 6),
        ((1, 2, 9, 2), 6),
        ((2, 5, 7, 32), 40),
        ((1, 40, 33, 32), 32),
    ],
)
def test_values_and_gradients_are_those_of_the_two_steps(shape, features):
    x = jax.random.normal(jax.random.key(0), shape)
    fused, plain = UpsampleConv(features), conv(features, 3, jnp.float32, "plain")
    params = fused.init(jax.random.key(1), x)
    params["params"]["bias"] = jax.random.normal(jax.random.key(2), (features,))

    def loss(apply):
        return lambda params, x: jnp.sin(apply(params, x)).sum()

    def in_two_steps(params, x):
        return plain.apply(params, x.repeat(2, axis=1).repeat(2, axis=2))

    expected = in_two_steps(params, x)
    assert expected.shape == (shape[0], 2 * shape[1], 2 * shape[2], features)
    np.testing.assert_allclose(fused.apply(params, x), expected, atol=4e-6)
    ours = jax.grad(loss(fused.apply), argnums=(0, 1))(params, x)
    theirs = jax.grad(loss(in_two_steps), argnums=(0, 1))(params, x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_parameters_are_those_of_the_convolution():
    x = jnp.ones((1, 4, 4, 2))
    ours = UpsampleConv(3).init(jax.random.key(0), x)
    plain = conv(3, 3, jnp.float32, "plain").init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)


def test_bfloat16_is_as_close_as_in_two_steps():
    """Summing the kernel first must not cost accuracy: it is summed in float32."""
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 32))
    fused, plain = UpsampleConv(16, jnp.bfloat16), conv(16, 3, jnp.bfloat16, "plain")
    params = fused.init(jax.random.key(1), x)
    assert fused.apply(params, x).dtype == jnp.bfloat16
    exact = UpsampleConv(16).apply(params, x)
    doubled = x.repeat(2, axis=1).repeat(2, axis=2)
    error, plain_error = (
        np.abs(y.astype(jnp.float32) - exact).mean()
        for y in (fused.apply(params, x), plain.apply(params, doubled))
    )
    assert 0 < error < 1.2 * plain_error


def test_forward_and_second_derivatives():
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 2))
    params = UpsampleConv(2).init(jax.random.key(1), x)
    check_grads(lambda p, x: jnp.sin(UpsampleConv(2).apply(p, x)), (params, x), order=2)
