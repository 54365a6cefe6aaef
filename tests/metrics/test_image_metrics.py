"""Image metrics against scikit-image, and means that do not depend on how the data is split."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from gpstoken_jax.metrics.catalogue import METRICS
from gpstoken_jax.metrics.image import (
    PIXEL_METRICS,
    Mean,
    accumulate,
    compute_means,
    dataset_psnr,
    image_metrics,
    local_psnr,
    merge_means,
    psnr,
    ssim,
    to_unit_range,
)


@pytest.fixture(scope="module")
def pairs():
    """Three photo crops in [0, 1] and the same ones after noise, a shift, and a darkening."""
    photos = [
        data.astronaut()[:64, 150:230],
        data.coffee()[90:154, 200:280],
        data.cat()[40:104, 60:140],
    ]
    truth = np.stack(photos).astype(np.float32) / 255
    noisy = truth[0] + np.random.default_rng(0).normal(0, 0.1, truth[0].shape)
    changed = np.stack([noisy, np.roll(truth[1], 2, axis=1), truth[2] * 0.7])
    return truth, np.clip(changed, 0, 1).astype(np.float32)


def test_psnr_matches_scikit_image(pairs):
    expected = [
        skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1)
        for a, b in zip(*pairs, strict=True)
    ]
    np.testing.assert_allclose(psnr(*pairs), expected, rtol=1e-5)


def test_ssim_matches_scikit_image(pairs):
    expected = [
        skimage.metrics.structural_similarity(
            a.astype(np.float64),
            b.astype(np.float64),
            data_range=1,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(*pairs, strict=True)
    ]
    np.testing.assert_allclose(ssim(*map(jnp.asarray, pairs)), expected, atol=2e-5)


def _similarity(a, b, **options):
    """scikit-image's, with everything that is not named left at its defaults."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return skimage.metrics.structural_similarity(a, b, data_range=1, **options)


def test_uniform_ssim_is_the_default_of_scikit_image(pairs):
    expected = [_similarity(a, b, channel_axis=-1) for a, b in zip(*pairs, strict=True)]
    found = ssim(*map(jnp.asarray, pairs), window="uniform")
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_variants_on_luma_match_scikit_image(pairs):
    """rgb2ycbcr of scikit-image is MATLAB's: luma from 16 to 235."""
    studio = [skimage.color.rgb2ycbcr(x.astype(np.float64))[..., 0] / 255 for x in pairs]
    full = [(y - 16 / 255) * 255 / 219 for y in studio]  # 65.481, 128.553, 24.966 of 219 are BT.601
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    psnr_of = skimage.metrics.peak_signal_noise_ratio
    by_image = {
        name: list(zip(*images, strict=True)) for name, images in (("s", studio), ("f", full))
    }
    expected = {
        "psnr_luma": [psnr_of(a, b, data_range=1) for a, b in by_image["f"]],
        "psnr_luma_studio": [psnr_of(a, b, data_range=1) for a, b in by_image["s"]],
        "ssim_luma": [_similarity(a, b, **gaussian) for a, b in by_image["f"]],
        "ssim_uniform_luma": [_similarity(a, b) for a, b in by_image["f"]],
    }
    images, changed = (jnp.asarray(x) * 2 - 1 for x in pairs)
    found = image_metrics(images, changed, rounding="none", metrics=tuple(expected))
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, err_msg=name)


