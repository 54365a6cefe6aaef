"""The compiled partition: the regions of the NumPy one, inside jit, vmap'ed devices and grad."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data
from sklearn.datasets import load_sample_images

from gpstoken_jax.partition.complexity import complexities, region_complexity
from gpstoken_jax.partition.device import _chosen_rows, partition_jit
from gpstoken_jax.partition.host import partition
from gpstoken_jax.partition.regions import region_table

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "partition.npz")


def to_grey(rgb: np.ndarray) -> np.ndarray:
    rgb = (rgb / 127.5 - 1).astype(np.float32)
    return 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]


def golden_grey(name: str) -> np.ndarray:
    return to_grey(GOLDEN[f"{name}/rgb_u8"])


def photo_crops(side: int, count: int) -> np.ndarray:
    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    photos = [to_grey(photo) for photo in (*photos, *load_sample_images().images)]
    rng = np.random.default_rng(0)
    crops = []
    for i in range(count):
        grey = photos[i % len(photos)]
        top, left = (rng.integers(0, size - side + 1) for size in grey.shape)
        crops.append(grey[top : top + side, left : left + side])
    return np.stack(crops)


def same_regions(a: np.ndarray, b: np.ndarray) -> bool:
    return set(map(tuple, np.asarray(a).tolist())) == set(map(tuple, np.asarray(b).tolist()))


def jitted(tokens: int, **options):
    return jax.jit(lambda grey, bias=None: partition_jit(grey, tokens, bias=bias, **options))


def test_regions_of_the_release(tokens=256):
    names = sorted({key.split("/")[0] for key in GOLDEN.files if f"boxes_{tokens}" in key})
    geometry, boxes = jitted(tokens)(np.stack([golden_grey(name) for name in names]))
    assert len(names) == 9
    for name, ours, ours_geometry in zip(names, boxes, geometry, strict=True):
        assert same_regions(ours, GOLDEN[f"{name}/boxes_{tokens}"]), name
        assert same_regions(ours_geometry, GOLDEN[f"{name}/geometry_{tokens}"]), name


def test_regions_of_the_release_with_bias():
    bias = GOLDEN["chelsea/bias"]
    _, boxes = jitted(64)(np.stack([golden_grey("chelsea")] * 2), np.stack([bias, bias * 200]))
    assert same_regions(boxes[0], GOLDEN["chelsea/boxes_64_bias"])
    assert same_regions(boxes[1], GOLDEN["chelsea/boxes_64_bias_strong"])


@pytest.mark.parametrize(
    ("key", "options", "size"),
    [("96_mh16_w1.0", {"min_size": 16, "weight": 1.0}, (256, 256)), ("50_200x150", {}, (200, 150))],
)
def test_regions_of_the_release_with_options(key, options, size):
    grey = golden_grey("coffee")[: size[0], : size[1]]
    _, boxes = jitted(int(key.split("_")[0]), **options)(grey[None])
    assert same_regions(boxes[0], GOLDEN[f"coffee/boxes_{key}"])


@pytest.mark.slow
@pytest.mark.parametrize(("side", "tokens", "count"), [(64, 32, 120), (128, 64, 24)])
def test_regions_of_the_numpy_form_on_photos(side, tokens, count):
    grey = photo_crops(side, count)
    _, ours = jitted(tokens)(grey)
    _, reference = partition(grey, tokens)
    agree = [same_regions(a, b) for a, b in zip(ours, reference, strict=True)]
    assert np.mean(agree) >= 0.995


@pytest.mark.parametrize("shape", [(8, 8), (16, 8), (64, 128), (37, 90)])
def test_complexities_of_patches(shape):
    patches = photo_crops(128, 6)[:, : shape[0], : shape[1]]
    ours = jax.jit(complexities, static_argnums=1)(patches, 2.5)
    reference = [region_complexity(patch, 2.5) for patch in patches]
    np.testing.assert_allclose(ours, reference, rtol=2e-3)


def test_flat_and_periodic_images_tie_the_same_way():
    flat = np.zeros((64, 64), np.float32)
    stripes = np.where(np.arange(64) % 8 < 4, 0.5, -0.5).astype(np.float32)
    images = np.stack([flat, flat + stripes, flat + stripes[:, None]])
    _, ours = jitted(23)(images)
    for boxes, reference in zip(ours, partition(images, 23)[1], strict=True):
        assert same_regions(boxes, reference)


def test_inside_grad_and_pmap():
    grey = photo_crops(32, 2)

    def loss(grey):
        geometry, boxes = partition_jit(grey, 8)
        return geometry.sum() + boxes.sum() + (grey**2).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(grey), 2 * grey, rtol=1e-6)
    geometry, _ = jax.pmap(lambda grey: partition_jit(grey, 8), devices=jax.devices()[:1])(
        grey[None]
    )
    np.testing.assert_array_equal(geometry[0], jitted(8)(grey)[0])


def test_an_unusable_image_does_not_touch_its_neighbours():
    grey = photo_crops(32, 3)
    bad = grey.copy()
    bad[1, ::3] = np.nan
    bad[1, 1::3] = 1e30
    _, boxes = jitted(8)(bad)
    _, expected = jitted(8)(grey)
    np.testing.assert_array_equal(boxes[::2], expected[::2])
    assert np.isfinite(boxes).all()


@pytest.mark.parametrize("chunk", [7, 4096])
def test_the_accelerators_form_chooses_the_same_rows(chunk):
    table, grey = region_table(128, 96, 8), photo_crops(128, 3)[:, :, :96]
    choose = jax.jit(
        lambda grey, lazy, chunk: _chosen_rows(
            table, 24, 2.5, (grey, None), lazy=lazy, chunk=chunk
        ),
        static_argnums=(1, 2),
    )
    np.testing.assert_array_equal(choose(grey, False, chunk), choose(grey, True, 64))


def test_one_token_is_the_whole_image():
    geometry, boxes = jitted(1)(jnp.zeros((2, 32, 48)))
    np.testing.assert_array_equal(boxes, [[[-1, -1, 1, 1]]] * 2)
    np.testing.assert_array_equal(geometry, partition(np.zeros((2, 32, 48)), 1)[0])


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="from 1 to 64"):
        partition_jit(jnp.zeros((1, 64, 64)), 65)
    with pytest.raises(ValueError, match=r"must be \[B, H, W\]"):
        partition_jit(jnp.zeros((64, 64)), 4)
    with pytest.raises(ValueError, match="bias must be"):
        partition_jit(jnp.zeros((2, 64, 64)), 4, bias=jnp.zeros((3, 64, 64)))
