"""Samples of a network on devices: an image is its number's, whatever it is made beside."""

import jax
import numpy as np
import pytest

from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.normalisation import Normalisation
from gpstoken_jax.generation.samplers import Sampler, evaluations, image_noise
from gpstoken_jax.generation.sampling import BatchSampler, image_keys
from gpstoken_jax.generation.transport import Transport

GUIDANCE = Guidance(1.5, 0.2, 1.0)
LABELS = np.array([3, -1, 0, 7, 3])


@pytest.fixture(scope="module", params=["sde_euler", "ode_dopri5"])
def make(request, sit, params):
    sampler = Sampler(request.param, 4)
    return sampler, BatchSampler(sit, params, Transport(), sampler, GUIDANCE)


@pytest.fixture(scope="module")
def cond():
    return np.random.default_rng(0).uniform(0.1, 0.9, (5, 6, 5)).astype(np.float32)


def test_noise_is_an_images_own_to_the_bit():
    together = image_noise(image_keys(1, range(5)), (6, 21))(2)
    alone = [image_noise(image_keys(1, [i]), (6, 21))(2)[0] for i in (4, 0)]
    np.testing.assert_array_equal(alone, together[np.array([4, 0])])
    assert not np.array_equal(together[0], image_noise(image_keys(2, [0]), (6, 21))(2)[0])
    assert not np.array_equal(together[0], image_noise(image_keys(1, [0]), (6, 21))(1)[0])


@pytest.mark.slow
def test_an_image_does_not_hang_on_its_batch(make, cond):
    sampler, sample = make
    whole, counts = sample(image_keys(0, range(5)), LABELS, cond)
    order = np.array([4, 1])
    some, some_counts = sample(image_keys(0, order), LABELS[order], cond[order])
    np.testing.assert_allclose(some, whole[order], atol=2e-5)
    np.testing.assert_array_equal(some_counts, counts[order])
    assert np.abs(whole[0] - whole[4]).max() > 0.1  # of one class, but not one image
    if sampler.method == "sde_euler":
        assert (counts == evaluations(sampler, Transport(), GUIDANCE)).all()


def test_a_sample_that_is_not_finite_is_an_error(sit, params, cond):
    broken = jax.tree.map(lambda p: np.full_like(p, np.nan), params)
    sample = BatchSampler(sit, broken, Transport(), Sampler(steps=2), Guidance())
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(image_keys(0, [0]), LABELS[:1], cond[:1])


def test_tokens_of_a_sample_are_the_published_ones(golden):
    statistics = Normalisation(
        *(golden._arrays[f"post/{k}"].astype("f4") for k in ("means", "stds"))
    )
    tokens = statistics.denormalise(golden["post/samples"], golden["post/g_init"])
    np.testing.assert_allclose(tokens, golden["post/tokens"], atol=2e-6)


def test_normalisation_there_and_back():
    rng = np.random.default_rng(0)
    initial = rng.uniform(0.2, 0.8, (3, 4, 5)).astype(np.float32)
    geometry = initial + rng.normal(0, 0.02, initial.shape).astype(np.float32)
    features = rng.normal(2, 3, (3, 4, 6)).astype(np.float32)
    std = np.r_[np.full(4, 0.02), 0.0, np.full(6, 3)].astype(np.float32)  # one channel never moves
    config = {"mean": tuple(np.zeros(11)), "std": tuple(std)}
    statistics = Normalisation.of(config)
    x = statistics.normalise(geometry, initial, features)
    assert np.isfinite(x).all()
    back = statistics.denormalise(x, initial)
    np.testing.assert_allclose(back, np.concatenate([geometry, features], -1), atol=1e-5)
    with pytest.raises(ValueError, match="no statistics"):
        Normalisation.of({"mean": (), "std": ()})
