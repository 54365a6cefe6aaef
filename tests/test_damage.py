"""Any flipped bit in a file that the programs write is noticed by whoever reads it.

``GPSTOKEN_FLIPS=all`` flips every bit instead of a few hundred a file.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save

from gpstoken_jax.data import folder, images, prepare, sources
from gpstoken_jax.generation.layouts import Layouts, LayoutsError, read_layouts, write_layouts
from gpstoken_jax.generation.layouts.file import METADATA as LAYOUT_METADATA
from gpstoken_jax.runtime import storage
from gpstoken_jax.runtime.files import DamagedFileError
from gpstoken_jax.runtime.manifest import OutputError, read_manifest
from gpstoken_jax.runtime.outputs import open_output
from gpstoken_jax.tokens import TokensError, TokenWriter, open_tokens
from gpstoken_jax.tokens.format import METADATA

FLIPS = 250
SETTINGS = {
    "step": 1, "label_names": ["cat", "dog"], "data": "photos", "partition": {"num_tokens": 3},
    "model": {"image_size": 32},
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "RETRY_SECONDS", ())


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return _write_tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def coded_tokens(tmp_path_factory):
    return _write_tokens(tmp_path_factory.mktemp("coded"), bits=4)


def _write_tokens(directory, **options):
    writer = TokenWriter(directory, SETTINGS, 5, shard_size=3, **options)
    rng = np.random.default_rng(0)
    for shard, positions in enumerate(writer.shards):
        n = len(positions)
        rows = {
            "geometry": rng.uniform(0.1, 0.9, (n, 3, 5)).astype(np.float32),
            "initial_geometry": rng.uniform(0.1, 0.9, (n, 3, 5)).astype(np.float32),
            "features": rng.normal(size=(n, 3, 2)).astype(np.float32),
            "label": np.arange(n) % 2,
            "size": np.full((n, 2), 40),
            "position": np.array(positions),
        }
        writer.write(shard, rows, [f"{p}.png" for p in positions], {"bad.png": "damaged"})
    writer.finish({})
    return directory


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    path = tmp_path_factory.mktemp("layouts") / "layouts.safetensors"
    geometry = np.random.default_rng(0).uniform(0.1, 0.8, (4, 3, 5)).astype(np.float32)
    label = np.array([0, 1, -1, 0], np.int32)
    write_layouts(path, Layouts(geometry, label, ("cat", "dog"), 32, {"min_size": 8}, "photos"))
    return path


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(3):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(root / "ab"[i % 2] / f"{i}.png")
    output = tmp_path_factory.mktemp("set")
    prepare.prepare(folder.list_folder(root), output)
    return output


def _read_tokens(directory: Path):
    found = open_tokens(directory)
    return [(e.name, e.label, e.size, e.position, e.tokens.tobytes()) for e in found], found.index


def _read_data_set(output: Path):
    source = sources.open_tfds(None, output, "train")
    rows = [source[i] for i in range(len(source))]
    return source.label_names, [(row.name, row.label, row.pixels.tobytes()) for row in rows]


def check_flips(
    path: Path,
    read: Callable[[], object],
    errors: tuple[type[Exception], ...],
    *,
    harmless: bool = False,
):
    """Flips one bit at a time; ``harmless``: of bytes that hold nothing, reading may not notice."""
    content, expected = path.read_bytes(), read()
    bits = range(8 * len(content))
    if os.environ.get("GPSTOKEN_FLIPS") != "all":
        bits = random.Random(0).sample(bits, min(FLIPS, len(bits)))
        bits += range(0, 8 * min(len(content), 60), 5)  # where formats have their beginnings
    silent = []
    try:
        for bit in bits:
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                found = read()
            except errors as error:
                if not harmless:  # the message leads to the file
                    assert path.parent.name in str(error)
            else:
                silent.append(bit) if not harmless else None
                assert not harmless or found == expected
    finally:
        path.write_bytes(content)
    assert not silent, f"{len(silent)} of {len(bits)} flips in {path.name} went unnoticed"
    assert read() == expected


@pytest.mark.parametrize("pattern", ["index.json", "tokens-*.safetensors"])
def test_tokens(pattern, tokens):
    path = sorted(tokens.glob(pattern))[0]
    check_flips(path, lambda: _read_tokens(tokens), (TokensError,))


def test_tokens_in_bits(coded_tokens):
    path = sorted(coded_tokens.glob("tokens-*.safetensors"))[0]
    check_flips(path, lambda: _read_tokens(coded_tokens), (TokensError,))


@pytest.mark.parametrize("pattern", ["manifest.json", "index.json", "tokens-*.safetensors"])
def test_manifests(pattern, tokens):
    def read():
        manifest = read_manifest(tokens, "tokens")
        return manifest, [manifest.check(name) for name in manifest.files]

    check_flips(sorted(tokens.glob(pattern))[0], read, (DamagedFileError,))


def test_fingerprints_of_tokens(tokens):
    read = lambda: open_tokens(tokens).fingerprint()  # noqa: E731
    check_flips(tokens / "manifest.json", read, (TokensError,))


def test_layouts(layouts):
    def read():
        found = read_layouts(layouts)
        return found.geometry.tobytes(), found.label.tobytes(), found.label_names, found.source

    check_flips(layouts, read, (LayoutsError,))


@pytest.mark.parametrize(
    "name", ["dataset_info.json", "features.json", "label.labels.txt", "manifest.json"]
)
def test_data_sets(name, data_set):
    (path,) = data_set.rglob(name)
    check_flips(path, lambda: _read_data_set(data_set), (DamagedFileError,))


def test_reports(data_set):
    check_flips(
        data_set / "report.json", lambda: prepare.read_report(data_set), (DamagedFileError,)
    )


def test_records(data_set):
    """Flips that a record reader does not notice lie in the empty rest of a block."""
    (path,) = data_set.rglob("*array_record*")
    errors = (images.UnreadableImageError, storage.StorageError)
    check_flips(path, lambda: _read_data_set(data_set), errors, harmless=True)
    manifest = read_manifest(data_set, "data set")
    name = path.relative_to(data_set).as_posix()
    check_flips(path, lambda: manifest.check(name), (DamagedFileError,))


def test_journals(tmp_path):
    """Of a run that was killed: what it wrote is not taken for something else."""
    with open_output(tmp_path / "out", "things", {"a": 1}) as output:
        for i in range(3):
            output.write(f"file {i}.txt", b"content %d" % i)

    def read():
        with open_output(tmp_path / "out", "things", {"a": 1}) as output:
            return dict(output._files)

    expected, path = read(), tmp_path / "out" / "journal-00000.txt"
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read()
        except (DamagedFileError, OutputError):
            continue
        # A flipped line end makes the last line a torn one: its file is written again.
        assert found.items() <= expected.items() and len(found) >= 2, bit
        path.write_bytes(content)


def test_files_of_the_first_version_are_still_read(tokens, layouts, tmp_path):
    """They had no seals and no manifest."""
    for old in sorted(tokens.glob("tokens-*.safetensors")):
        with safe_open(old, framework="np") as file:
            metadata = json.loads(file.metadata()[METADATA])
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        del metadata["seal"]
        metadata["header"]["version"] = 1
        (tmp_path / old.name).write_bytes(save(arrays, {METADATA: json.dumps(metadata)}))
    index = json.loads((tokens / "index.json").read_text())
    del index["seal"]
    index["header"]["version"] = 1
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert _read_tokens(tmp_path)[0] == _read_tokens(tokens)[0]
    assert open_tokens(tmp_path).fingerprint() == open_tokens(tmp_path).fingerprint()
    with safe_open(layouts, framework="np") as file:
        header = json.loads(file.metadata()[LAYOUT_METADATA])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key in ("seal", "made_from"):
        del header[key]
    header["version"] = 1
    (tmp_path / "old").write_bytes(save(arrays, {LAYOUT_METADATA: json.dumps(header)}))
    assert read_layouts(tmp_path / "old").label_names == ("cat", "dog")
