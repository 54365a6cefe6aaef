"""The decoder's norm against the published one, and what it does where that breaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.model.layers import merge_tiles, split_tiles
from gpstoken_jax.model.tile_norm import TileNorm, bicubic_matrix


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "gpstoken_tiny.npz")


def _apply(norm, x, golden):
    variables = {"params": {"scale": golden["normnp/weight"], "bias": golden["normnp/bias"]}}
    return norm.apply(variables, x)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_equals_the_published_norm(n, golden):
    out = _apply(TileNorm(32, (n, n)), golden["normnp/z"].transpose(0, 2, 3, 1), golden)
    np.testing.assert_allclose(out.transpose(0, 3, 1, 2), golden[f"normnp/out_np{n}"], atol=2e-5)


def test_batches_and_images_are_independent(golden):
    x = golden["normnp/z"].transpose(0, 2, 3, 1)
    two = jnp.concatenate([3 * x + 1, x])
    alone = _apply(TileNorm(32, (2, 2)), x, golden)
    np.testing.assert_allclose(_apply(TileNorm(32, (2, 2)), two, golden)[1:], alone, atol=1e-6)


def test_constant_maps_give_the_bias_and_finite_gradients(golden):
    x = jnp.full((1, 8, 8, 64), 0.5)
    norm = TileNorm(32)
    out = _apply(norm, x, golden)
    np.testing.assert_allclose(out.transpose(0, 3, 1, 2), golden["normnp/out_const"], atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: _apply(norm, x, golden).sum())(x)).all()


def test_very_different_tiles_stay_finite_and_are_reported():
    """The interpolated std overshoots below zero between these tiles."""
    rng = np.random.default_rng(0)
    tiles = rng.normal(size=(16, 8, 8, 32)) * np.exp(rng.normal(scale=3.0, size=(16, 1, 1, 1)))
    x = merge_tiles(jnp.asarray(tiles, jnp.float32), (4, 4))
    norm = TileNorm(32, (4, 4))
    variables = {"params": norm.init(jax.random.key(0), x)["params"]}
    out, recorded = norm.apply(variables, x, mutable="diagnostics")
    assert np.isfinite(out).all()
    assert recorded["diagnostics"]["floored_std"][0] > 0
    spread = np.exp(rng.normal(scale=0.1, size=(16, 1, 1, 1)))
    similar = merge_tiles(jnp.asarray(rng.normal(size=(16, 8, 8, 32)) * spread), (4, 4))
    _, recorded = norm.apply(variables, similar, mutable="diagnostics")
    assert recorded["diagnostics"]["floored_std"][0] == 0


def test_bicubic_weights_interpolate():
    """They sum to one, treat both ends alike, and keep the samples where a pixel meets one."""
    matrix = bicubic_matrix(5, 15)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(matrix[1::3], np.eye(5), atol=1e-6)
    assert matrix.min() < -0.1  # a = -0.75 overshoots


def test_split_and_merge_tiles_are_inverse_and_ordered():
    x = jnp.arange(2 * 4 * 6 * 1, dtype=jnp.float32).reshape(2, 4, 6, 1)
    tiles = split_tiles(x, (2, 3))
    np.testing.assert_array_equal(merge_tiles(tiles, (2, 3)), x)
    np.testing.assert_array_equal(tiles[1, ..., 0], x[0, :2, 2:4, 0])
    np.testing.assert_array_equal(tiles[6], x[1, :2, :2])
    with pytest.raises(ValueError, match="does not divide"):
        split_tiles(x, (3, 3))
