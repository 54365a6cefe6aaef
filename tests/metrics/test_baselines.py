"""The baselines store what they say; bicubic resizes as an independent library does."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from gpstoken_jax.metrics.baselines import (
    baseline_size,
    bicubic_baseline,
    jpeg_baseline,
    webp_baseline,
)


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


# JPEG and WebP.

CODECS = {"JPEG": jpeg_baseline, "WEBP": webp_baseline}


@pytest.fixture(scope="module")
def photos():
    crops = [data.astronaut()[:96, 150:278], data.coffee()[90:186, 200:328]]
    return np.stack(crops) / np.float32(127.5) - 1


def _error(images, others):
    return np.square(images - others).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("budget", [900, 2500, 5000])
def test_files_fit_and_use_the_budget(photos, name, budget):
    result = CODECS[name](photos, budget)
    assert result.images.shape == photos.shape and result.images.dtype == np.float32
    assert (result.num_bytes <= budget).all() and (result.num_bytes > 0.75 * budget).all()
    assert np.abs(result.images).max() <= 1


def test_the_highest_quality_that_fits(photos):
    """A file of the next quality, written here, is over the budget; the one reported is not."""
    result = jpeg_baseline(photos, 3000)
    levels = np.rint((photos + 1) * 127.5).astype(np.uint8)
    for image, decoded, size, quality in zip(
        levels, result.images, result.num_bytes, result.quality, strict=True
    ):
        files = {colour: _jpeg(image, int(quality), colour) for colour in (0, 2)}
        (colour,) = (colour for colour, file in files.items() if len(file) == size)
        assert size <= 3000 < len(_jpeg(image, int(quality) + 1, colour))
        read = np.asarray(Image.open(io.BytesIO(files[colour])))
        np.testing.assert_array_equal(np.rint((decoded + 1) * 127.5), read)


def _jpeg(image, quality, colour):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, optimize=True, subsampling=colour)
    return file.getvalue()


@pytest.mark.parametrize("name", CODECS)
def test_more_bytes_are_better(photos, name):
    errors = [_error(photos, CODECS[name](photos, budget).images) for budget in (700, 2000, 8000)]
    assert (np.diff(errors, axis=0) < 0).all()


def test_small_budgets_store_a_smaller_copy_where_it_is_better(photos):
    result = jpeg_baseline(photos, 700)
    assert result.side[0] == 0.5
    file = io.BytesIO()  # what quality 1 at full size would be
    Image.fromarray(np.rint((photos[0] + 1) * 127.5).astype(np.uint8)).save(file, "JPEG", quality=1)
    full = np.asarray(Image.open(file), np.float32) / 127.5 - 1
    assert _error(photos, result.images)[0] < _error(photos[:1], full[None])[0]


@pytest.mark.parametrize("name", CODECS)
def test_a_budget_that_no_file_meets_is_reported_as_it_is(photos, name):
    result = CODECS[name](photos, 20)
    assert (result.num_bytes > 20).all() and (result.side <= 1 / 8).all()
    assert np.isfinite(result.images).all()
    tiny = CODECS[name](photos[:, :3, :5], 20)
    assert tiny.images.shape == (2, 3, 5, 3) and (tiny.side == 1).all()


def test_a_plain_image_needs_little():
    result = jpeg_baseline(np.full((1, 64, 64, 3), 0.2, np.float32), 5000)
    assert result.quality == 100 and _error(result.images, np.float32(0.2)) < 1e-4


def test_large_budgets_keep_the_colour_and_then_everything(photos):
    """At 4:2:0 the colour would be halved whatever the quality."""
    halved = io.BytesIO()
    Image.fromarray(np.rint((photos[0] + 1) * 127.5).astype(np.uint8)).save(
        halved, "JPEG", quality=100, subsampling=2
    )
    halved = np.asarray(Image.open(halved), np.float32) / 127.5 - 1
    result = jpeg_baseline(photos[:1], 30000)
    assert _error(photos[:1], result.images) < 0.5 * _error(photos[:1], halved[None])
    np.testing.assert_allclose(webp_baseline(photos, 10**6).images, photos, atol=1e-6)
