"""Resizing and cropping against direct arithmetic and Pillow."""

import numpy as np
import pytest

from gpstoken_jax.data import transforms
from gpstoken_jax.data.resize import RESIZES

PHOTO = np.random.default_rng(0).integers(0, 256, (60, 91, 3), dtype=np.uint8)


def test_random_crop_reaches_every_place_and_stays_inside():
    rng = np.random.default_rng(0)
    columns = np.broadcast_to(np.arange(7, dtype=np.uint8)[None, :, None], (4, 7, 3))
    starts = {int(transforms.random_crop(columns, 4, rng)[0, 0, 0]) for _ in range(100)}
    assert starts == {0, 1, 2, 3}


def test_random_resized_crop_has_the_asked_share_of_the_area():
    rng = np.random.default_rng(0)
    boxes = [transforms._random_rectangle(640, 480, (0.25, 0.5), rng) for _ in range(200)]
    shares = np.array([w * h / (640 * 480) for _, _, w, h in boxes])
    aspects = np.array([w / h for _, _, w, h in boxes])
    assert 0.245 < shares.min() < 0.3 and 0.45 < shares.max() < 0.505
    assert 0.74 < aspects.min() < 0.8 and 1.25 < aspects.max() < 1.35
    assert all(x >= 0 and y >= 0 and x + w <= 640 and y + h <= 480 for x, y, w, h in boxes)


@pytest.mark.parametrize("resize", RESIZES)
def test_random_resized_crop_of_the_whole_image_is_a_resize(resize):
    square = PHOTO[:60, :60]
    cut = transforms.random_resized_crop(square, 24, (1.0, 1.0), np.random.default_rng(0), resize)
    assert cut.shape == (24, 24, 3)
    # Only aspect ratio 1 fits, so this is the fallback: the central square, here all of it.
    np.testing.assert_array_equal(cut, transforms.resize_to_cover(square, 24, resize))


@pytest.mark.parametrize("crop", transforms.CROPS)
@pytest.mark.parametrize("shape", [(5, 9), (64, 64), (200, 40)])
def test_any_size_becomes_the_image_size(crop, shape):
    pixels = np.full((*shape, 3), 77, np.uint8)
    side = transforms.working_side(32, crop, (0.25, 1.0))
    fitted = transforms.fit(pixels, side, crop, "antialias")
    cut = transforms.augment(
        fitted, 32, crop, (0.25, 1.0), True, False, "antialias", np.random.default_rng(0)
    )
    assert cut.shape == (32, 32, 3) and (cut == 77).all()


def test_working_side_leaves_enough_for_the_smallest_random_crop():
    assert transforms.working_side(256, "center", (0.25, 1.0)) == 256
    side = transforms.working_side(256, "random_resized", (0.25, 1.0))
    assert np.sqrt(side * side * 0.25 * 3 / 4) >= 256


def test_flip_mirrors_half_of_the_images():
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[None, :, None], (8, 8, 3))
    rng = np.random.default_rng(0)
    firsts = [
        int(transforms.augment(ramp, 8, "center", (1, 1), True, False, "antialias", rng)[0, 0, 0])
        for _ in range(400)
    ]
    assert set(firsts) == {0, 7} and 150 < firsts.count(7) < 250
    assert (
        transforms.augment(ramp, 8, "center", (1, 1), False, False, "antialias", rng)[0, 0, 0] == 0
    )


def test_to_unit_range_is_exact_at_the_ends_and_monotonic():
    values = transforms.to_unit_range(np.arange(256, dtype=np.uint8))
    assert values.dtype == np.float32 and values[0] == -1 and values[255] == 1
    np.testing.assert_allclose(values, np.arange(256) / 127.5 - 1, atol=2e-7)


def test_unknown_crop_is_named():
    with pytest.raises(ValueError, match=r"data\.crop='middle'.*random_resized"):
        transforms.check_crop("middle")


def test_colours_come_in_every_order():
    pixels = np.zeros((8, 8, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    rng = np.random.default_rng(0)
    seen = {
        tuple(
            transforms.augment(pixels, 8, "center", (1, 1), False, True, "antialias", rng)[
                0, 0
            ].tolist()
        )
        for _ in range(100)
    }
    assert len(seen) == 6
