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
from gpstoken_jax.weights.errors import WeightsError

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
        (lambda p: None, "must be.*got NoneType"),
        (lambda p: {"image": p}, "must be.*got dict"),
        (lambda p: (x for x in p), "must be.*got generator"),
        (lambda p: [p[0], None], "must be.*got NoneType"),
        (lambda p: b"photo.png", "must be.*got bytes"),
        (lambda p: np.array(["photo.png"]), "must be.*got ndarray"),
        (lambda p: "gone.png", "gone.png: there is no such file"),
        (lambda p: ["."], r"\.: there is no such file"),
    ],
)
def test_wrong_images_are_refused_by_name(tokenizer, pixels, images, said):
    with pytest.raises((ValueError, OSError), match=said):
        tokenizer.encode(images(pixels))


@pytest.mark.parametrize("number", [0, -1, 10**6, 2.5, 8.0, "8", True, [8]])
def test_wrong_numbers_of_tokens(tokenizer, pixels, number):
    with pytest.raises(ValueError, match="num_tokens must be from 1 to 16"):
        tokenizer.encode(pixels, num_tokens=number)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t[..., :20], "tokens of this model are"),
        (lambda t: t[0, 0], "tokens of this model are"),
        (lambda t: t[None], "tokens of this model are"),
        (lambda t: np.full_like(t, np.inf), "not finite"),
        (lambda t: t[:, :0], "tokens of this model are"),
        (lambda t: t.astype(np.complex64), "tokens must be an array of real numbers"),
        (lambda t: [t[0], t[1, 1:]], "tokens must be an array of real numbers; got list"),
        (lambda t: "tokens.safetensors", "tokens must be an array of real numbers; got str"),
        (lambda t: None, "tokens must be an array of real numbers; got None"),
    ],
)
def test_wrong_tokens(tokenizer, tokens, change, said):
    with pytest.raises(ValueError, match=said):
        tokenizer.decode(change(tokens))


@pytest.mark.parametrize("size", ["32", 32.0, (32,), (32, 32, 3), (32, "32"), 0, -32, 20])
def test_wrong_sizes(tokenizer, tokens, size):
    with pytest.raises(ValueError, match=r"image_size must be|not made of whole"):
        tokenizer.decode(tokens, image_size=size)


def test_sizes_may_be_numpys(tokenizer, tokens):
    for size in (np.int64(SIDE), np.array([SIDE, SIDE]), [SIDE, SIDE]):
        assert tokenizer.decode(tokens, image_size=size).shape == (2, SIDE, SIDE, 3)


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


@pytest.mark.parametrize(
    "focus, said",
    [
        (np.zeros((2, 3)), "focus must be boxes"),
        ([], "focus must be boxes"),
        ("face", "focus must be an array of real numbers; got str"),
        ([[0, 0, 1, 1], [0, 1]], "focus must be an array of real numbers"),
        ([0.01, 0.01, 0.02, 0.02], "holds no pixel"),
        ([1, 1, 0, 0], "holds no pixel"),
        ([0, 0, 16, 16], "leaves the image.*pixels"),
        ([[0, 0, 1, np.nan]], "finite"),
        ([[0, 0, 1, 1, np.inf]], "finite"),
        (np.full((SIDE, SIDE), np.nan), "finite"),
    ],
)
def test_wrong_focuses(tokenizer, pixels, focus, said):
    with pytest.raises(ValueError, match=said):
        tokenizer.encode(pixels, focus=focus)


def test_the_pieces_can_be_traced(tokenizer, pixels):
    images = jnp.asarray(pixels, jnp.float32) / 127.5 - 1

    def loss(params):
        _, tokens = encode_images(tokenizer.model, params, images, num_tokens=8)
        return jnp.mean((decode_images(tokenizer.model, params, tokens).images - images) ** 2)

    gradients = jax.jit(jax.grad(loss))(tokenizer.params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_the_pieces_can_be_mapped(tokenizer, pixels, tokens):
    images = jnp.asarray(pixels, jnp.float32) / 127.5 - 1

    def encode(image):
        return encode_images(tokenizer.model, tokenizer.params, image[None], num_tokens=8)[1][0]

    np.testing.assert_allclose(jax.jit(jax.vmap(encode))(images), tokens, atol=1e-5)


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
    for source in ("", None, 5, b"photos-small"):
        with pytest.raises(CheckpointError, match="a path or a name; got"):
            Tokenizer.from_pretrained(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises((CheckpointError, ValueError), match="empty"):
        Tokenizer.from_pretrained(tmp_path / "empty")


def test_choices_that_there_are_not(random_run, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for source in (random_run, tmp_path):
        with pytest.raises(CheckpointError, match="weights must be one of ema_params, params, not"):
            Tokenizer.from_pretrained(source, weights="ema")
    assert Tokenizer.from_pretrained(tmp_path, step=7).step == 7
    with pytest.raises(CheckpointError, match="step 3 is asked for, and these weights are of 7"):
        Tokenizer.from_pretrained(tmp_path, step=3)
    with pytest.raises(WeightsError, match="JSON, not weights"):
        Tokenizer.from_pretrained(tmp_path / "config.json")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    with pytest.raises(WeightsError, match="a picture, not weights"):
        Tokenizer.from_pretrained(tmp_path / "photo.png")


def test_what_an_interpreter_shows_is_a_line(tokenizer):
    assert repr(tokenizer).startswith("<Tokenizer: 32 x 32 pixels, ")
    assert len(repr(tokenizer)) < 120 and "\n" not in repr(tokenizer)


def test_the_version_and_the_names_at_the_top():
    assert gpstoken_jax.__version__.count(".") == 2
    assert Tokens is gpstoken_jax.Tokens
    with pytest.raises(AttributeError, match="Tokenizr"):
        gpstoken_jax.Tokenizr  # noqa: B018
