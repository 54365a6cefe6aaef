"""Rounding with a straight-through gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.losses.quantisation import round_straight_through
from gpstoken_jax.tokens.codec import TokenCodec


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).normal(size=(3, 8, 5)).astype(np.float32)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_levels_are_those_of_the_codec(tokens, bits):
    codec = TokenCodec.fit(tokens, bits)
    wanted = codec.values(codec.levels(tokens))
    np.testing.assert_allclose(round_straight_through(tokens, bits), wanted, atol=1e-5)


@pytest.mark.parametrize("bits", [0, 3])
def test_the_gradient_passes(tokens, bits):
    weights = jnp.asarray(tokens[::-1])
    grad = jax.grad(lambda x: (weights * round_straight_through(x, bits)).sum())(tokens)
    np.testing.assert_array_equal(grad, weights)


def test_no_bits_and_equal_values_change_nothing(tokens):
    np.testing.assert_array_equal(round_straight_through(tokens, 0), tokens)
    equal = np.full((2, 3, 4), 0.25, np.float32)
    np.testing.assert_array_equal(round_straight_through(equal, 3), equal)
