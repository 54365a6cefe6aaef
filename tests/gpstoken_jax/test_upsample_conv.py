"""The fused upsampling convolution against its definition: repeat pixels, then convolve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.layers import UpsampleConv, conv, upsample_nearest


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 4), (1, 2, 9, 2)])
def test_values_and_gradients_are_those_of_the_two_steps(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    fused, plain = UpsampleConv(6), conv(6, 3, jnp.float32, "plain")
    params = fused.init(jax.random.key(1), x)
    params["params"]["bias"] = jax.random.normal(jax.random.key(2), (6,))

    def loss(apply):
        return lambda params, x: jnp.sin(apply(params, x)).sum()

    def in_two_steps(params, x):
        return plain.apply(params, upsample_nearest(x))

    expected = in_two_steps(params, x)
    assert expected.shape == (shape[0], 2 * shape[1], 2 * shape[2], 6)
    np.testing.assert_allclose(fused.apply(params, x), expected, atol=2e-6)
    ours = jax.grad(loss(fused.apply), argnums=(0, 1))(params, x)
    theirs = jax.grad(loss(in_two_steps), argnums=(0, 1))(params, x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_compute_dtype_is_kept():
    x = jnp.ones((1, 4, 4, 2))
    fused = UpsampleConv(3, jnp.bfloat16)
    params = fused.init(jax.random.key(0), x)
    assert jax.tree.leaves(params)[0].dtype == jnp.float32
    assert fused.apply(params, x).dtype == jnp.bfloat16
