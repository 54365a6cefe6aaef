"""ConvNeXt-small against the training release and torchvision, with weights drawn by a rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from gpstoken_jax.features.convnext import (
    ConvNeXtSmall,
    convnext_logits,
    convnext_perceptual,
    prepare_images,
)
from gpstoken_jax.features.resize import resize_antialiased
from gpstoken_jax.weights import networks
from tests.recipe_weights import SEEDS, recipe_state_dict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "convnext.npz")


@pytest.fixture(scope="module")
def target(golden_dir):
    levels = np.load(golden_dir / "partition.npz")["astronaut_c/rgb_u8"]
    return jnp.asarray(levels[None] / np.float32(127.5) - 1)


@pytest.fixture(scope="module")
def other(target):
    """The target under a grating."""
    return target + 0.1 * jnp.sin(jnp.arange(256) / 7)[:, None]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    expected = networks.torch_shapes(ConvNeXtSmall(), 224)
    path = tmp_path_factory.mktemp("convnext") / "convnext.safetensors"
    save_file(recipe_state_dict(SEEDS["convnext"], expected), path)
    weights = networks.load_convnext(path)
    path.unlink()  # 200 MB
    return weights


@pytest.fixture(scope="module")
def outcome(weights, target, other):
    """Logits of the target, the loss and its gradient by the other image, by normalisation."""

    @jax.jit
    def run(weights, inputs, target):
        def loss(inputs):
            of_other, of_target = logits(inputs), logits(target)
            return jnp.square(of_other - of_target).mean(), of_target

        def logits(inputs):
            return ConvNeXtSmall().apply(weights.variables, inputs)

        return jax.value_and_grad(loss, has_aux=True)(inputs)

    def all_of(normalisation):
        inputs, pull_back = jax.vjp(lambda x: prepare_images(x, normalisation), other)
        (loss, logits), gradient = run(weights, inputs, prepare_images(target, normalisation))
        return loss, logits, pull_back(gradient)[0]

    return {name: all_of(name) for name in ("release", "correct")}


def test_resize(golden, target):
    resized = resize_antialiased(target, (224, 224))[:, 100:132, 100:132]
    np.testing.assert_allclose(resized, golden["release_resized_crop"], atol=2e-6)


def test_values_of_the_release(golden, outcome):
    loss, logits, _ = outcome["release"]
    np.testing.assert_allclose(logits, golden["release_logits"], atol=1e-4)
    np.testing.assert_allclose(loss, golden["release_loss"][0], rtol=1e-4)


def test_values_of_the_right_normalisation(golden, outcome):
    loss, logits, _ = outcome["correct"]
    np.testing.assert_allclose(logits, golden["logits_correct"], atol=1e-4)
    np.testing.assert_allclose(loss, golden["loss_correct"], rtol=1e-4)


@pytest.mark.parametrize("normalisation", ["release", "correct"])
def test_gradients_of_torchvision(golden, outcome, normalisation):
    gradient = outcome[normalisation][2]
    expected = golden[f"gradient_{normalisation}_sub4"]
    error = np.linalg.norm(gradient[0, ::4, ::4] - expected)
    assert error < 1e-3 * np.linalg.norm(expected)
    norm = np.linalg.norm(gradient)
    np.testing.assert_allclose(norm, golden[f"gradient_norm_{normalisation}"], rtol=1e-4)


def test_the_loss_function_is_that_loss(outcome, weights, target, other):
    value = jax.jit(convnext_perceptual)(weights, other, target)
    np.testing.assert_allclose(value, [outcome["release"][0]], rtol=1e-4)
    with pytest.raises(ValueError, match="one shape"):
        convnext_perceptual(weights, other, target[:, :64])
    with pytest.raises(ValueError, match="normalisation must be"):
        convnext_logits(weights, target, normalisation="none")


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"published by torchvision .*0c510722\.pth"):
        networks.load_convnext(tmp_path / "none.pth")
    save_file(
        {"features.0.0.weight": np.zeros((96, 3, 4, 4), np.float32)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match="torchvision's ConvNeXt-small: 343 missing"):
        networks.load_convnext(tmp_path / "a.safetensors")
