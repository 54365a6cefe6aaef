"""The partition against values measured from the published code, and against its own rules."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpstoken_jax.partition.complexity import edge_counts, region_complexity, resize
from gpstoken_jax.partition.geometry import boxes_to_pixels
from gpstoken_jax.partition.host import partition
from gpstoken_jax.partition.regions import max_regions

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "partition.npz")
CASES = [key for key in GOLDEN.files if "/geometry_" in key]
# complexity/boxes refers to images by number.
IMAGES = (
    "astronaut_c",
    "chelsea",
    "coffee",
    "china",
    "rocket",
    "astronaut_full",
    "lowtex_china_sky",
    "const_grey",
    "noise",
)


def grey(name: str) -> np.ndarray:
    rgb = (GOLDEN[f"{name}/rgb_u8"] / 127.5 - 1).astype(np.float32)
    return 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]


def case_arguments(key: str) -> tuple[np.ndarray, int, dict]:
    """Image, token count and options that a key such as coffee/geometry_96_mh16_w1.0 stands for."""
    name, settings_ = key.split("/")
    _, tokens, *options = settings_.split("_")
    image, keywords = grey(name), {}
    for option in options:
        if option.startswith("mh"):
            keywords["min_size"] = int(option[2:])
        elif option.startswith("w"):
            keywords["weight"] = float(option[1:])
        elif option == "bias":
            keywords["bias"] = GOLDEN[f"{name}/bias"]
        elif option == "strong":
            keywords["bias"] = (GOLDEN[f"{name}/bias"] * 200).astype(np.float32)
        else:
            height, width = map(int, option.split("x"))
            image = image[:height, :width]
    return image, int(tokens), keywords


def pixels(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.rint(boxes_to_pixels(boxes, height, width)).astype(int)


def row_set(array: np.ndarray) -> set:
    return set(map(tuple, array.tolist()))


@pytest.mark.parametrize("key", CASES)
def test_same_regions_in_the_same_order_as_the_release(key):
    image, tokens, keywords = case_arguments(key)
    geometry, boxes = partition(image, tokens, **keywords)
    np.testing.assert_array_equal(boxes, GOLDEN[key.replace("geometry", "boxes")])
    np.testing.assert_array_equal(geometry, GOLDEN[key])
    assert geometry.dtype == boxes.dtype == np.float32


@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_complexity_of_single_regions(weight):
    ours = [
        region_complexity(grey(IMAGES[image])[y : y + h, x : x + w], weight)
        for image, y, x, h, w in GOLDEN["complexity/boxes"]
    ]
    np.testing.assert_allclose(ours, GOLDEN[f"complexity/values_w{weight}"], rtol=1e-14)


@pytest.mark.parametrize("where", ["0_0_256_256", "40_60_32_16", "100_90_8_8"])
def test_resize_and_histogram_are_exact(where):
    y, x, h, w = map(int, where.split("_"))
    region = grey("astronaut_c")[y : y + h, x : x + w]
    key = f"debug/astronaut_c_{where}"
    np.testing.assert_array_equal(resize((region + 1) / 2), GOLDEN[f"{key}/resized"])
    counts = GOLDEN[f"{key}/hist"]
    assert not counts[:256].any()
    np.testing.assert_array_equal(edge_counts(region), counts[256:])


def test_batch_equals_one_by_one_and_jax_arrays_are_welcome():
    images = np.stack([grey(name)[:64, :96] for name in IMAGES[:3]])
    geometry, boxes = partition(jnp.asarray(images), 20)
    assert isinstance(geometry, np.ndarray)
    assert geometry.shape == (3, 20, 5) and boxes.shape == (3, 20, 4)
    for image, one_geometry, one_boxes in zip(images, geometry, boxes, strict=True):
        again_geometry, again_boxes = partition(image, 20)
        np.testing.assert_array_equal(one_geometry, again_geometry)
        np.testing.assert_array_equal(one_boxes, again_boxes)


def test_one_bias_for_all_images_or_one_each():
    images = np.stack([grey("china")[:64, :64], grey("coffee")[:64, :64]])
    bias = np.zeros((64, 64), np.float32)
    bias[:32, :32] = 1e4
    _, shared = partition(images, 16, bias=bias)
    _, each = partition(images, 16, bias=np.stack([bias, 0 * bias]))
    np.testing.assert_array_equal(shared[0], each[0])
    np.testing.assert_array_equal(each[1], partition(images[1], 16)[1])
    inside = (pixels(shared[0], 64, 64)[:, 2:] < 32).all(axis=-1)
    assert inside.sum() >= 13  # all others are one region a quarter


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    height=st.integers(2, 90),
    width=st.integers(2, 90),
    min_size=st.integers(1, 12),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_regions_tile_the_image(height, width, min_size, fraction, seed):
    most = min(max_regions(height, width, min_size), 200)
    tokens = 1 + round(fraction * (most - 1))
    image = np.random.default_rng(seed).uniform(-1, 1, (height, width)).astype(np.float32)
    geometry, boxes = partition(image, tokens, min_size=min_size)
    cover = np.zeros((height, width), int)
    for left, top, right, bottom in pixels(boxes, height, width):
        cover[top : bottom + 1, left : right + 1] += 1
    assert len(boxes) == tokens and (cover == 1).all()
    assert np.abs(geometry[:, 3:]).max() <= 1 and (geometry[:, 2] == 0).all()


def test_every_region_that_exists_can_be_asked_for():
    assert max_regions(256, 256, 8) == 1024
    noise = grey("noise")[:64, :64]
    _, boxes = partition(noise, 64)
    corners = {(x, y, x + 7, y + 7) for x in range(0, 64, 8) for y in range(0, 64, 8)}
    assert row_set(pixels(boxes, 64, 64)) == corners


@pytest.mark.parametrize(
    ("shape", "tokens", "message"),
    [
        ((64, 64), 65, "from 1 to 64 for a 64 x 64 image with min_size 8, got 65"),
        ((8, 8), 2, "from 1 to 1 for a 8 x 8 image"),
        ((64, 64), 0, "got 0"),
        ((64,), 4, r"\[H, W\] or \[B, H, W\]"),
        ((2, 64, 64, 3), 4, r"\[H, W\] or \[B, H, W\]"),
        ((1, 64), 4, "sides of 2 or more"),
        ((0, 64, 64), 4, "sides of 2 or more"),
    ],
)
def test_impossible_shapes_and_counts_are_refused(shape, tokens, message):
    with pytest.raises(ValueError, match=message):
        partition(np.zeros(shape, np.float32), tokens)


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "not finite"), (np.inf, "not finite"), (255.0, r"in \[-1, 1\]")]
)
def test_bad_values_are_refused(value, message):
    image = np.zeros((32, 32), np.float32)
    image[3, 4] = value
    with pytest.raises(ValueError, match=message):
        partition(image, 4)


def test_bad_bias_and_min_size_are_refused():
    image = np.zeros((2, 32, 32), np.float32)
    with pytest.raises(ValueError, match="bias must have the shape"):
        partition(image, 4, bias=np.zeros((32, 31)))
    with pytest.raises(ValueError, match="bias must have the shape"):
        partition(image, 4, bias=np.zeros((3, 32, 32)))
    with pytest.raises(ValueError, match="not finite"):
        partition(image, 4, bias=np.full((32, 32), np.nan))
    with pytest.raises(ValueError, match="min_size must be at least 1"):
        partition(image, 4, min_size=0)
