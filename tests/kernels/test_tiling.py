"""Tiles, Morton order and lists."""

import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.kernels.tiling import Tiling, compact, morton_order, pad_tokens, token_boxes


@pytest.mark.parametrize("size", [(16, 16), (5, 7), (17, 33), (1, 40)])
def test_join_undoes_split(size):
    tiling = Tiling(*size, 4, 8)
    image = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    np.testing.assert_array_equal(tiling.join(tiling.split(image)), image)


def test_coordinates_go_with_the_pixels_of_a_split_map():
    tiling = Tiling(6, 10, 4, 8)
    y, x = np.meshgrid(np.linspace(-1, 1, 6), np.linspace(-1, 1, 10), indexing="ij")
    image = np.stack([x, y, np.ones_like(x)], axis=-1)[None].astype(np.float32)
    split = np.asarray(tiling.split(image))[0]
    real = split[..., 2] == 1
    for i, coordinate in enumerate(tiling.coordinates()):
        np.testing.assert_allclose(coordinate[real], split[..., i][real], atol=1e-6)


def test_compact_lists_the_hits_first():
    hits = np.array([[False, True, True, False], [False] * 4, [True] * 4])
    listed, count = compact(jnp.asarray(hits))
    assert count.tolist() == [2, 0, 4]
    assert listed[0, :2].tolist() == [1, 2] and listed[2].tolist() == [0, 1, 2, 3]
    assert int(listed.max()) <= 3


def test_morton_order_keeps_quadrants_together():
    mu = np.random.default_rng(1).uniform(-1, 1, (64, 2))
    geometry = np.concatenate([np.full((64, 3), 0.1), mu], axis=-1).astype(np.float32)
    order = np.asarray(morton_order(jnp.asarray(geometry)))
    assert sorted(order.tolist()) == list(range(64))
    quadrant = (mu[order, 0] > 0) + 2 * (mu[order, 1] > 0)
    assert (np.diff(quadrant) >= 0).all()


def test_padding_tokens_meet_nothing():
    geometry, features = pad_tokens(jnp.ones((1, 3, 5)) * 0.1, jnp.ones((1, 3, 2)), 8)
    assert geometry.shape == (1, 8, 5) and features.shape == (1, 8, 2)
    assert not features[0, 3:].any()
    assert (np.asarray(token_boxes(geometry, 5.0))[0, 3:, 0] > 1e6).all()
