"""Inception-v3 against two independent implementations with weights drawn by a rule."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpstoken_jax.features.inception import inception_outputs, inception_perceptual, prepare_images
from gpstoken_jax.features.inception_network import InceptionV3
from gpstoken_jax.features.resize import resize_tensorflow1
from gpstoken_jax.weights import networks
from tests.recipe_weights import SEEDS, recipe_state_dict


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "inception.npz")


@pytest.fixture(scope="module")
def images(golden_dir):
    return np.load(golden_dir / "lpips.npz")


@pytest.fixture(scope="module")
def pair(images):
    """Reconstructions and originals, [2, 64, 64, 3] in [-1, 1]."""
    return jnp.asarray(images["recipe_reconstructions"]), jnp.asarray(images["recipe_inputs"])


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory) -> Path:
    expected = networks.torch_shapes(InceptionV3(), 299)
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    save_file(recipe_state_dict(SEEDS["inception"], expected), path)
    return path


@pytest.fixture(scope="module")
def weights(weight_file):
    return networks.load_inception(weight_file)


@pytest.fixture(scope="module")
def forward(weights, pair):
    """Outputs and all activations of the release's batch: reconstructions, then originals."""

    @jax.jit
    def run(weights, images):
        inputs = prepare_images(images, "release")
        outputs, state = InceptionV3().apply(
            weights.variables, inputs, capture_intermediates=True, mutable=["intermediates"]
        )
        return inputs, outputs, state["intermediates"]

    return run(weights, jnp.concatenate(pair))


def _relative(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("case", ["up", "down", "same"])
def test_resize_of_tensorflow_1(golden, case):
    expected = golden[f"tfresize_{case}_out"]
    resized = resize_tensorflow1(golden[f"tfresize_{case}_in"], expected.shape[1:3])
    np.testing.assert_allclose(resized, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.slow
def test_what_the_network_is_given(golden, forward):
    crop = forward[0][:, :24, :24]
    np.testing.assert_allclose(crop, golden["release_resized_crop"], atol=1e-5)


def test_scalings(pair):
    """The release's scaling makes of [-1, 1] what the right one makes of [-1, 3]."""
    release, correct = (prepare_images(pair[1], name) for name in ("release", "correct"))
    np.testing.assert_allclose(release, 2 * correct + 1, atol=1e-5)
    grey = prepare_images(jnp.zeros((1, 8, 8, 3)), "correct")
    np.testing.assert_allclose(grey, (127.5 - 128) / 128, atol=1e-6)
    with pytest.raises(ValueError, match="scaling must be one of"):
        prepare_images(pair[1], "half")


_BLOCKS = ["Conv2d_1a_3x3", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_6a", "Mixed_6b", "Mixed_6e"]
_BLOCKS += ["Mixed_7a", "Mixed_7b", "Mixed_7c"]


@pytest.mark.slow
@pytest.mark.parametrize("block", _BLOCKS)
def test_activations(golden, forward, block):
    value = forward[2][block]["__call__"][0].mean((1, 2))
    assert _relative(value, golden[f"{block}_mean"]) < 1e-5


def test_pool_features(golden, forward):
    assert _relative(forward[1].pool, golden["release_features_eval"]) < 1e-5


def test_features_of_torch_fidelity(golden, images, weights):
    """Eight-bit images that are not square: FID, sFID and Inception score features."""
    levels = np.concatenate([images["odd_a"], images["odd_b"]]) / np.float32(127.5)
    outputs = jax.jit(inception_outputs)(weights, levels - 1)
    assert _relative(outputs.pool, golden["odd_pool"]) < 1e-5
    assert _relative(outputs.spatial, golden["odd_spatial"]) < 1e-5
    assert _relative(outputs.logits, golden["odd_logits"]) < 1e-5


@pytest.mark.slow
def test_loss_and_gradient(golden, weights, pair):
    """The gradient is from float64; max-pooling of float32 chooses another pixel now and then."""

    def loss(x, weights, y):
        return inception_perceptual(weights, x, y).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(pair[0], weights, pair[1])
    np.testing.assert_allclose(value, golden["release_loss_eval"][0], rtol=1e-5)
    expected = golden["release_gradient"]
    cosine = np.vdot(gradient, expected) / np.linalg.norm(gradient) / np.linalg.norm(expected)
    assert cosine > 0.9999
    np.testing.assert_allclose(np.linalg.norm(gradient), np.linalg.norm(expected), rtol=1e-3)


@pytest.mark.slow
def test_statistics_of_the_batch(golden, weights, pair):
    """Batch norm in training mode sees both images of every pair as one batch."""

    @jax.jit
    def run(weights, x, y):
        return inception_perceptual(weights, x, y, train=True)

    value = run(weights, *pair)
    assert value.shape == (2,)
    np.testing.assert_allclose(value.mean(), golden["release_loss_train"][0], rtol=1e-4)


def test_pairs_have_one_shape(weights, pair):
    with pytest.raises(ValueError, match="one shape"):
        inception_perceptual(weights, pair[0], pair[1][:1])


def test_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights-inception-2015-12-05-6726825d\.pth"):
        networks.load_inception(tmp_path / "none.pth")


def test_another_network_is_refused(weight_file, tmp_path):
    """torchvision's Inception-v3 has the same names but 1000 classes."""
    tensors = load_file(weight_file)
    tensors["fc.bias"] = tensors["fc.bias"][:1000]
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"FID version: 1 of another shape \(fc\.bias is 1000"):
        networks.load_inception(tmp_path / "other.safetensors")
