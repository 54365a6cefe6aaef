"""Outputs are of the inputs given, whatever lies in --output and whatever its name.

One chain of runs in a directory of the oddest name: images, tokens, layouts, images again.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.generation.layouts import read_layouts
from gpstoken_jax.programs.cli import user_errors
from gpstoken_jax.runtime.manifest import read_manifest
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config
from gpstoken_jax.tokens import TokenWriter, open_tokens

ROOT = Path(__file__).parents[2]
ODD = "odd [a-b] *?{x} 'q' \"d\" $HOME `w` \\ %s #;& \n\t 😀 é" + "x" * 100
NAMES = (
    "cat/1.jpg", "cat./1.jpg", "Cat/1.jpg", "cat/1.png", "a.png/1.jpg", "a.jpg", " /con.jpg",
    "e\u0301/1.jpg", "é/1.jpg", "new\nline/[1].jpg", "x" * 251 + ".jpg",
)  # fmt: skip
ALWAYS_EIO = Path("/proc/self/mem")


@pytest.fixture(scope="module")
def call(program):
    """Runs a program, which ``fails`` with these words in a line for its user."""

    def call(name, *arguments, fails=None):
        if fails is None:
            return program(name, *map(str, arguments))
        with pytest.raises(user_errors(), match=re.escape(fails)):
            program(name, *map(str, arguments))

    return call


def _files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*.png")}


@pytest.mark.slow
def test_a_chain_of_programs_under_odd_names(call, random_run, tmp_path):
    root = tmp_path / ODD
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = root / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((40, 40)).save(path)
    checkpoint, tokens = f"--checkpoint={random_run}", root / "tokens"
    encode = ["encode", checkpoint, f"--data.folder={root / 'photos'}", f"--output={tokens}"]
    encode += ["--batch_size=4", "--shard_size=4"]
    layouts, images = root / "layouts.safetensors", root / "again"
    prepare = ["prepare_layouts", f"--tokens={tokens}", f"--output={layouts}"]
    decode = ["decode", checkpoint, f"--tokens={tokens}", f"--output={images}"]
    decode += ["--batch_size=4"]

    # Everything, once: no image is lost, none is written twice; the same commands do nothing.
    for command in (encode, prepare, decode):
        call(*command)
    assert len(open_tokens(tokens)) == len(NAMES) == len(read_layouts(layouts))
    first = _files(images)
    assert len(set(first.values())) == len(first) == len(NAMES)
    assert read_manifest(images, "decoded images").facts == {"images": len(NAMES)}
    assert sorted(open_tokens(tokens).header["label_names"]) == sorted(
        {name.split("/")[0] for name in NAMES if "/" in name}
    )
    assert "3 of 3 shards are there already" in call(*encode)
    assert "3 of 3 batches are there already" in call(*decode)
    assert "Nothing has changed" in call(*prepare)

    # Another picture under the same name: noticed by each, one after the other.
    pixels = rng.integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).resize((40, 40)).save(root / "photos" / "cat" / "1.jpg")
    call(*encode, fails="made from something else: images was")
    call(*encode, "--overwrite")
    call(*prepare, fails="made from something else: tokens was")
    call(*decode, fails="made from something else: tokens was")
    (images / "mine.txt").write_text("mine")
    call(*decode, "--overwrite")
    second = _files(images)
    assert (images / "mine.txt").read_text() == "mine"
    assert first.keys() == second.keys()
    assert sum(first[name] != second[name] for name in first) == 1
    call(*prepare, "--overwrite")
    call(*decode, "--rounding=truncate", fails="rounding was 'round' and is now 'truncate'")

    # Where the output is the input, or one is in the other.
    for output in (root / "photos", root / "photos" / "cat", root, tokens):
        for command in (encode, decode):
            call(*command[:-1], f"--output={output}", fails=ODD[-99:])
    call(*prepare, f"--output={tokens / 'x.safetensors'}", "--overwrite", fails="input")
    call(*prepare, f"--output={root / 'photos' / 'a.jpg'}", "--overwrite", fails="no file of")
    assert len(list((root / "photos").rglob("*.*g"))) >= len(NAMES)


HOSTILE = (
    "//elsewhere/x.jpg", "/abs/x.jpg", "../../x.jpg", "a/../../../x.jpg", "..", ".", "", "/",
    "..\\..\\x",
    "C:\\x.jpg", "C:x.jpg", "\\\\host\\share\\x", "~/x.jpg", "a\0b.jpg", "manifest.json/x.jpg",
    "journal-00000.txt/x", "x" * 5000, "/".join("y" * 600), "\ud800.jpg",
)  # fmt: skip


def test_decode_stays_in_its_directory(call, random_run, tmp_path):
    """Whatever names a directory of tokens has, and wherever links in the output lead."""
    config = read_config(RunDirectory(random_run))
    count = config.partition.num_tokens
    settings = {
        "model": config.model.to_dict(), "step": 7, "weights_crc32": 0, "checkpoint": "x",
        "weights": "ema_params",
    }  # fmt: skip
    names = [*HOSTILE, "link/x.jpg"]
    for these in (HOSTILE, names):
        tokens = tmp_path / f"tokens{len(these)}"
        writer = TokenWriter(tokens, settings, len(these))
        geometry = np.full((len(these), count, 5), 0.2, np.float32)
        rows = {
            "geometry": geometry,
            "initial_geometry": geometry,
            "features": np.zeros((len(these), count, config.model.feature_channels), np.float32),
            "label": np.zeros(len(these)),
            "size": np.ones((len(these), 2)),
            "position": np.arange(len(these)),
        }
        writer.write(0, rows, list(these), {})
        writer.finish({})
    work, elsewhere = tmp_path / "work" / "deep" / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    decode = ["decode", f"--checkpoint={random_run}", "--batch_size=4", f"--output={work}"]
    call(*decode, f"--tokens={tmp_path / f'tokens{len(HOSTILE)}'}")
    assert len(_files(work)) == len(HOSTILE) == len(_files(tmp_path))
    (work / "link").symlink_to(elsewhere)
    call(*decode, f"--tokens={tmp_path / f'tokens{len(names)}'}", "--overwrite", fails="link")
    assert not list(elsewhere.iterdir())


def test_an_index_cannot_lead_elsewhere(tmp_path):
    """Names of shards in an index are names of files beside it."""
    for name in ("../secret", "/etc/passwd", "a/../../b", "C:x"):
        index = {"header": {"version": 1}, "shards": {name: 1}, "unreadable": {}}
        (tmp_path / "index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=r"index\.json"):
            open_tokens(tmp_path)


@pytest.mark.filterwarnings("ignore:the load_module")  # of what reads config files
@pytest.mark.skipif(not ALWAYS_EIO.exists(), reason="no file here that gives an I/O error")
def test_a_faulty_disk_ends_every_program(call, random_run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (40, 40)).save(photos / "1.png")
    (photos / "2.png").symlink_to(ALWAYS_EIO)
    fault = "2.png': Input/output error (tried 4 times)"
    data = f"--data.folder={photos}"
    call("encode", f"--checkpoint={random_run}", data, f"--output={tmp_path / 't'}", fails=fault)
    assert not (tmp_path / "t" / "index.json").exists()
    call("prepare_data", f"--folder={photos}", f"--output={tmp_path / 'd'}", fails=fault)
    config, output = "--config=configs/tiny.py:smoke", f"--output={tmp_path / 'l.safetensors'}"
    call("prepare_layouts", config, data, output, "--split=all", fails=fault)
    assert not (tmp_path / "l.safetensors").exists()
