"""Boxes and pictures become biases of a known meaning, and move tokens there."""

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.partition.complexity import region_complexity
from gpstoken_jax.partition.focus import (
    box_strength,
    focus_bias,
    focus_mask,
    parse_focus,
    read_focus,
    read_strength_map,
)
from gpstoken_jax.partition.host import partition

SIZE = (64, 64)
LEFT_HALF = (-1, -1, 0, 1)


def test_a_box_covers_its_pixels_and_boxes_add_up():
    strength = box_strength((8, 16), [LEFT_HALF, (-1, -1, 1, 0)], [2, -0.5])
    assert strength.shape == (8, 16)
    expected = np.zeros((8, 16))
    expected[:, :8] += 2
    expected[:4] -= 0.5
    np.testing.assert_array_equal(strength, expected)


@pytest.mark.parametrize("weight", [2.5, 1.0])
def test_strength_one_is_more_than_any_texture(weight):
    """The bias of a pixel is the most that edges can give it: 8 bits of entropy."""
    bias = focus_bias((8, 8), [(-1, -1, 1, 1)], [1.0], weight=weight)
    np.testing.assert_allclose(bias, 8**weight, rtol=1e-6)
    rng = np.random.default_rng(0)
    busiest = max(
        region_complexity(np.sign(noise) * np.abs(noise) ** 0.3, weight)
        for noise in rng.uniform(-1, 1, (20, 64, 64))
    )
    assert 0.5 * 8**weight < busiest / 64**2 < 8**weight


def test_a_flat_focus_gets_as_many_tokens_as_noise_would():
    """Left: noise; right: flat. The stronger the focus on the right, the more tokens it has."""
    image = np.zeros(SIZE, np.float32)
    image[:, :32] = np.random.default_rng(0).uniform(-1, 1, (64, 32))

    def right(strength):
        bias = focus_bias(SIZE, [(0, -1, 1, 1)], [strength])
        geometry, _ = partition(image, 32, min_size=4, bias=bias)
        return int((geometry[:, 3] > 0).sum())

    counts = [right(strength) for strength in (-1, 0, 0.1, 0.5, 1, 4)]
    assert counts == sorted(counts)
    assert counts[1] == 1
    assert counts[4] >= 16
    assert counts[5] > 24


def test_focus_texts():
    box, strength = parse_focus("0, 0.25,0.5,0.75,2")
    np.testing.assert_allclose(box, (-1, -0.5, 0, 1))
    assert strength == 2
    found = read_focus((8, 8), ["0,0,1,0.1,1", "0.9,0,0.1,1,-3"])
    expected = box_strength((8, 8), [(-1, -1, 1, -0.8), (0.8, -1, 1, 1)], [1, -3])
    np.testing.assert_array_equal(found, expected)
    assert read_focus((8, 8), []) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,1,1", "five numbers"),
        ("a,0,1,1,1", "five numbers"),
        ("0.5,0,0.6,1,1", "at most 1"),
        ("-0.1,0,0.5,1,1", "fractions"),
        ("0,0,0,1,1", "fractions"),
        ("nan,0,0,1,1", "fractions"),
    ],
)
def test_wrong_texts_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_focus(text)


def test_boxes_that_mean_nothing_are_named():
    with pytest.raises(ValueError, match="holds no pixel of an image of 8 x 8"):
        focus_bias((8, 8), [(0.01, 0.01, 0.02, 0.02)], [1])
    with pytest.raises(ValueError, match="finite"):
        focus_bias((8, 8), [LEFT_HALF], [np.inf])


def test_strength_maps(tmp_path):
    grey = np.zeros((20, 40), np.uint8)
    grey[:, 20:] = 255
    Image.fromarray(grey).convert("RGB").save(tmp_path / "map.png")
    strength = read_strength_map(tmp_path / "map.png", (10, 20))
    assert strength.shape == (10, 20)
    np.testing.assert_array_equal(strength[:, [0, 5, 14, 19]], [[0, 0, 1, 1]] * 10)
    (tmp_path / "no.png").write_text("no picture")
    for name in ("no.png", "gone.png"):
        with pytest.raises(ValueError, match=name):
            read_strength_map(tmp_path / name, SIZE)


def test_inside_and_outside():
    strength = box_strength((4, 8), [LEFT_HALF, (0.9, -1, 1, 1)], [5, 0.1])
    inside = focus_mask(strength)
    np.testing.assert_array_equal(inside[0], [1, 1, 1, 1, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="nothing"):
        focus_mask(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="whole image"):
        focus_mask(np.ones((4, 4)))


def test_what_sticks_out_of_the_image_is_cut_off():
    inside, out = (box_strength((8, 6), [box], [1.0]) for box in ((0, -1, 1, 1), (0, -1.5, 1.2, 1)))
    np.testing.assert_array_equal(inside, out)
    with pytest.raises(ValueError, match="leaves the image"):
        box_strength((8, 6), [(0, 0, 4, 4)], [1.0])
