"""Images of several tiles from pixels to pixels: values, batches, both ways, memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter1d

from gpstoken_jax.configs import common, gpstoken_m128, tiny
from gpstoken_jax.model import blended as blended_tiles
from gpstoken_jax.model.blended import decode_blended
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.model.high_resolution import (
    WAYS,
    decode_images,
    encode_images,
    floored_std_warning,
)
from gpstoken_jax.model.layers import merge_tiles
from gpstoken_jax.model.tiles import merge_tokens, split_tokens
from gpstoken_jax.weights.published import tokenizer_table

TILES = (1, 3)


@pytest.fixture(scope="module")
def smoke():
    """A model for 32 x 32 pixels with random weights."""
    model = GPSToken(tiny.get_config("smoke").model)
    return model, jax.jit(partial(init_params, model))(jax.random.key(0))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (2, 32, 96, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def encode(smoke):
    return jax.jit(partial(encode_images, *smoke, num_tokens=5))


@pytest.fixture(scope="module")
def decode(smoke):
    return {way: jax.jit(partial(decode_images, *smoke, tiles=TILES, way=way)) for way in WAYS}


def _by_place(geometry):
    """Order of rows by (mu_y, mu_x): two partitions may list the same regions differently."""
    return np.lexsort(np.asarray(geometry)[:, 3:5].T)


def test_four_tiles_encode_to_the_published_tokens(golden_dir):
    golden = np.load(golden_dir / "gpstoken_tiny.npz")
    config = common.model()
    config.encoder.update(width=64, depth=2)
    config.decoder.update(channels=32, blocks_per_level=2)
    weights = load_file(golden_dir / "gpstoken_tiny_weights.safetensors")
    image = golden["np2/rgb_u8"][None] / np.float32(127.5) - 1
    encode = jax.jit(partial(encode_images, GPSToken(config), num_tokens=16))
    geometry, tokens = encode(tokenizer_table(config).from_torch(weights), image)
    published = merge_tokens(golden["np2/init_gpscodes"], (2, 2))[0]
    ours, theirs = _by_place(geometry[0]), _by_place(published)
    np.testing.assert_allclose(geometry[0][ours], published[theirs], atol=1e-6)
    np.testing.assert_allclose(tokens[0][ours], golden["np2/adjusted"][0][theirs], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_gives_what_its_images_give_alone(encode, decode, images, way):
    _, tokens = encode(images=images)
    decoded, floored = decode[way](tokens=tokens)
    assert tokens.shape == (2, 15, 21)
    assert decoded.shape == images.shape
    assert floored.shape == (2,)
    one = encode(images=np.stack([images[1], images[1]]))[1]
    # Machines sum in different orders: a few units in the last place.
    close = {"atol": 3e-6, "rtol": 8 * np.finfo(np.float32).eps}
    np.testing.assert_allclose(one, tokens[jnp.array([1, 1])], **close)
    np.testing.assert_allclose(decode[way](tokens=one).images, decoded[jnp.array([1, 1])], **close)
    assert np.abs(decoded[0] - decoded[1]).max() > 1e-3


@pytest.mark.slow
def test_tiles_apart_are_the_small_images(smoke, encode, decode, images):
    model, params = smoke
    _, tokens = encode(images=images)
    small = jax.jit(partial(decode_images, model, params))(split_tokens(tokens, TILES)).images
    apart = decode["tiles"](tokens=tokens).images
    np.testing.assert_allclose(apart, merge_tiles(small, TILES), atol=1e-5)
    merged = decode["merged"](tokens=tokens).images
    assert np.abs(merged - apart).max() > 1e-3
    np.testing.assert_allclose(
        merged, jax.jit(lambda t: model.apply(params, t, TILES, method="decode"))(tokens), atol=1e-5
    )


def test_blended_has_details_of_windows_at_the_seams_and_is_as_bright_as_tiles(
    smoke, encode, decode, images, monkeypatch
):
    monkeypatch.setattr(blended_tiles, "FLAT", 1e-6)  # no place is flat
    model, params = smoke
    size, cells = model.config.image_size, model.config.render_size
    _, tokens = encode(images=images)
    apart = np.asarray(decode["tiles"](tokens=tokens).images)
    again = jax.jit(lambda t: decode_images(model, params, t, TILES, way="blended").images)
    blended = np.asarray(again(tokens))
    left, right = (np.asarray(split_tokens(tokens, TILES)[i::3]).copy() for i in (0, 1))
    left[..., 3] -= cells / (cells - 1)
    right[..., 3] += cells / (cells - 1)
    together = jnp.concatenate([left, right], axis=1)
    window = np.asarray(model.apply(params, together, method="decode"))
    weight, half = (np.arange(size // 2) + 0.5)[:, None] / (size // 2), size // 2
    wanted = apart[:, :, : size + half].copy()  # up to where the next window begins to count
    wanted[:, :, half:size] *= 1 - weight
    wanted[:, :, size:] *= weight
    wanted[:, :, half:size] += window[:, :, :half] * weight
    wanted[:, :, size:] += window[:, :, half:] * (1 - weight)
    smooth = apart[:, :, : size + half] - wanted
    for axis in (1, 2):
        smooth = gaussian_filter1d(smooth, size / cells / 2, axis, mode="nearest", truncate=3)
    sure = slice(size + half - 3 * size // cells)
    np.testing.assert_allclose(blended[:, :, sure], (wanted + smooth)[:, :, sure], atol=1e-4)


def test_blending_has_no_step_at_seams():
    """Tiles of one colour each: the steps between them are spread over several pixels."""
    tokens = np.zeros((2 * 4 * 4, 1, 6), np.float32)
    tokens[:, 0, 5] = np.random.default_rng(0).uniform(-1, 1, 32)

    def decode(sets):  # the mean of a window's tokens' features, everywhere
        means = [windows[..., 5].mean(1) for windows in sets]
        shape = 16, 16, 3
        return [jnp.broadcast_to(mean[:, None, None, None], (len(mean), *shape)) for mean in means]

    found = np.asarray(decode_blended(decode, tokens, (4, 4), image_size=16, map_size=4))
    assert found.shape == (2, 64, 64, 3)
    apart = tokens[..., 5].reshape(2, 4, 4).repeat(16, 1).repeat(16, 2)
    for axis in (1, 2):
        step = np.abs(np.diff(apart, axis=axis)).max()
        assert np.abs(np.diff(found, axis=axis)).max() <= step / 4
    np.testing.assert_allclose(found[:, 4::16, 4::16, 0], tokens[..., 5].reshape(2, 4, 4), atol=0.3)
    ones = np.asarray(decode_blended(decode, 0 * tokens + 1, (4, 4), image_size=16, map_size=4))
    np.testing.assert_allclose(ones, 1, atol=1e-6)


def _seams(images):
    """The largest step or ridge at the seams of images of 2 x 3 tiles of 64 pixels."""
    found = []
    for axis, seams in ((1, (64,)), (2, (64, 128))):
        across = np.moveaxis(images, axis, 0)
        for seam in seams:
            near, far = across[seam - 4 : seam + 4], across[[seam - 12, seam + 11]]
            found.append(np.abs(near - far.mean(0)).max())
            found.append(np.abs(np.diff(near, axis=0)).max())
    return max(found)


@pytest.fixture
def blend():
    """Images of 2 x 3 tiles: each window decodes to its tokens' mean and what is added to all."""

    def blend(colours, added, xp=np):
        tokens = np.zeros((6, 1, 6), np.float32)
        tokens[:, 0, 5] = colours

        def decode(sets):
            means = [xp.asarray(windows[..., 5].mean(1)) for windows in sets]
            return [mean[:, None, None, None] + xp.asarray(added) for mean in means]

        found = decode_blended(decode, xp.asarray(tokens), (2, 3), image_size=64, map_size=16)
        return np.asarray(found[0])[None]

    return blend


