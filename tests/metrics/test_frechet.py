"""The Fréchet distance against three independent implementations, and statistics that merge."""

import itertools

import jax
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from gpstoken_jax.features.vgg import vgg_features, vgg_perceptual
from gpstoken_jax.metrics.frechet import (
    FeatureMoments,
    FeatureStatistics,
    Gaussian,
    few_samples_warning,
    frechet_distance,
)
from gpstoken_jax.runtime.files import DamagedFileError
from gpstoken_jax.weights.networks import load_lpips
from gpstoken_jax.weights.statistics import StatisticsError, load_statistics, save_statistics


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "frechet.npz")


def _fit(features) -> Gaussian:
    return FeatureMoments.of(features).gaussian()


@pytest.mark.parametrize("tool", ["pytorch_fid", "torchmetrics", "torch_fidelity"])
def test_distances_of_the_common_tools(golden, tool):
    distance = frechet_distance(_fit(golden["many_a"]), _fit(golden["many_b"]))
    np.testing.assert_allclose(distance, golden[f"many_{tool}"], rtol=1e-9)


def test_fewer_images_than_features(golden):
    """The common tools take roots of a singular product here, and keep half of their digits."""
    distance = frechet_distance(_fit(golden["few_a"]), _fit(golden["few_b"]))
    np.testing.assert_allclose(distance, golden["few_torchmetrics"], rtol=1e-5)
    np.testing.assert_allclose(distance, golden["few_pytorch_fid"], rtol=1e-4)


def test_against_the_matrix_square_root(golden):
    first, second = _fit(golden["many_a"]), _fit(golden["many_b"])
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    expected = np.square(first.mean - second.mean).sum()
    expected += np.trace(first.covariance + second.covariance - 2 * root.real)
    np.testing.assert_allclose(frechet_distance(first, second), expected, rtol=1e-9)


def test_independent_features_have_a_formula():
    rng = np.random.default_rng(0)
    means, spreads = rng.normal(size=(2, 20)), rng.uniform(0, 3, (2, 20))
    spreads[:, :5] = 0  # nothing varies there
    first, second = (
        Gaussian(m, np.diag(np.square(s))) for m, s in zip(means, spreads, strict=True)
    )
    expected = np.square(means[0] - means[1]).sum() + np.square(spreads[0] - spreads[1]).sum()
    np.testing.assert_allclose(frechet_distance(first, second), expected, rtol=1e-12)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.integers(2, 12), st.integers(2, 30), st.integers(2, 30), st.floats(-8, 4), st.integers(0, 99)
)
def test_never_negative_and_alike_from_both_sides(dimensions, rows, others, exponent, seed):
    """Any rank, any scale; equal sets are at no distance, to the last digits of their spread."""
    rng = np.random.default_rng(seed)
    scale = 10.0**exponent
    a = _fit(scale * rng.standard_normal((rows, dimensions)))
    b = _fit(scale * rng.standard_normal((others, dimensions)) + scale)
    distance = frechet_distance(a, b)
    assert distance >= 0 and np.isfinite(distance)
    size = np.trace(a.covariance) + np.trace(b.covariance)
    assert abs(distance - frechet_distance(b, a)) <= 1e-10 * size
    assert frechet_distance(a, a) <= 1e-10 * size


def test_sets_that_differ_by_a_shift_are_that_far_apart(golden):
    moved = frechet_distance(_fit(golden["few_a"]), _fit(golden["few_a"] + 2.0))
    np.testing.assert_allclose(moved, 16 * 4, rtol=1e-5)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    st.integers(0, 60), st.lists(st.integers(0, 60), max_size=4), st.floats(0, 1e6), st.randoms()
)
def test_any_sharding_gives_the_same_statistics(count, cuts, offset, random):
    """Also features far from zero, where sums of squares would lose the covariance."""
    rows = np.random.default_rng(count).standard_normal((count, 5)) + offset
    edges = [0, *sorted(min(cut, count) for cut in cuts), count]
    parts = [FeatureMoments.of(rows[a:b]) for a, b in itertools.pairwise(edges)]
    random.shuffle(parts)
    merged = FeatureMoments.empty(5)
    for part in parts:
        merged = merged.merge(part)
    assert merged.count == count
    if count >= 2:
        found = merged.gaussian()
        np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
        expected = np.cov(rows, rowvar=False)
        np.testing.assert_allclose(found.covariance, expected, rtol=1e-7, atol=1e-8)


