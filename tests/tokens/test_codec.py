"""The codec of tokens: levels come back exactly, in streams near their entropy."""

import numpy as np
import pytest

from gpstoken_jax.model.tiles import merge_tokens, split_tokens
from gpstoken_jax.tokens.codec import MAX_BITS, TokenCodec

B, L, D = 6, 40, 7


def _tokens(kind):
    rng = np.random.default_rng(0)
    tokens = rng.normal(3, 2, (B, L, D)).astype(np.float32)
    if kind == "constant channel":
        tokens[..., 1] = 0.25
    if kind == "far apart":
        tokens[..., 2] *= 1e12
        tokens[..., 3] *= 1e-12
    if kind == "outlier":
        tokens[0, 0, 4] = 1e4
    if kind == "widest and narrowest":
        tokens[..., 5] *= 1.5e38 / np.abs(tokens[..., 5]).max()
        tokens[..., 6] = rng.choice([0, 1e-45, 1e-40, 2e-38], (B, L))
    return tokens


@pytest.mark.parametrize(
    "kind", ["normal", "constant channel", "far apart", "outlier", "widest and narrowest"]
)
@pytest.mark.parametrize("bits", range(1, MAX_BITS + 1))
def test_levels_come_back(kind, bits):
    tokens = _tokens(kind)
    codec = TokenCodec.fit(tokens, bits)
    assert codec.bits == bits
    levels = codec.levels(tokens)
    assert levels.min() >= 0 and levels.max() < 2**bits
    found = codec.decode(codec.encode(tokens), L)
    np.testing.assert_array_equal(found, codec.values(levels))
    np.testing.assert_array_equal(codec.levels(found), levels)
    assert (np.abs(found - tokens) <= 0.51 * codec.step + 1e-6 * np.abs(tokens)).all()


@pytest.mark.parametrize("tiles", [(1, 1), (2, 3), (4, 4)])
def test_levels_are_as_fine_in_a_tile_as_in_an_image_of_one(tiles):
    count = tiles[0] * tiles[1]
    apart = np.random.default_rng(2).uniform(-1, 1, (3 * count, L, D)).astype(np.float32)
    tokens = merge_tokens(apart, tiles)
    codec = TokenCodec.fit(tokens, 6, tiles)
    again = TokenCodec.from_arrays(codec.to_arrays(), tiles)
    found = again.decode(codec.encode(tokens), count * L)
    np.testing.assert_array_equal(codec.levels(found), codec.levels(tokens))
    assert np.abs(split_tokens(found, tiles) - apart).max() < 0.51 * 2 / 63


def test_each_image_has_a_stream_of_its_own():
    tokens = _tokens("normal")
    codec = TokenCodec.fit(tokens, 5)
    streams = codec.encode(tokens)
    for i, stream in enumerate(streams):
        assert codec.encode(tokens[i : i + 1]) == [stream]
        np.testing.assert_array_equal(codec.decode([stream], L)[0], codec.decode(streams, L)[i])


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_streams_are_near_the_entropy(bits):
    tokens = np.random.default_rng(1).normal(size=(20, 100, D)).astype(np.float32)
    codec = TokenCodec.fit(tokens, bits)
    counts = [np.unique(column, return_counts=True)[1] for column in codec.levels(tokens).T]
    entropy = sum(-(n * np.log2(n / n.sum())).sum() for n in counts)
    size = 8 * sum(map(len, codec.encode(tokens)))
    assert entropy - 64 < size < 1.04 * entropy + 20 * 64


def test_tokens_outside_of_the_range_are_clipped():
    codec = TokenCodec.fit(_tokens("normal"), 4)
    far = np.full((1, 3, D), [[[1e9]], [[-1e9]]][0][0], np.float32)
    np.testing.assert_allclose(
        codec.decode(codec.encode(far), 3)[0, 0], codec.low + 15 * codec.step
    )


def test_tables_come_back():
    tokens = _tokens("normal")
    codec = TokenCodec.fit(tokens, 6)
    again = TokenCodec.from_arrays(codec.to_arrays())
    assert again.encode(tokens) == codec.encode(tokens)
    assert codec.num_bytes == D * (2**6 + 8)
    with pytest.raises(ValueError, match="no tables"):
        TokenCodec.from_arrays(codec.to_arrays() | {"frequencies": codec.frequencies[:, :-1]})
    with pytest.raises(ValueError, match="no tables"):
        TokenCodec.from_arrays(codec.to_arrays() | {"frequencies": 0 * codec.frequencies})
    for step in (0 * codec.step, -codec.step, np.inf * codec.step):
        with pytest.raises(ValueError, match="no tables"):
            TokenCodec.from_arrays(codec.to_arrays() | {"step": step})


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s + b"\1\0\0\0",
        lambda s: s + bytes(4),
        lambda s: s[:-4],
        lambda s: s[:-1],
        lambda s: s[4:],
    ],
)
def test_another_stream_is_refused(change):
    codec = TokenCodec.fit(_tokens("normal"), 6)
    stream = codec.encode(_tokens("normal"))[0]
    with pytest.raises(ValueError, match="not made with these tables"):
        codec.decode([change(stream)], L)


@pytest.mark.parametrize("bits", [0, -1, MAX_BITS + 1])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be from 1 to"):
        TokenCodec.fit(_tokens("normal"), bits)


@pytest.mark.parametrize("tokens", [np.zeros((0, L, D)), np.full((1, L, D), np.nan)])
def test_no_codec_of_no_tokens(tokens):
    with pytest.raises(ValueError, match="finite tokens"):
        TokenCodec.fit(tokens, 4)


def test_a_channel_wider_than_its_type_is_refused():
    tokens = np.array([[[3e38, 1], [-3e38, 1]]], np.float32)
    with pytest.raises(ValueError, match="no level fits"):
        TokenCodec.fit(tokens, 4)
