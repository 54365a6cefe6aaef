"""Tokens in bits beside files of as many bytes."""

import numpy as np
import pytest

from gpstoken_jax.evaluation.methods import (
    MODEL,
    Rate,
    check_bits,
    fit_rates,
    rate_label,
    split_name,
    tokenizer_methods,
)
from gpstoken_jax.metrics.baselines import jpeg_baseline
from gpstoken_jax.tokenizer import Tokenizer

COUNT = 4


@pytest.fixture(scope="module")
def made(random_run):
    """Reconstructions of noise by a smoke model, and the tokens they are of."""
    tokenizer = Tokenizer.from_pretrained(random_run)
    side = tokenizer.image_size
    images = np.random.default_rng(0).uniform(-1, 1, (COUNT, side, side, 3)).astype(np.float32)
    halves = images[:2], images[2:]  # as the rates are fitted to them
    tokens = np.concatenate([tokenizer.encode(half) for half in halves])
    batches = [{"image": half, "mask": np.ones(2, bool)} for half in halves]
    rates = fit_rates(tokenizer.encode, batches, (3, 8), COUNT)
    partition = tokenizer.config.partition.copy_and_resolve_references()
    methods = tokenizer_methods(tokenizer.model, tokenizer.params, partition, {}, rates=rates)
    return tokenizer, images, tokens, rates, methods({"image": images[None]})


def test_images_are_those_of_the_stored_tokens(made):
    tokenizer, _, tokens, rates, found = made
    for bits, rate in rates.items():
        codec = rate.codec
        assert codec.bits == bits
        stored = codec.decode(codec.encode(tokens), tokens.shape[1])
        images = np.asarray(found[f"tokens-{bits}bit"].images)[0]
        np.testing.assert_allclose(images, tokenizer.decode(stored), atol=1e-4)
    exact = np.asarray(found[MODEL].images)[0]
    errors = [np.abs(np.asarray(found[f"tokens-{b}bit"].images)[0] - exact).mean() for b in (3, 8)]
    assert errors[1] < errors[0] / 4


def test_bytes_are_those_of_streams_and_tables(made):
    _, _, tokens, rates, found = made
    for bits, rate in rates.items():
        streams = rate.codec.encode(tokens)
        total = sum(map(len, streams)) + rate.codec.num_bytes
        size = found[f"tokens-{bits}bit"].values["bytes"]
        assert size.shape == (1, COUNT)
        np.testing.assert_allclose(size.sum(), total)
        assert abs(rate.budget - total / COUNT) <= 0.5


def test_files_have_as_many_bytes(made):
    _, images, _, rates, found = made
    wanted = jpeg_baseline(images, rates[8].budget)
    np.testing.assert_array_equal(np.asarray(found["jpeg-8bit"].images)[0], wanted.images)
    np.testing.assert_array_equal(found["jpeg-8bit"].values["bytes"][0], wanted.num_bytes)


def test_names_are_told_from_other_methods():
    assert split_name("jpeg-6bit") == ("jpeg", 6)
    for name in ("jpeg", "model", "tokens", "bicubic", "x-jpeg-6bit"):
        assert split_name(name) is None and rate_label(name) is None
    assert rate_label("webp-10bit", short=True) == "WebP as 10 bits"


@pytest.mark.parametrize("text", ["0", "11", "-1", "six", "4.5", ""])
def test_other_bits_are_refused(text):
    with pytest.raises(ValueError, match=r"--bits: .* from 1 to 10"):
        check_bits(["6", text])
    assert check_bits(["6", "4", "6"]) == (6, 4)


def test_no_image_no_rate():
    with pytest.raises(ValueError, match="at least one image"):
        Rate.fit(np.zeros((0, 1, 1)), 6, 1)
