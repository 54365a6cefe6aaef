"""The weighted sum of losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.configs import common
from gpstoken_jax.features.lpips import lpips
from gpstoken_jax.features.vgg import vgg_perceptual
from gpstoken_jax.losses import reconstruction as losses
from gpstoken_jax.losses.reconstruction import perceptual_loss, reconstruction_loss
from gpstoken_jax.weights.networks import load_loss_networks, load_lpips


@pytest.fixture(scope="module")
def frozen():
    return {"lpips": load_lpips()}


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.uniform(-1, 1, (2, 3, 32, 32, 3)), jnp.float32)


def test_is_mse_plus_lpips(pair, frozen):
    images, guesses = pair
    loss, terms = reconstruction_loss(images, guesses, frozen, common.get_config().loss)
    assert terms["mse"] == pytest.approx(float(jnp.square(images - guesses).mean()))
    assert terms["lpips"] == pytest.approx(float(lpips(frozen["lpips"], guesses, images).mean()))
    assert loss == pytest.approx(float(terms["mse"] + terms["lpips"]))


def test_lpips_may_see_a_part_of_the_batch(pair, frozen):
    images, guesses = pair
    config = common.get_config().loss
    config.update(lpips_images=1, lpips_weight=0.5, mse_weight=2.0)
    loss, terms = reconstruction_loss(images, guesses, frozen, config)
    first = float(lpips(frozen["lpips"], guesses[:1], images[:1])[0])
    assert terms["lpips"] == pytest.approx(first)
    assert loss == pytest.approx(float(2 * terms["mse"] + 0.5 * terms["lpips"]))


def test_without_lpips_its_weights_are_not_needed(pair):
    config = common.get_config().loss
    config.lpips_weight = 0.0
    loss, terms = reconstruction_loss(*pair, {}, config)
    assert set(terms) == {"mse"}
    grad = jax.grad(lambda guess: reconstruction_loss(pair[0], guess, {}, config)[0])(pair[1])
    np.testing.assert_allclose(grad, 2 * (pair[1] - pair[0]) / pair[0].size, rtol=1e-5)
    assert loss == terms["mse"]


@pytest.mark.slow
def test_dropout_in_lpips_is_for_those_who_ask(pair, frozen):
    config = common.get_config().loss
    keys = jax.random.split(jax.random.key(0))
    plain = [reconstruction_loss(*pair, frozen, config, key=key)[1]["lpips"] for key in keys]
    assert plain[0] == plain[1]
    config.lpips_dropout = True
    dropped = [reconstruction_loss(*pair, frozen, config, key=key)[1]["lpips"] for key in keys]
    assert dropped[0] != dropped[1]
    np.testing.assert_allclose(dropped, plain, rtol=0.1)


def test_features_of_whole_images_are_weighted(pair, frozen, monkeypatch):
    """Networks that no one downloads here are replaced by what they are called with."""
    config = common.get_config().loss
    assert perceptual_loss(*pair, {}, config) == (0, {})
    monkeypatch.setattr(
        losses,
        "inception_perceptual",
        lambda weights, x, y, *, scaling, dtype: jnp.full(3, weights[scaling]),
    )
    monkeypatch.setattr(
        losses,
        "convnext_perceptual",
        lambda weights, x, y, *, normalisation, dtype: jnp.full(3, weights[normalisation]),
    )
    config.update(inception_weight=1.0, convnext_weight=0.5, vgg_weight=2.0)
    config.convnext_normalisation = "correct"
    networks = frozen | {"inception": {"release": 3.0}, "convnext": {"correct": 8.0}}
    loss, terms = perceptual_loss(*pair, networks, config)
    vgg = float(vgg_perceptual(frozen["lpips"], pair[1], pair[0]).mean())
    assert terms["vgg"] == pytest.approx(vgg, rel=1e-5)
    assert loss == pytest.approx(3.0 + 0.5 * 8.0 + 2 * vgg, rel=1e-5)


@pytest.mark.parametrize("name", ["inception", "convnext"])
def test_a_missing_file_is_told_with_where_to_get_it(name, tmp_path):
    config = common.get_config().loss
    config.update({"lpips_weight": 0.0, f"{name}_weight": 1.0})
    with pytest.raises(ValueError, match=rf"--config\.loss\.{name}_file=FILE.*\.pth"):
        load_loss_networks(config)
    config[f"{name}_file"] = str(tmp_path / "gone.pth")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth.*download"):
        load_loss_networks(config)


def test_only_networks_with_a_weight_are_loaded():
    config = common.get_config().loss
    config.lpips_weight = 0.0
    assert load_loss_networks(config) == {}
    config.vgg_weight = 1.0
    assert set(load_loss_networks(config)) == {"lpips"}