@pytest.mark.parametrize("xp", [np, jnp])
def test_seams_of_a_clear_sky_are_smoothed_away(blend, xp):
    """Tiles a few levels apart, with an edge that is a few levels brighter: nothing is left."""
    level = np.float32(2 / 255)
    edge = np.zeros((64, 64, 3), np.float32)
    edge[[0, 0, -1, -1]] = edge[:, [0, -1]] = 4 * level
    found = blend(level * np.array([0, 3, -2, 2, -1, 1]), edge, xp)
    assert found.dtype == np.float32
    assert _seams(found) < 1.5 * level


@pytest.mark.parametrize(
    ("step", "noise"), [(0.8, 0.0), (0.05, 0.3)], ids=["an edge of the photo", "a texture"]
)
def test_what_is_in_the_photo_is_left_at_seams(blend, step, noise, monkeypatch):
    added = noise * np.random.default_rng(0).standard_normal((64, 64, 3)).astype(np.float32)
    ramp = np.where(np.arange(64) < 32, -step, step).astype(np.float32)
    added = added + ramp[:, None]
    found = blend(np.zeros(6), added)
    monkeypatch.setattr(blended_tiles, "FLAT", 1e-6)
    np.testing.assert_allclose(found, blend(np.zeros(6), added), atol=0.02)  # 2.5 levels