def test_batches_with_padding():
    rows = np.random.default_rng(0).standard_normal((700, 4)).astype(np.float32)
    gathered, elsewhere = FeatureStatistics(4), FeatureStatistics(4)
    padded = np.concatenate([rows[:600], np.full((8, 4), 9.0, np.float32)]).reshape(19, 32, 4)
    keep = (np.arange(608) < 600).reshape(19, 32)
    for batch, mask in zip(padded, keep, strict=True):
        gathered.add(batch.reshape(4, 8, 4), mask.reshape(4, 8))
    elsewhere.add(rows[600:])
    gathered.merge(elsewhere.moments())
    assert gathered.moments().count == 700
    expected = np.cov(rows.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(gathered.gaussian().covariance, expected, rtol=1e-12)


def test_the_size_of_the_state_for_fid():
    moments = FeatureMoments.empty(2048)
    assert moments.mean.nbytes + moments.scatter.nbytes == 33_570_816


def test_what_has_no_distance():
    good = _fit(np.eye(3))
    with pytest.raises(ValueError, match="two images or more, not 1"):
        _fit(np.ones((1, 3)))
    with pytest.raises(ValueError, match="not finite"):
        FeatureMoments.of(np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(good, Gaussian(np.array([0, 0, np.inf]), np.eye(3)))
    with pytest.raises(ValueError, match="3 and 2 features cannot be compared"):
        frechet_distance(good, _fit(np.eye(2)))


def test_too_few_images_are_warned_of():
    few, enough = (
        _fit(np.random.default_rng(0).normal(size=(20, 20))),
        Gaussian(np.zeros(20), np.eye(20)),
    )
    assert "20 features from 20 images" in few_samples_warning(enough, few)
    assert few_samples_warning(enough, Gaussian(np.zeros(20), np.eye(20), 21)) is None


# Files.


def _gaussian(size, count=None) -> Gaussian:
    rng = np.random.default_rng(size)
    return Gaussian(rng.standard_normal(size), np.diag(rng.uniform(size=size)), count)


def test_files_come_back_and_have_the_common_layout(tmp_path):
    path = tmp_path / "reference.npz"
    written = {"fid": _gaussian(2048, 500), "sfid": _gaussian(2023, 500)}
    save_statistics(path, written)
    for name, gaussian in written.items():
        read = load_statistics(path, name)
        np.testing.assert_array_equal(read.mean, gaussian.mean)
        np.testing.assert_array_equal(read.covariance, gaussian.covariance)
        assert read.count == 500
    with np.load(path) as file:
        assert {"mu", "sigma", "mu_s", "sigma_s"} <= set(file.files)
    assert [entry.name for entry in tmp_path.iterdir()] == ["reference.npz"]
    with pytest.raises(StatisticsError, match=r"of fid,sfid, not of frechet_vgg16"):
        load_statistics(path, "frechet_vgg16")


def test_any_flipped_bit_is_noticed(tmp_path):
    """Every bit of the end, where the seal is, and some of all others; also a file cut short."""
    path = tmp_path / "reference.npz"
    save_statistics(path, {"frechet_vgg16": _gaussian(512, 500)})
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    bits = [8 * len(data) - 1 - i for i in range(0, 8 * 120, 3)]
    bits += rng.integers(0, 8 * len(data), 80).tolist()
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises((StatisticsError, DamagedFileError), match="reference"):
            load_statistics(path, "frechet_vgg16")
    for length in (len(data) - 1, len(data) - 90, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises((StatisticsError, DamagedFileError), match="reference"):
            load_statistics(path, "frechet_vgg16")


def test_files_of_other_tools(tmp_path):
    gaussian = _gaussian(2048)
    np.savez(tmp_path / "fid.npz", mu=gaussian.mean, sigma=gaussian.covariance, arr_0=np.zeros(3))
    read = load_statistics(tmp_path / "fid.npz", "fid")
    assert read.count is None
    np.testing.assert_array_equal(read.covariance, gaussian.covariance)
    with pytest.raises(StatisticsError, match="no mu_s and no sigma_s, needed for sfid"):
        load_statistics(tmp_path / "fid.npz", "sfid")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(512), "sigma": np.eye(512)}, r"fid has 2048 features, but mu is \(512,\)"),
        ({"mu": np.zeros(2048, int), "sigma": np.eye(2048)}, "not all floating-point numbers"),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "are not all finite: save them"),
        ({"mu": np.zeros(2048), "sigma": -np.eye(2048)}, "sigma is no covariance: save it"),
        ({"mu": np.zeros(2048), "sigma": np.tri(2048)}, "sigma is no covariance: save it"),
        ({"mu": np.array([{}], dtype=object), "sigma": np.eye(2)}, "arrays of type object are not"),
    ],
)
def test_files_with_something_else(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(StatisticsError, match=message):
        load_statistics(tmp_path / "bad.npz", "fid")


def test_files_that_are_no_statistics(tmp_path):
    path = tmp_path / "bad.npz"
    for content in (b"", b"hello", b"PK\x03\x04 and nothing"):
        path.write_bytes(content)
        with pytest.raises(StatisticsError, match=r"bad\.npz is damaged or not a \.npz file"):
            load_statistics(path, "fid")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(StatisticsError, match=r"one\.npy is damaged or not"):
        load_statistics(tmp_path / "one.npy", "fid")
    with pytest.raises(FileNotFoundError, match="no statistics file"):
        load_statistics(tmp_path / "none.npz", "fid")
    with pytest.raises(ValueError, match="one file holds"):
        save_statistics(path, {"fid": _gaussian(2048), "frechet_vgg16": _gaussian(512)})


# VGG16 features.


@pytest.fixture(scope="module")
def vgg_weights():
    return load_lpips("vgg16")


@pytest.fixture(scope="module")
def crops(golden_dir):
    levels = np.load(golden_dir / "lpips.npz")
    return levels["square_a"] / np.float32(127.5) - 1, levels["square_b"] / np.float32(127.5) - 1


def test_vgg_loss_is_a_distance_of_pooled_features(vgg_weights, crops):
    x, y = crops
    of_x, of_y = (np.asarray(jax.jit(vgg_features)(vgg_weights, images)) for images in crops)
    assert of_x.shape == (3, 512)
    value = jax.jit(vgg_perceptual)(vgg_weights, x, y)
    np.testing.assert_allclose(value, np.square(of_x - of_y).mean(axis=1), rtol=1e-4)
    assert (value > 0).all()
    with pytest.raises(ValueError, match="one shape"):
        vgg_perceptual(vgg_weights, x, y[:1])


def test_vgg_gradient(vgg_weights, crops):
    """Along the gradient the loss changes as the gradient says."""
    x, y = crops

    @jax.jit
    @jax.value_and_grad
    def run(x, weights):
        return vgg_perceptual(weights, x, y).sum()

    gradient = run(x, vgg_weights)[1]
    step = 1e-2 * gradient / np.linalg.norm(gradient)
    change = (run(x + step, vgg_weights)[0] - run(x - step, vgg_weights)[0]) / 2
    np.testing.assert_allclose(change, np.vdot(gradient, step), rtol=0.02)


def test_vgg_features_of_other_weights_are_refused(crops):
    with pytest.raises(ValueError, match="not those of alexnet"):
        vgg_features(load_lpips("alexnet"), crops[0])
