"""The tokenizer as an object: every kind of input, every kind of mistake, and round trips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

import gpstoken_jax
from gpstoken_jax import Tokenizer, Tokens
from gpstoken_jax.model.high_resolution import decode_images, encode_images
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.files import DamagedFileError

SIDE = 32


@pytest.fixture(scope="module")
def tokenizer(random_run):
    return Tokenizer.from_pretrained(random_run)


@pytest.fixture(scope="module")
def pixels():
    return np.stack([photos.astronaut()[y : y + SIDE, 200 : 200 + SIDE] for y in (40, 90)])


@pytest.fixture(scope="module")
def tokens(tokenizer, pixels):
    return tokenizer.encode(pixels)


def test_tokens_are_those_of_the_pure_functions(tokenizer, pixels, tokens):
    images = pixels.astype(np.float32) / 127.5 - 1
    partition = tokenizer.config.partition
    encode = jax.jit(lambda p, x: encode_images(tokenizer.model, p, x, **partition)[1])
    decode = jax.jit(lambda p, x: decode_images(tokenizer.model, p, x).images)
    expected = encode(tokenizer.params, images)
    assert tokens.shape == (2, 8, 21)
    assert tokens.dtype == np.float32
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    again = decode(tokenizer.params, expected)
    np.testing.assert_allclose(tokenizer.decode(tokens), again, atol=1e-4)


def test_every_form_of_an_image_gives_the_same_tokens(tokenizer, pixels, tokens, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(pixels[0]).save(path)
    floats = pixels[0].astype(np.float32) / 127.5 - 1
    for image in (
        pixels[0],
        floats,
        jnp.asarray(floats),
        jnp.asarray(pixels[0]),
        floats.astype(np.float64),
        Image.fromarray(pixels[0]),
        path,
        str(path),
    ):
        one = tokenizer.encode(image)
        assert one.shape == (8, 21)
        np.testing.assert_allclose(one, tokens[0], atol=1e-5)
    for batch in ([path, Image.fromarray(pixels[1])], list(pixels), tuple(jnp.asarray(pixels))):
        np.testing.assert_allclose(tokenizer.encode(batch), tokens, atol=1e-5)


@pytest.mark.parametrize(
    "images, said",
    [
        (lambda p: p.astype(np.float32), r"must be in \[-1, 1\]; these go from .* give uint8"),
        (lambda p: p.astype(np.int32), "uint8, or floats .* got int32"),
        (lambda p: p > 100, "got bool"),
        (lambda p: p[..., 0], "channel"),
        (lambda p: p[..., :2], "3 channels"),
        (lambda p: p.transpose(0, 3, 1, 2), "channel-first"),
        (lambda p: p[None], "3 channels|channel-last"),
        (lambda p: p[:0], "no image"),
        (lambda p: np.full(p.shape, np.nan, np.float32), "not finite"),
        (lambda p: p[:, :20], r"20 x 32 is not made of whole 32 x 32 tiles.*resize"),
        (lambda p: [p[0], p[1][:, :16]], "one size.*32 x 16, 32 x 32"),
        (lambda p: [], "no image"),
        (lambda p: None, "must be"),
        (lambda p: "gone.png", "gone.png"),
    ],
)
def test_wrong_images_are_refused_by_name(tokenizer, pixels, images, said):
    with pytest.raises((ValueError, OSError), match=said):
        tokenizer.encode(images(pixels))


@pytest.mark.parametrize("number", [0, -1, 10**6, 2.5])
def test_wrong_numbers_of_tokens(tokenizer, pixels, number):
    with pytest.raises((ValueError, TypeError), match=r"token|integer"):
        tokenizer.encode(pixels, num_tokens=number)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t[..., :20], "tokens of this model are"),
        (lambda t: t[0, 0], "tokens of this model are"),
        (lambda t: t[None], "tokens of this model are"),
        (lambda t: np.full_like(t, np.inf), "not finite"),
        (lambda t: t[:, :0], "tokens of this model are"),
    ],
)
def test_wrong_tokens(tokenizer, tokens, change, said):
    with pytest.raises(ValueError, match=said):
        tokenizer.decode(change(tokens))


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_larger_images_find_their_tiles(tokenizer, size):
    image = photos.astronaut()[: size[0], : size[1]]
    tokens = tokenizer.encode(image)
    tiles = size[0] * size[1] // SIDE**2
    assert tokens.shape == (8 * tiles, 21)
    assert tokens.image_size == size
    assert tokenizer.decode(tokens).shape == (*size, 3)
    assert tokenizer.decode(tokens + 0).shape == (*size, 3)
    assert tokenizer.decode(np.asarray(tokens), image_size=size).shape == (*size, 3)
    assert tokenizer.decode(np.array(tokens)).shape == (SIDE, SIDE, 3)
    assert tokenizer.decode(jnp.asarray(tokens)).shape == (SIDE, SIDE, 3)


def test_pixels(tokenizer, tokens):
    images, pixels = tokenizer.decode(tokens), tokenizer.decode(tokens, uint8=True)
    assert pixels.dtype == np.uint8
    inside = np.abs(images) <= 1
    assert np.abs(pixels.astype(np.float32) / 127.5 - 1 - images)[inside].max() <= 1 / 255 + 1e-6


def test_focus_moves_tokens(tokenizer):
    image = np.asarray(Image.fromarray(photos.astronaut()).resize((SIDE, SIDE)))
    box = np.array([0.0, 0.0, 1.0, 1.0])

    def inside(tokens):
        return int(((tokens[:, 3] > 0) & (tokens[:, 4] > 0)).sum())

    config = tokenizer.config.partition
    before = config.min_size
    plain = tokenizer.encode(image, num_tokens=10)
    focused = tokenizer.encode(image, num_tokens=10, focus=np.append(box, 5.0))
    boxes = tokenizer.encode(image, num_tokens=10, focus=[[*box, 5.0]])
    strengths = np.zeros((SIDE, SIDE), np.float32)
    y = x = np.linspace(-1, 1, SIDE)
    strengths[np.ix_(y >= 0, x >= 0)] = 5
    assert inside(focused) >= inside(plain)
    np.testing.assert_array_equal(focused, boxes)
    np.testing.assert_array_equal(focused, tokenizer.encode(image, num_tokens=10, focus=strengths))
    assert config.min_size == before
    with pytest.raises(ValueError, match="focus must be boxes"):
        tokenizer.encode(image, focus=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="holds no pixel"):
        tokenizer.encode(image, focus=[2, 2, 3, 3])


def test_the_pieces_can_be_traced(tokenizer, pixels):
    images = jnp.asarray(pixels, jnp.float32) / 127.5 - 1

    def loss(params):
        _, tokens = encode_images(tokenizer.model, params, images, num_tokens=8)
        return jnp.mean((decode_images(tokenizer.model, params, tokens).images - images) ** 2)

    gradients = jax.jit(jax.grad(loss))(tokenizer.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("dtype, atol", [("float32", 0), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_saved_and_loaded_again(tokenizer, tmp_path, dtype, atol):
    tokenizer.save_pretrained(tmp_path / "out", dtype=dtype)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    for source in (tmp_path / "out", str(tmp_path / "out"), tmp_path / "out" / "model.safetensors"):
        loaded = Tokenizer.from_pretrained(source)
        assert loaded.config.to_dict() == tokenizer.config.to_dict()
        assert loaded.step == tokenizer.step
        for old, new in zip(
            jax.tree.leaves(tokenizer.params), jax.tree.leaves(loaded.params), strict=True
        ):
            assert new.dtype == np.float32
            np.testing.assert_allclose(old, new, atol=atol)


def test_saved_files_notice_damage(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for name in ("model.safetensors", "config.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        for position in np.linspace(0, len(whole) - 1, 40).astype(int):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            with pytest.raises((DamagedFileError, CheckpointError, ValueError), match=name):
                Tokenizer.from_pretrained(tmp_path)
        path.write_bytes(whole)
    Tokenizer.from_pretrained(tmp_path)


def test_checkpoints_of_a_run_by_path(random_run, tokenizer):
    for source in (random_run / "checkpoints", random_run / "checkpoints" / "7"):
        assert Tokenizer.from_pretrained(source).step == 7
    with pytest.raises(CheckpointError, match="not a checkpoint of step 3"):
        Tokenizer.from_pretrained(random_run / "checkpoints" / "7", step=3)


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(
        CheckpointError, match="there is no nothing-of-the-kind: no path, no repository"
    ):
        Tokenizer.from_pretrained("nothing-of-the-kind")
    (tmp_path / "empty").mkdir()
    with pytest.raises((CheckpointError, ValueError), match="empty"):
        Tokenizer.from_pretrained(tmp_path / "empty")


def test_the_version_and_the_names_at_the_top():
    assert gpstoken_jax.__version__.count(".") == 2
    assert Tokens is gpstoken_jax.Tokens
    with pytest.raises(AttributeError, match="Tokenizr"):
        gpstoken_jax.Tokenizr  # noqa: B018
