"""The weighted sum of losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from gpstoken_jax.losses import reconstruction_loss
from gpstoken_jax.perceptual.lpips import lpips
from gpstoken_jax.perceptual.weights import load_lpips


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
