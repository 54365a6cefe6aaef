"""Tokens of tiles merged and split, and the published model at twice its size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from gpstoken_jax import kernels
from gpstoken_jax.configs import common
from gpstoken_jax.model.gpstoken import GPSToken
from gpstoken_jax.model.layers import merge_tiles
from gpstoken_jax.model.tiles import merge_tokens, split_tokens, tile_grid
from gpstoken_jax.weights.published import tokenizer_table

TILES = (2, 2)


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "gpstoken_tiny.npz")


@pytest.fixture(scope="module")
def tiny(golden_dir):
    """The model whose values were measured, and its weights."""
    config = common.model()
    config.encoder.update(width=64, depth=2)
    config.decoder.update(channels=32, blocks_per_level=2)
    tensors = load_file(golden_dir / "gpstoken_tiny_weights.safetensors")
    return GPSToken(config), tokenizer_table(config).from_torch(tensors)


@pytest.fixture(scope="module")
def decoded(tiny, golden):
    """Two images decoded together, the published one last."""
    model, params = tiny
    merged = merge_tokens(golden["np2/tokens"], TILES)
    both = jnp.concatenate([merged[:, ::-1] * jnp.float32(0.9), merged])
    decode = jax.jit(lambda tokens: model.apply(params, tokens, TILES, method="decode"))
    return np.asarray(decode(both)).transpose(0, 3, 1, 2)


def test_merging_gives_the_published_tokens(golden):
    merged = merge_tokens(golden["np2/tokens"], TILES)
    np.testing.assert_allclose(merged, golden["np2/adjusted"], atol=1e-6)


def test_merged_tokens_decode_to_the_published_image_in_any_batch(decoded, golden):
    assert decoded.shape == (2, 3, 512, 512)
    image = decoded[1:]
    assert np.abs(decoded[0] - decoded[1]).max() > 0.01
    np.testing.assert_allclose(image[:, :, ::4, ::4], golden["np2/decoded@sub4"], atol=1e-4)
    seams = image[:, :, 224:288, 224:288]
    np.testing.assert_allclose(seams, golden["np2/decoded@crop"], atol=1e-4)
    exact = image.astype(np.float64)
    mean_std = np.stack([exact.mean((2, 3)), exact.std((2, 3))], -1)
    np.testing.assert_allclose(mean_std, golden["np2/decoded@chan_mean_std"], atol=1e-5)


def test_tiles_decode_apart_to_the_published_image(tiny, golden):
    model, params = tiny
    tokens = split_tokens(merge_tokens(golden["np2/tokens"], TILES), TILES)
    decode = jax.jit(lambda tokens: model.apply(params, tokens, method="decode"))
    apart = decode(tokens).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(apart[:, :, ::4, ::4], golden["np2/decoded_np1@sub"], atol=1e-4)


def test_images_of_a_batch_merge_as_they_do_alone(golden):
    """The published code takes the tile's number from the wrong axis: right for one image only."""
    tokens, published = golden["adjust_b2/tokens"], golden["adjust_b2/adjusted"]
    merged = np.asarray(merge_tokens(tokens, TILES))
    alone = np.concatenate([merge_tokens(tokens[i : i + 4], TILES) for i in (0, 4)])
    np.testing.assert_array_equal(merged, alone)
    np.testing.assert_allclose(merged[..., :3], published[..., :3], atol=1e-6)
    assert np.abs(merged - published).max() > 0.4
    quadrant = (merged[..., 3:5] > 0).reshape(2, 4, 3, 2)  # (right, lower) half, by tile
    np.testing.assert_array_equal(
        quadrant.any(2), [[[False, False], [True, False], [False, True], [True, True]]] * 2
    )
    np.testing.assert_array_equal(quadrant.any(2), quadrant.all(2))


def test_aligned_tokens_draw_what_the_tiles_draw():
    """To the pixel, for Gaussians that end inside their tile; the published places are near."""
    tiles, size = (2, 3), 24
    rng = np.random.default_rng(0)
    geometry = [
        rng.uniform(0.05, 0.12, (6, 4, 2)),
        rng.uniform(-0.7, 0.7, (6, 4, 1)),
        rng.uniform(-0.5, 0.5, (6, 4, 2)),
        rng.normal(size=(6, 4, 2)),
    ]
    tokens = np.concatenate(geometry, -1).astype(np.float32)

    def draw(tokens, tiles=(1, 1)):
        return kernels.splat(tokens[..., :5], tokens[..., 5:], (tiles[0] * size, tiles[1] * size))

    apart = merge_tiles(draw(jnp.asarray(tokens)), tiles)
    aligned = merge_tokens(tokens, tiles, map_size=size)
    np.testing.assert_allclose(draw(aligned, tiles), apart, atol=2e-4)
    merged = merge_tokens(tokens, tiles)
    assert np.abs(draw(merged, tiles) - apart).max() > 0.1
    pixels = (np.asarray(merged - aligned)[..., 3:5] / 2) * [3 * size - 1, 2 * size - 1]
    assert 0.2 < np.abs(pixels).max() < 0.75


@pytest.mark.parametrize("images, rows, cols, count", [(1, 1, 3, 4), (3, 2, 1, 1), (2, 3, 4, 5)])
def test_splitting_undoes_merging(images, rows, cols, count):
    rng = np.random.default_rng(rows * 7 + cols)
    tokens = rng.uniform(-1, 1, (images * rows * cols, count, 8)).astype(np.float32)
    merged = merge_tokens(tokens, (rows, cols))
    assert merged.shape == (images, rows * cols * count, 8)
    assert np.abs(merged[..., 3:5]).max() <= 1 + 1e-6
    np.testing.assert_allclose(split_tokens(merged, (rows, cols)), tokens, atol=2e-6)


def test_one_tile_changes_nothing():
    tokens = np.random.default_rng(0).uniform(0.1, 0.9, (2, 3, 7)).astype(np.float32)
    np.testing.assert_allclose(merge_tokens(tokens, (1, 1)), tokens, atol=1e-7)


def test_mistakes_are_named():
    assert tile_grid(256, 768, 256) == (1, 3)
    with pytest.raises(ValueError, match=r"300 x 500 is not made of whole.*256 x 512"):
        tile_grid(300, 500, 256)
    with pytest.raises(ValueError, match=r"100 x 100.*256 x 256"):
        tile_grid(100, 100, 256)
    with pytest.raises(ValueError, match="3 tiles are no images of 2 x 2"):
        merge_tokens(np.zeros((3, 4, 7)), (2, 2))
    with pytest.raises(ValueError, match="10 tokens an image do not divide into 2 x 2"):
        split_tokens(np.zeros((1, 10, 7)), (2, 2))