def test_aligned_is_merged_but_for_the_places(smoke, encode, decode, images):
    _, tokens = encode(images=images)
    render_size = smoke[0].config.render_size
    aligned = merge_tokens(split_tokens(tokens, TILES), TILES, map_size=render_size)
    assert 0 < np.abs(aligned - tokens)[..., :5].max() < 0.1
    np.testing.assert_array_equal(aligned[..., 5:], tokens[..., 5:])
    np.testing.assert_allclose(
        decode["aligned"](tokens=tokens).images, decode["merged"](tokens=aligned).images, atol=1e-5
    )


def test_very_different_tiles_are_reported_and_finite(decode):
    """One tile a million times as strong as its neighbours: the std overshoots below zero."""
    rng = np.random.default_rng(1)
    tokens = rng.uniform(0.2, 0.8, (2 * 3, 5, 21)).astype(np.float32)
    tokens[1, :, 5:] *= 1e6
    tokens = merge_tokens(tokens, TILES)
    decoded, floored = decode["merged"](tokens=tokens)
    assert np.isfinite(decoded).all()
    assert floored[0] > 0 and floored[1] == 0
    said = floored_std_warning({"wild.png": float(floored[0]), "tame.png": 0.0})
    assert "in 1 image(s)" in said and "in wild.png" in said
    assert floored_std_warning({"tame.png": 0.0}) is None
    assert (decode["tiles"](tokens=tokens).floored_std == 0).all()


@pytest.mark.slow
def test_a_bias_moves_tokens_within_the_tiles(smoke, images):
    bias = np.zeros((1, 32, 96), np.float32)
    bias[:, :, 64:] = np.linspace(0, 1e4, 32)  # towards the right edge of the last tile
    encode = jax.jit(partial(encode_images, *smoke, num_tokens=5))
    plain, _ = encode(images=images)
    biased, _ = encode(images=images, bias=bias)
    np.testing.assert_array_equal(biased[:, :10], plain[:, :10])
    assert (biased[:, 10:, 3].mean(1) > plain[:, 10:, 3].mean(1)).all()
    each, _ = encode(images=images, bias=np.concatenate([bias, 0 * bias]))
    np.testing.assert_array_equal(each, np.stack([biased[0], plain[1]]))


def test_mistakes_are_named(smoke, images):
    with pytest.raises(ValueError, match="32 x 80 is not made of whole 32 x 32 tiles"):
        encode_images(*smoke, images[:, :, :80], 5)
    with pytest.raises(ValueError, match="merged, aligned, tiles, blended, not 'both'"):
        decode_images(*smoke, jnp.zeros((1, 15, 21)), TILES, way="both")
    with pytest.raises(ValueError, match="16 tokens an image do not divide into 1 x 3"):
        decode_images(*smoke, jnp.zeros((1, 16, 21)), TILES, way="tiles")


@pytest.mark.slow
def test_full_size_memory_is_bounded_for_a_batch_of_1024():
    """Plans of the compiler; nothing is run."""
    config = gpstoken_m128.get_config()
    model = GPSToken(config.model)
    params = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((2, 16 * 128, 21), jnp.float32)
    decode = jax.jit(lambda params, tokens: decode_images(model, params, tokens, (4, 4)))
    plan = decode.lower(params, tokens).compile().memory_analysis()
    total = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    assert total < 6e9