def test_psnr_of_a_set_is_ruled_by_its_worst_image(pairs):
    images, changed = (jnp.asarray(x) * 2 - 1 for x in pairs)
    values = image_metrics(images, changed, rounding="none")
    found = dataset_psnr(compute_means(accumulate({}, values))["mse"])
    expected = skimage.metrics.peak_signal_noise_ratio(*pairs, data_range=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found < float(values["psnr"].mean())
    assert dataset_psnr(0.0) == pytest.approx(100)


def test_every_metric_is_defined_and_unknown_ones_are_named(pairs):
    assert set(PIXEL_METRICS) <= METRICS.keys()
    images = jnp.asarray(pairs[0])
    with pytest.raises(ValueError, match="metric 'ms_ssim' is unknown; there are psnr"):
        image_metrics(images, images, metrics=("psnr", "ms_ssim"))
    with pytest.raises(ValueError, match="window must be one of"):
        ssim(images, images, window="hann")


def test_equal_images_are_perfect(pairs):
    images = jnp.asarray(pairs[0]) * 2 - 1
    values = image_metrics(images, images)
    np.testing.assert_allclose(values["psnr"], 100)
    np.testing.assert_allclose(values["ssim"], 1, atol=5e-5)  # float32 variances
    np.testing.assert_allclose(values["mse"], 0, atol=1e-12)


def test_metrics_of_minus_one_to_one_images(pairs):
    """Distortions beyond the range are clipped and values rounded before anything is compared."""
    truth, changed = (jnp.asarray(x) * 2 - 1 for x in pairs)
    values = image_metrics(truth, changed, rounding="none")
    np.testing.assert_allclose(values["psnr"], psnr(*pairs), rtol=1e-5)
    beyond = image_metrics(jnp.ones_like(truth), jnp.ones_like(truth) * 1.5)
    np.testing.assert_allclose(beyond["psnr"], 100)


def test_rounding_to_eight_bits():
    images = jnp.array([-1.2, -1.0, 0.0, 0.9999, 1.0]).reshape(1, 1, 5, 1)
    levels = {r: to_unit_range(images, r).ravel() * 255 for r in ("none", "round", "truncate")}
    np.testing.assert_allclose(levels["none"], [0, 0, 127.5, 254.98725, 255], rtol=1e-6)
    np.testing.assert_allclose(levels["round"], [0, 0, 128, 255, 255])
    np.testing.assert_allclose(levels["truncate"], [0, 0, 127, 254, 255])
    with pytest.raises(ValueError, match="rounding must be"):
        to_unit_range(images, "up")


def test_rounding_is_applied_to_reconstructions_only(pairs):
    """Eight-bit originals reconstructed to within half a level count as perfect."""
    images = jnp.round(jnp.asarray(pairs[0]) * 255) / 127.5 - 1
    close = images + 0.3 / 127.5
    assert float(image_metrics(images, close)["psnr"].min()) > 99
    assert float(image_metrics(images, close, rounding="none")["psnr"].max()) < 60


def test_jitted_metrics_agree(pairs):
    images, changed = (jnp.asarray(x) * 2 - 1 for x in pairs)
    plain, jitted = image_metrics(images, changed), jax.jit(image_metrics)(images, changed)
    assert plain.keys() == jitted.keys() == {"psnr", "ssim", "mse"}
    for name in plain:
        np.testing.assert_allclose(plain[name], jitted[name], rtol=1e-5, atol=1e-6)


def test_ssim_of_too_small_images_says_so():
    small = jnp.zeros((1, 8, 64, 3))
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(small, small)
    assert ssim(small, small, window="uniform") == 1


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    values=st.lists(st.floats(0, 100, width=32), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_any_sharding_gives_the_same_mean(values, cuts):
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    shards = [np.array(values[a:b], np.float32) for a, b in itertools.pairwise(edges)]
    merged = Mean.empty()
    for shard in shards[::-1]:
        merged = merged.merge(Mean.of(shard))
    assert merged.count == len(values)
    np.testing.assert_allclose(merged.compute(), np.mean(values, dtype=np.float64), rtol=1e-12)


def test_a_million_small_values_lose_nothing():
    """A float32 sum would have stopped growing long before."""
    mean = Mean(np.float64(2.0**25), np.int64(0))
    for _ in range(10):
        mean = mean.merge(Mean.of(np.full(4, 0.1, np.float32)))
    np.testing.assert_allclose(mean.total - 2.0**25, 40 * np.float32(0.1), rtol=1e-6)


def test_padding_does_not_count():
    values = {"psnr": jnp.array([[20.0, 30.0], [99.0, 99.0]])}
    means = accumulate({}, values, mask=jnp.array([[True, True], [False, False]]))
    means = accumulate(means, {"psnr": jnp.array([40.0])})
    assert means["psnr"].count == 3
    assert compute_means(means) == {"psnr": 30.0}


def test_means_of_different_metrics_do_not_merge():
    with pytest.raises(ValueError, match=r"Cannot merge metrics \['a'\] with \['b'\]"):
        merge_means({"a": Mean.empty()}, {"b": Mean.empty()})


def test_the_mean_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        compute_means(accumulate({}, {"psnr": np.zeros(0)}))


def test_local_psnr_is_that_of_the_pixels():
    image = np.zeros((1, 4, 8, 3), np.float32)
    inside = np.broadcast_to(np.arange(8) < 4, (4, 8))
    other = image + np.where(inside, 0.2, 0.02)[..., None].astype(np.float32)
    near, far = local_psnr(image, other, inside, "none")
    np.testing.assert_allclose([near[0], far[0]], [20, 40], atol=1e-3)
    np.testing.assert_allclose(local_psnr(image, image, inside, "none"), 100)
