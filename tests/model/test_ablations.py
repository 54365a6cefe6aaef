"""The switches of the paper's ablations do what they say, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.configs import common, gpstoken_s64
from gpstoken_jax.model.encoder import make_isotropic
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.partition.host import partition
from gpstoken_jax.partition.images import partition_images, to_grey

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
IMAGES[0, :, :16] = 0.3  # nothing to see on the left


@functools.cache
def network(switches):
    """Returns random weights that move every token, and the compiled encoder."""
    config = gpstoken_s64.get_config("smoke").model
    config.encoder.update(dict(switches))
    model = GPSToken(config)
    params = jax.jit(functools.partial(init_params, model))(jax.random.key(0))
    if "geometry_head" in params["params"]["encoder"]:
        head = params["params"]["encoder"]["geometry_head"]
        head["kernel"] = 0.3 * jax.random.normal(jax.random.key(1), head["kernel"].shape)
    encode = jax.jit(functools.partial(model.apply, params, method="encode"))
    return params["params"]["encoder"], encode


def encoded(images=IMAGES, boxes=None, **switches):
    """Returns initial geometry, tokens, and the encoder's weights."""
    params, encode = network(tuple(switches.items()))
    geometry, own_boxes = partition_images(IMAGES, 8)
    tokens = encode(images, geometry, own_boxes if boxes is None else boxes)
    return np.asarray(geometry), np.asarray(tokens), params


@pytest.mark.slow
def test_the_defaults_are_the_published_model():
    config = common.model().encoder
    assert (config.condition, config.refine, config.isotropic) == ("roi", True, False)
    geometry, tokens, _ = encoded()
    assert np.abs(tokens[..., :5] - geometry).min(axis=(0, 1)).min() > 0
    assert np.abs(tokens[..., 2]).min() > 0  # rho


@pytest.mark.parametrize("count", [4, 16, 64])
@pytest.mark.parametrize("run", ["host", "device"])
def test_weight_0_is_a_uniform_grid_whatever_the_image(count, run):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    images[0, :32] = 0
    if run == "host":
        geometry, boxes = partition(to_grey(images), count, weight=0)
    else:
        geometry, boxes = partition_images(images, count, weight=0)
    side = int(np.sqrt(count))
    corners = {tuple(box) for box in np.round((np.asarray(boxes)[0] + 1) * 63 / 2).astype(int)}
    step = 64 // side
    expected = [
        (x, y, x + step - 1, y + step - 1) for y in range(0, 64, step) for x in range(0, 64, step)
    ]
    assert corners == set(expected)
    assert np.ptp(np.asarray(geometry)[..., :2]) < 1e-6
    np.testing.assert_array_equal(np.sort(boxes[0], 0), np.sort(boxes[1], 0))


@pytest.mark.slow
def test_without_refinement_the_geometry_is_the_partition():
    geometry, tokens, params = encoded(refine=False)
    np.testing.assert_array_equal(tokens[..., :5], geometry)
    assert "geometry_head" not in params
    assert np.ptp(tokens[..., 5:]) > 0


@pytest.mark.slow
def test_isotropic_gaussians_are_circles_of_the_same_area():
    _, free, _ = encoded()
    _, tokens, _ = encoded(isotropic=True)
    np.testing.assert_array_equal(tokens[..., 0], tokens[..., 1])
    assert (tokens[..., 2] == 0).all()
    np.testing.assert_allclose(tokens[..., 0] ** 2, free[..., 0] * free[..., 1], rtol=1e-5)
    np.testing.assert_array_equal(tokens[..., 3:], free[..., 3:])


def test_isotropic_has_a_gradient_also_of_a_region_of_one_pixel():
    geometry = jnp.array([[0.0, 0.2, 0.1, 0.0, 0.0], [0.3, 0.2, 0.1, 0.5, 0.5]])
    grad = jax.grad(lambda g: make_isotropic(g).sum())(geometry)
    assert np.isfinite(grad).all() and (np.asarray(grad)[1, :2] > 0).all()


@pytest.mark.slow
def test_conditions():
    """A change of the image, and one of the boxes alone, reach the tokens or not."""
    changed, moved = np.array(IMAGES), np.full((2, 8, 4), -0.5, np.float32)
    moved[..., :2] = -1
    changed[:, 20:, 20:] *= -1
    seen = {}
    for condition in ("roi", "image", "none"):
        _, tokens, params = encoded(condition=condition, boxes=moved)
        _, of_changed, _ = encoded(changed, condition=condition, boxes=moved)
        _, of_partition, _ = encoded(condition=condition)
        seen[condition] = [np.abs(o - tokens).max() > 1e-6 for o in (of_changed, of_partition)]
        assert ("stem" in params) == (condition != "none")
    assert seen == {"roi": [True, True], "image": [True, False], "none": [False, False]}
    with pytest.raises(ValueError, match=r"model\.encoder\.condition must be"):
        encoded(condition="box")


@pytest.mark.parametrize("support", [1.0, 3.0, 5.0])
def test_support_is_where_gaussians_end(support):
    config = gpstoken_s64.get_config("smoke").model
    config.support, config.render_size = support, 65
    sigma = 0.15
    tokens = np.array([[[sigma, sigma, 0, 0, 0, *[1.0] * 16]]], np.float32)
    model = GPSToken(config)
    drawn = np.asarray(model.apply({}, tokens, method="render"))[0, 32, :, 0]
    distance = np.abs(np.linspace(-1, 1, 65))
    assert (drawn[distance > support * sigma * 1.001] == 0).all()
    inside = distance < support * sigma * 0.999
    np.testing.assert_allclose(
        drawn[inside], np.exp(-0.5 * (distance[inside] / sigma) ** 2), rtol=2e-4, atol=1e-7
    )
