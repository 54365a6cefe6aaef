"""encode.py and decode.py as a user runs them: images to files of tokens, and images again."""

import functools
import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from skimage import data as photos

from gpstoken_jax.configs import tiny
from gpstoken_jax.data import eval_batches, open_source
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.runtime.files import TEMPORARY_SUFFIX
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.tokens import TokensError, open_tokens
from gpstoken_jax.training.conversion import import_weights
from gpstoken_jax.weights.published import tokenizer_table
from tests import forked

ROOT = Path(__file__).parents[2]
NUM_IMAGES = 96
BATCH, SHARD = 4, 8
SHARDS = -(-(NUM_IMAGES + 1) // SHARD)  # a broken image has its place, too
TOKENS = 12  # not the config's number


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small crops of photos in two classes, and a file that breaks off."""
    folder = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("coffee", "chelsea")):
        photo = getattr(photos, name)()
        (folder / name).mkdir()
        for i in range(NUM_IMAGES // 2):
            top, left = 2 * i, 3 * (i % 100)
            crop = Image.fromarray(photo[top : top + 40 + label, left : left + 44])
            crop.save(folder / name / f"{name}_{i:03d}.{('png', 'jpg')[i % 2]}")
    first = folder / "coffee" / "coffee_000.png"
    (folder / "coffee" / "broken.png").write_bytes(first.read_bytes()[:500])
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of the smallest model, with random weights."""
    root = tmp_path_factory.mktemp("weights")
    config, rng = tiny.get_config("smoke"), np.random.default_rng(0)
    tensors = {
        key: rng.normal(0, 0.2, shape).astype(np.float32)
        for key, shape in tokenizer_table(config.model).used.items()
    }
    save_file(tensors, root / "weights.safetensors")
    import_weights(root / "weights.safetensors", config, root / "run")
    return root / "run"


def _encode(run_dir, folder, output, *more):
    sizes = f"--batch_size={BATCH}", f"--shard_size={SHARD}", f"--num_tokens={TOKENS}"
    where = f"--checkpoint={run_dir}", f"--data.folder={folder}", f"--output={output}"
    return ["encode", *where, *sizes, *more]


@pytest.fixture(scope="module")
def encoded(program, run_dir, folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("tokens")
    return output, program(*_encode(run_dir, folder, output))


def test_every_readable_image_is_there_with_what_is_known_of_it(encoded, folder):
    output, said = encoded
    assert f"{NUM_IMAGES} images in {SHARDS} shard(s)" in said
    assert f"{NUM_IMAGES + 1}/{NUM_IMAGES + 1} images" in said and "ETA" in said
    assert "skipped 1 unreadable image(s): coffee/broken.png" in said
    tokens = open_tokens(output)
    assert len(tokens) == NUM_IMAGES
    names = [str(path.relative_to(folder)) for path in folder.rglob("*_*.*")]
    assert sorted(example.name for example in tokens) == sorted(names)
    for example in (tokens[0], tokens[-1], tokens[50]):
        assert example.size == _pixels(folder / example.name).shape[:2]
        assert tokens.header["label_names"][example.label] == example.name.split("/")[0]
    assert list(tokens.index["unreadable"]) == ["coffee/broken.png"]
    assert tokens.index["unreadable"]["coffee/broken.png"]
    assert tokens.header["partition"]["num_tokens"] == TOKENS
    assert tokens.header["step"] == 0


def test_stored_tokens_are_the_models_to_the_bit(encoded, run_dir, folder):
    """With the same batches, float32 storage changes nothing. Images are decoded in other places of
    a batch, as a broken one is left out, which changes their last bits on some processors.
    """
    output, _ = encoded
    tokens, tokenizer = open_tokens(output), Tokenizer.from_pretrained(run_dir)
    config = tokenizer.config
    config.data.folder, config.partition.num_tokens = str(folder), TOKENS
    encode, decode = (
        jax.jit(lambda *a, m=m: tokenizer.model.apply(*a, method=m)) for m in ("encode", "decode")
    )
    partition = jax.jit(functools.partial(partition_images, **config.partition))
    batches = eval_batches(open_source(config.data, "all"), config.data, 32, BATCH)
    expected, images = [], []
    for batch in batches:
        made = encode(tokenizer.params, batch["image"], *partition(batch["image"]))
        expected += list(np.asarray(made)[batch["mask"]])
        images += list(np.asarray(decode(tokenizer.params, made))[batch["mask"]])
    stored = [example.tokens for example in tokens]
    np.testing.assert_array_equal(stored, expected)
    again = []
    for start in range(0, NUM_IMAGES, BATCH):
        rows, _ = tokens.read(start, start + BATCH)
        batch = np.concatenate([rows["geometry"], rows["features"]], axis=-1)
        again += list(np.asarray(decode(tokenizer.params, batch)))
    np.testing.assert_allclose(again, images, atol=2e-6)


def test_a_killed_run_goes_on_where_it_was(encoded, program, run_dir, folder, env, tmp_path):
    process = forked.Program(
        [sys.executable, "-m", "gpstoken_jax", *_encode(run_dir, folder, tmp_path)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while len(_shards(tmp_path)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    before = {path.name: path.stat().st_mtime_ns for path in _shards(tmp_path)}
    assert 2 <= len(before) < SHARDS
    with pytest.raises(TokensError, match="has not finished"):
        open_tokens(tmp_path)
    # What a kill in the middle of a file leaves.
    (tmp_path / f".tokens{TEMPORARY_SUFFIX}").write_bytes(b"half")
    said = program(*_encode(run_dir, folder, tmp_path))
    assert f"{len(before)} of {SHARDS} shards are there already" in said
    after = {path.name: path.stat().st_mtime_ns for path in _shards(tmp_path)}
    assert {name: after[name] for name in before} == before
    whole, _ = encoded
    for path in _shards(whole):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert json.loads((tmp_path / "index.json").read_text()) == json.loads(
        (whole / "index.json").read_text()
    )
    assert not list(tmp_path.glob(f".*{TEMPORARY_SUFFIX}"))


def test_decode_restores_images_and_names(encoded, program, run_dir, tmp_path):
    output, _ = encoded
    for rounding in ("round", "truncate"):
        arguments = f"--checkpoint={run_dir}", f"--tokens={output}", f"--rounding={rounding}"
        more = f"--output={tmp_path / rounding}", f"--batch_size={BATCH}"
        said = program("decode", *arguments, *more)
        assert f"{NUM_IMAGES}/{NUM_IMAGES} images" in said
    tokens, tokenizer = open_tokens(output), Tokenizer.from_pretrained(run_dir)
    example = tokens[5]
    decode = jax.jit(lambda *a: tokenizer.model.apply(*a, method="decode"))
    image = np.asarray(decode(tokenizer.params, example.tokens[None].repeat(BATCH, 0)))[0]
    exact = (np.clip(image, -1, 1) + 1) * np.float32(127.5)
    name = Path(example.name).with_suffix(".png")
    rounded, truncated = (_pixels(tmp_path / key / name) for key in ("round", "truncate"))
    np.testing.assert_array_equal(rounded, np.round(exact))
    np.testing.assert_array_equal(truncated, np.floor(exact))
    assert (rounded != truncated).any()
    names = [str(path.relative_to(tmp_path / "round")) for path in tmp_path.glob("round/*/*.png")]
    assert sorted(names) == sorted(str(Path(e.name).with_suffix(".png")) for e in tokens)


def test_short_storage_says_what_it_costs(encoded, program, run_dir, folder, tmp_path):
    said = program(*_encode(run_dir, folder, tmp_path, "--storage=bfloat16"))
    assert "bfloat16 storage: " in said and "dB PSNR instead of" in said
    short, full = open_tokens(tmp_path), open_tokens(encoded[0])
    cost = short.index["storage_cost"]
    assert cost["num_images"] == BATCH
    assert cost["psnr_stored"] > 0 and cost["psnr_stored"] != cost["psnr_float32"]
    np.testing.assert_array_equal(short[7].geometry, full[7].geometry)
    np.testing.assert_allclose(short[7].features, full[7].features, rtol=2**-8)
    assert (short[7].features != full[7].features).any()
    assert _size(tmp_path) < _size(encoded[0])


def test_bits_say_what_they_take_and_cost(encoded, program, run_dir, folder, tmp_path):
    with pytest.raises(ValueError, match="leave out --storage"):
        program(*_encode(run_dir, folder, tmp_path / "t", "--bits=7", "--storage=float16"))
    printed = program(*_encode(run_dir, folder, tmp_path / "t", "--bits=7"))
    tokens, exact = open_tokens(tmp_path / "t"), open_tokens(encoded[0])
    files = sorted((tmp_path / "t").glob("*.safetensors"))
    said = re.search(r"([\d.]+) bytes an image, tables of (\d+) .* (\d+) bytes on disk", printed)
    assert int(said[3]) == sum(file.stat().st_size for file in files)
    shards = [load_file(file) for file in files]
    assert float(said[1]) == pytest.approx(
        sum(len(s["streams"]) for s in shards) / NUM_IMAGES, abs=0.1
    )
    tables = sum(s[name].nbytes for s in shards for name in ("low", "step", "frequencies"))
    assert int(said[2]) == tables
    cost = tokens.index["storage_cost"]
    assert f"7-bit storage: {cost['psnr_stored']:.4f} dB" in printed
    for i in (0, 60, -1):
        assert tokens[i].name == exact[i].name
        spread = np.ptp([example.tokens for example in exact], axis=(0, 1))
        assert (np.abs(tokens[i].tokens - exact[i].tokens) <= spread / (2**7 - 1)).all()


def test_statistics_are_those_of_the_tokens(encoded):
    tokens = open_tokens(encoded[0])
    rows, _ = tokens.read(0, len(tokens))
    values = np.concatenate(
        [rows["geometry"] - rows["initial_geometry"], rows["features"]], axis=-1
    ).reshape(-1, 21)
    mean, std = tokens.normalisation
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(std, values.std(0), rtol=1e-4, atol=1e-6)
    assert tokens.index["statistics"]["num_tokens"] == NUM_IMAGES * TOKENS


def test_random_crops_of_each_image(program, run_dir, folder, tmp_path):
    """As a generator is trained on: several crops an image, numbered, of the class of the image."""
    few = tmp_path / "photos" / "chelsea"
    few.mkdir(parents=True)
    for path in sorted((folder / "chelsea").glob("*.png"))[:3]:
        (few / path.name).write_bytes(path.read_bytes())
    more = "--passes=4", "--crop_scale=0.3,0.6"
    program(*_encode(run_dir, tmp_path / "photos", tmp_path / "tokens", *more))
    tokens = open_tokens(tmp_path / "tokens")
    assert len(tokens) == 12 and tokens.header["passes"] == 4
    names = sorted(path.name for path in few.iterdir())
    assert [e.name for e in tokens] == [f"chelsea/{n}#{i}" for n in names for i in range(4)]
    assert all(tokens.header["label_names"][e.label] == "chelsea" for e in tokens)
    assert len({e.features.tobytes() for e in tokens}) == 12


def test_a_pickled_data_set_reads_the_same(encoded):
    tokens = open_tokens(encoded[0])
    _ = tokens[3]
    copy = pickle.loads(pickle.dumps(tokens))
    np.testing.assert_array_equal(copy[50].tokens, tokens[50].tokens)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7, 1024])
def test_any_number_of_tokens_with_one_set_of_weights(count, run_dir):
    """A 256 x 256 image has room for 1024; the weights do not depend on it, nor on its size."""
    tokenizer = Tokenizer.from_pretrained(run_dir)
    tokenizer.config.model.image_size = 256
    image = photos.astronaut()[128:384, 128:384]
    tokens = tokenizer.encode(image, num_tokens=count)
    assert tokens.shape == (count, 21)
    assert np.isfinite(tokens).all()
    assert np.isfinite(tokenizer.decode(tokens)).all()
    with pytest.raises(ValueError, match="num_tokens must be from 1 to 1024"):
        tokenizer.encode(image, num_tokens=1025)


def test_mistakes_are_named_in_one_line(encoded, program, run_dir, folder, tmp_path):
    with pytest.raises(ValueError, match=r"^[^\n]*try --shard_size=12$"):
        program(*_encode(run_dir, folder, tmp_path, "--shard_size=10"))
    where = f"--checkpoint={run_dir}", f"--tokens={folder}", f"--output={tmp_path}"
    with pytest.raises(TokensError, match=r"^[^\n]*has no index\.json[^\n]*$"):
        program("decode", *where)
    shutil.copytree(run_dir / "checkpoints" / "0", tmp_path / "later" / "checkpoints" / "7")
    shutil.copy(run_dir / "config.json", tmp_path / "later")
    where = f"--checkpoint={tmp_path / 'later'}", f"--tokens={encoded[0]}", "--output=none"
    with pytest.raises(TokensError, match=r"^[^\n]*tokens of step 0[^\n]* choose one with --step$"):
        program("decode", *where)


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def _shards(directory):
    return sorted(directory.glob("tokens-*.safetensors"))


def _size(directory):
    return sum(path.stat().st_size for path in _shards(directory))


def test_shares_of_an_array_write_one_set_of_tokens(encoded, program, run_dir, folder, tmp_path):
    """In any order, each without the others; who is last finishes it."""
    shares = [_encode(run_dir, folder, tmp_path, f"--share={i}/2") for i in (1, 0)]
    assert "share 1 of 2 is written" in program(*shares[0])
    with pytest.raises(TokensError, match="has not finished"):
        open_tokens(tmp_path)
    assert f"{NUM_IMAGES} images in" in program(*shares[1])
    assert "are there already" in program(*shares[0])
    made, whole = open_tokens(tmp_path), open_tokens(encoded[0])
    assert sorted(example.name for example in made) == sorted(example.name for example in whole)
