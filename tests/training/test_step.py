"""Parts of the pure step."""

import jax
import numpy as np

from gpstoken_jax.data.transforms import to_unit_range
from gpstoken_jax.training.step import scaled


def test_images_are_scaled_on_the_device_to_the_bits_of_the_host():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    made = jax.jit(scaled)(pixels)
    np.testing.assert_array_equal(made, to_unit_range(pixels))
    assert made.dtype == np.float32


def test_images_of_floats_stay():
    images = np.random.default_rng(0).uniform(-1, 1, (1, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(scaled)(images), images)
