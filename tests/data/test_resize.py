"""Bringing images to size: against OpenCV's own output, and direct arithmetic."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.data import resize_and_crop
from gpstoken_jax.data.resize import (
    RESIZES,
    center_crop,
    covering_size,
    resize_of,
    resize_to,
    resize_to_cover,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "resize.npz")
CASES = sorted(name.split("/")[0] for name in GOLDEN.files if name.endswith("/input"))
PHOTO = np.random.default_rng(0).integers(0, 256, (60, 91, 3), dtype=np.uint8)


@pytest.mark.parametrize("case", CASES)
def test_published_is_opencv_to_the_bit(case):
    side = int(case.split("_")[-1])
    made = resize_and_crop(GOLDEN[f"{case}/input"], side, resize="published")
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, GOLDEN[f"{case}/output"])


def test_antialias_is_pillow_bilinear():
    expected = np.asarray(Image.fromarray(PHOTO).resize((45, 30), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_to_cover(PHOTO, 30, "antialias"), expected)


def test_antialias_averages_stripes_that_published_keeps():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::3] = 255
    for resize, spread in (("antialias", 60), ("published", 127)):
        shrunk = resize_and_crop(stripes, 16, resize=resize)[:, 2:-2].astype(int)
        assert (np.ptp(shrunk) <= spread) == (resize == "antialias")


def test_published_halving_is_the_mean_of_four_pixels():
    pixels = PHOTO[:, :90]
    quads = pixels.reshape(30, 2, 45, 2, 3).mean((1, 3))
    np.testing.assert_array_equal(resize_to(pixels, (30, 45), "published"), np.floor(quads + 0.5))


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 200), (40, 40), (129, 64)])
@pytest.mark.parametrize("size", [1, 16, 40, (16, 48), (48, 16)])
def test_a_flat_image_of_any_size_stays_flat(resize, shape, size):
    made = resize_and_crop(np.full((*shape, 3), 201, np.uint8), size, resize=resize)
    assert made.shape == (*((size, size) if isinstance(size, int) else size), 3)
    assert (made == 201).all()


@pytest.mark.parametrize(
    ("shape", "size", "published", "antialias"),
    [
        ((60, 91), 30, (30, 46), (30, 45)),  # 45.5: to even, or truncated
        ((60, 93), 30, (30, 46), (30, 46)),  # 46.5
        ((91, 60), 30, (46, 30), (45, 30)),
        ((10, 13), 32, (32, 42), (32, 41)),  # 41.6, enlarged
        ((40, 40), 16, (16, 16), (16, 16)),
        ((60, 91), (32, 64), (42, 64), (42, 64)),  # flatter than the image: the width decides
        ((60, 91), (64, 32), (64, 97), (64, 97)),
        ((100, 200), (32, 64), (32, 64), (32, 64)),
        ((7, 9), (32, 64), (50, 64), (49, 64)),
        ((16, 23), 16, (16, 23), (16, 23)),  # fits already
    ],
)
def test_covers_and_fits_one_side(shape, size, published, antialias):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for resize, expected in (("published", published), ("antialias", antialias)):
        assert resize_to_cover(pixels, size, resize).shape == (*expected, 3)


def _sizes(count):
    """Shapes of images and of crops, of every relation to each other; some exact halves."""
    rng = np.random.default_rng(0)
    for number in range(count):
        size = tuple(rng.integers(1, 40, 2).tolist())
        shape = tuple(rng.integers(1, 90, 2).tolist())
        yield (2 * size[0], 2 * size[1] + 2 * number) if number % 5 == 0 else shape, size


@pytest.mark.parametrize("resize", ["published", "antialias"])
def test_only_the_crop_is_computed_to_the_same_bits(resize):
    rng = np.random.default_rng(1)
    for shape, size in _sizes(60):
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        whole = center_crop(resize_to_cover(pixels, size, resize), size, resize)
        for picture in (pixels, Image.fromarray(pixels)):
            made = resize_and_crop(picture, size, resize=resize)
            np.testing.assert_array_equal(made, whole, err_msg=f"{shape} {size}")


def test_fast_is_antialias_within_a_level():
    rng = np.random.default_rng(1)
    for shape, size in _sizes(60):
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert covering_size(shape, size, "fast") == covering_size(shape, size, "antialias")
        exact = resize_and_crop(pixels, size, resize="antialias").astype(int)
        off = np.abs(resize_and_crop(Image.fromarray(pixels), size, resize="fast") - exact)
        assert off.max() <= 1, (shape, size)
        assert size != covering_size(shape, size, "fast") or not off.any()  # nothing to cut


@pytest.mark.parametrize("height", range(4, 14))
def test_center_crop_rounds_half_down_or_to_even(height):
    rows = np.broadcast_to(np.arange(height, dtype=np.uint8)[:, None, None], (height, 4, 3))
    assert center_crop(rows, 4, "published")[0, 0, 0] == (height - 4) // 2
    assert center_crop(rows, 4, "antialias")[0, 0, 0] == round((height - 4) / 2)


@pytest.mark.parametrize(
    ("pixels", "size", "resize", "words"),
    [
        (PHOTO.astype(np.float32), 8, "published", "float32"),
        (PHOTO[..., 0], 8, "published", r"\(60, 91\)"),
        (PHOTO[:0], 8, "published", r"\(0, 91, 3\)"),
        (PHOTO, 0, "published", "at least 1"),
        (PHOTO, 8, "nearest", "data.resize='nearest'"),
        (Image.fromarray(PHOTO).convert("CMYK"), 8, "antialias", r'CMYK.*convert\("RGB"\)'),
        (Image.fromarray(PHOTO).convert("L"), 8, "fast", "L, not RGB"),
    ],
)
def test_refuses_what_it_cannot_bring_to_size(pixels, size, resize, words):
    with pytest.raises(ValueError, match=words):
        resize_and_crop(pixels, size, resize=resize)


def test_configs_from_before_the_field_antialias():
    assert resize_of(object()) == "antialias"
