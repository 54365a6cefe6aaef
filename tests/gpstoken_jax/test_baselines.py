"""The bicubic baseline stores what it says and resizes as an independent library does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from gpstoken_jax.baselines import baseline_size, bicubic_baseline


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(3, 5000))
def test_size_fits_and_nothing_larger_does(height, width, num_values):
    rows, columns = baseline_size(height, width, num_values)
    assert 1 <= rows <= height and 1 <= columns <= width
    assert rows * columns * 3 <= num_values
    if 1 < rows < height:
        assert (rows + 1) * round((rows + 1) * width / height) * 3 > num_values


@pytest.mark.parametrize(
    ("shape", "num_values", "expected"),
    [
        ((256, 256), 128 * 21, (29, 29)),  # M128: 2,688 numbers, 29 x 29 x 3 = 2,523
        ((64, 64), 64 * 13, (16, 16)),
        ((100, 200), 600, (10, 20)),
        ((1, 1000), 30, (1, 10)),
        ((16, 16), 10**6, (16, 16)),
    ],
)
def test_sizes_worked_out_by_hand(shape, num_values, expected):
    assert baseline_size(*shape, num_values) == expected


def test_enough_values_return_the_image():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(bicubic_baseline(images, 16 * 12 * 3), images, atol=1e-6)


def test_agrees_with_eight_bit_resizing_up_to_rounding():
    photo = 64 + data.astronaut()[:128, 100:228] // 2  # far enough from 0 and 255 not to be clipped
    small = Image.fromarray(photo).resize((20, 20), Image.Resampling.BICUBIC)
    expected = np.asarray(small.resize((128, 128), Image.Resampling.BICUBIC), np.float32)
    ours = bicubic_baseline(photo[None] / np.float32(127.5) - 1, 20 * 20 * 3)[0]
    assert np.abs((ours + 1) * 127.5 - expected).max() < 3  # of 255: two roundings


def test_smooth_images_survive_and_values_stay_in_range():
    ramp = np.linspace(-1, 1, 64, dtype=np.float32)
    ramp = np.broadcast_to(ramp[None, :, None, None], (1, 64, 64, 3))
    assert np.abs(bicubic_baseline(ramp, 16 * 16 * 3) - ramp)[:, 4:-4].max() < 0.02
    edge = np.where(ramp > 0, 1, -1)
    shrunk = bicubic_baseline(edge, 16 * 16 * 3)
    assert shrunk.min() == -1 and shrunk.max() == 1 and shrunk.dtype == np.float32


def test_no_pixel_fits():
    with pytest.raises(ValueError, match="3 values"):
        baseline_size(8, 8, 2)
