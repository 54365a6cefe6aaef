"""gpstoken reconstruct, and encode and decode of the same images in the same ways."""

import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from skimage import data as photos

from gpstoken_jax import Tokenizer
from gpstoken_jax.configs import tiny
from gpstoken_jax.data import resize_and_crop
from gpstoken_jax.runtime.manifest import OutputError, read_manifest
from gpstoken_jax.tokens import open_tokens
from gpstoken_jax.weights.published import tokenizer_table

NAMES = ("cats/chelsea.png", "coffee.jpg", "cats/again.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "cats").mkdir()
    for name, photo in zip(
        NAMES, (photos.chelsea(), photos.coffee(), photos.chelsea()), strict=True
    ):
        Image.fromarray(photo[: 70 + len(name), :110]).save(folder / name, quality=95)
    (folder / "broken.png").write_bytes((folder / "cats/again.png").read_bytes()[:300])
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as on the hub, with random values of a small network."""
    root, rng = tmp_path_factory.mktemp("hub"), np.random.default_rng(0)
    config = tiny.get_config("smoke")
    config.model.update(image_size=256, render_size=64)
    table = tokenizer_table(config.model)
    tensors = {
        key: rng.normal(0, 0.2, shape).astype(np.float32)
        for key, shape in (table.used | table.unused).items()
    }
    (root / "GPSToken-M128").mkdir()
    save_file(tensors, root / "GPSToken-M128" / "gpstoken_m128.safetensors")
    return root / "GPSToken-M128"


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_published_weights_over_a_folder(program, weights, folder, tmp_path):
    """Pixels in, pixels out: as published brought to size, decoded and truncated to 8 bits."""
    where = f"--checkpoint={weights}", f"--images={folder}", f"--output={tmp_path}"
    way = "--num_tokens=9", "--focus=0,0,0.5,0.5,1", "--batch_size=2"
    said = program("reconstruct", *where, *way, "--show=initial,refined,density,error")
    assert "256 x 256 pixels, 9 tokens" in said and "4/4 images" in said
    assert "skipped 1 unreadable image(s): broken.png" in said
    tokenizer = Tokenizer.from_pretrained(weights)
    focus = np.zeros((256, 256), np.float32)
    focus[:128, :128] = 1
    given = [resize_and_crop(_pixels(folder / name), 256, resize="published") for name in NAMES]
    decoded = []
    for pair in (given[:2], [given[2]] * 2):  # as many at a time, so that it is compiled once
        tokens = tokenizer.encode(np.stack(pair), num_tokens=9, focus=focus)
        decoded += list(tokenizer.decode(tokens))
    for name, pixels, image in zip(NAMES, given, decoded[:3], strict=True):
        file = name.rpartition(".")[0] + ".png"
        np.testing.assert_array_equal(_pixels(tmp_path / "gt" / file), pixels)
        unit = (np.clip(image, -1, 1) + 1) * np.float32(127.5)
        made = _pixels(tmp_path / "imgs" / file)
        assert np.abs(made - unit).max() < 1.01 and (made <= unit + 1e-3).all()
        assert min(_pixels(tmp_path / "show" / file).shape[:2]) >= 256
    assert len(list(tmp_path.glob("*/**/*.png"))) == 3 * len(NAMES)


@pytest.fixture(scope="module")
def of_list(program, random_run, folder, tmp_path_factory):
    """Reconstructions of a list of files, and the flags."""
    root = tmp_path_factory.mktemp("of_list")
    listed, output = root / "list.txt", root / "out"
    listed.write_text("".join(f"{folder / name}\tcats\n" for name in NAMES))
    where = f"--checkpoint={random_run}", f"--data.list={listed}", f"--output={output}"
    program("reconstruct", *where, "--batch_size=1")
    return output, where


def test_it_goes_on_and_refuses_other_settings(program, of_list):
    output, where = of_list
    files = sorted(path for path in output.glob("*/**/*.png"))
    assert len(files) == 6
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    files[0].unlink()
    said = program("reconstruct", *where, "--batch_size=1")
    assert "2 of 3 batches are there already" in said
    assert files[0].read_bytes() == before[files[0]][1]
    untouched = [path for path in files if path.name != files[0].name]
    assert all(path.stat().st_mtime_ns == before[path][0] for path in untouched)
    assert len(read_manifest(output, "reconstructions").files) == 6
    for other in (
        "--num_tokens=5",
        "--resolution=64",
        "--focus=0,0,1,0.5,1",
        "--rounding=truncate",
    ):
        with pytest.raises(OutputError, match="was made from something else"):
            program("reconstruct", *where, other)
    with pytest.raises(ValueError, match="num_tokens must be from 1 to 16 for a 32 x 32"):
        program("reconstruct", *where, "--num_tokens=17")
    with pytest.raises(ValueError, match="--show=gaussian: it can show initial, refined"):
        program("reconstruct", *where, "--show=gaussian")
    with pytest.raises(ValueError, match="100 x 100 is not made of whole 32 x 32 tiles"):
        program("reconstruct", *where, "--resolution=100")


def test_a_tfds_set_is_the_same(program, random_run, of_list, folder, tmp_path):
    program("prepare_data", f"--folder={folder}", f"--output={tmp_path / 'set'}")
    output = tmp_path / "out"
    where = f"--checkpoint={random_run}", f"--data.tfds_dir={tmp_path / 'set'}"
    program("reconstruct", *where, f"--output={output}", "--batch_size=1")

    def pictures(root):
        return sorted((path.name, path.read_bytes()) for path in root.glob("imgs/**/*.png"))

    assert len(pictures(output)) == len(NAMES) and pictures(output) == pictures(of_list[0])


@pytest.fixture(scope="module")
def encoded(program, random_run, folder, tmp_path_factory):
    """Tokens of rectangles, moved by boxes and by a picture, and the flags that ask for them."""
    root = tmp_path_factory.mktemp("encoded")
    shutil.copytree(folder, root / "photos")
    (root / "photos" / "broken.png").unlink()
    ramp = np.arange(0, 250, 10, dtype=np.uint8)[None].repeat(20, 0)
    Image.fromarray(ramp).save(root / "bias.png")
    asked = "--resolution=64x96", "--focus=0.5,0,0.5,1,0.3", f"--bias_map={root / 'bias.png'}"
    where = f"--checkpoint={random_run}", f"--data.folder={root / 'photos'}"
    asked = (*where, *asked, "--num_tokens=6", "--batch_size=3")
    program("encode", *asked, f"--output={root / 'tokens'}", "--shard_size=3")
    return root / "tokens", asked


@pytest.mark.slow
@pytest.mark.parametrize("way", ["merged", "tiles"])
def test_encode_and_decode_are_reconstruct(way, program, random_run, encoded, tmp_path):
    """Size, focus and picture of the bias mean the same in all three programs."""
    tokens, asked = encoded
    header = open_tokens(tokens).header
    assert header["image_size"] == [64, 96] and "bias.png" in header["focus"]
    assert len(open_tokens(tokens)[0].tokens) == 2 * 3 * 6
    decoding = (f"--high_resolution={way}",) if way != "tiles" else ("--tiles",)
    images, both = tmp_path / "images", tmp_path / "both"
    model = f"--checkpoint={random_run}"
    program("decode", model, f"--tokens={tokens}", f"--output={images}", *decoding)
    program("reconstruct", *asked, f"--output={both}", *decoding)
    for name in NAMES:
        file = name.rpartition(".")[0] + ".png"
        one, other = _pixels(images / file), _pixels(both / "imgs" / file)
        assert one.shape == (64, 96, 3)
        assert np.abs(one.astype(int) - other).max() <= 1 and (one != other).mean() < 1e-3
    with pytest.raises(OutputError, match="focus was "):
        program("encode", *asked, "--focus=0,0,1,0.1,1", f"--output={tokens}", "--shard_size=3")


def test_mirror_images_are_kept_beside_the_images(program, random_run, folder, tmp_path):
    where = f"--checkpoint={random_run}", f"--data.folder={folder}", f"--output={tmp_path / 'one'}"
    sizes = "--batch_size=4", "--shard_size=4"
    said = program("encode", *where, *sizes, "--mirror")
    assert "6 images in 2 shard(s)" in said
    tokens = open_tokens(tmp_path / "one")
    assert tokens.header["mirrored"] and tokens.copies == 2
    names = sorted(NAMES)
    assert [e.name for e in tokens] == [n + end for n in names for end in ("", "#mirrored")]
    images = []
    for i, name in enumerate(names):
        pixels = _pixels(folder / name)
        assert tokens[2 * i].size == tokens[2 * i + 1].size == pixels.shape[:2]
        fitted = resize_and_crop(pixels, 32, resize="antialias")
        images += [fitted, fitted[:, ::-1]]
    tokenizer = Tokenizer.from_pretrained(random_run)
    expected = [tokenizer.encode(np.stack(images[start : start + 4])) for start in (0, 2)]
    expected = np.concatenate([expected[0], expected[1][2:]])
    np.testing.assert_allclose([example.tokens for example in tokens], expected, atol=1e-5)
    with pytest.raises(ValueError, match="leave out --mirror"):
        program("encode", *where, *sizes, "--mirror", "--passes=2")
