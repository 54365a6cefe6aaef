"""Whatever is in a file, its reader raises one documented class of error, and nothing else.

`--fuzz=N` tries N damaged files a reader; the seed of each one is its number.
"""

import collections
import contextlib
import pickle
import signal
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from gpstoken_jax.configs import tiny
from gpstoken_jax.data.images import UnreadableImageError, decode
from gpstoken_jax.generation.layouts import Layouts, LayoutsError, read_layouts, write_layouts
from gpstoken_jax.generation.layouts.file import is_layout_file
from gpstoken_jax.generation.layouts.release_pickle import layouts_of_pickle
from gpstoken_jax.metrics.frechet import Gaussian
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.files import DamagedFileError, read_json, write_json
from gpstoken_jax.runtime.manifest import OutputError, read_manifest
from gpstoken_jax.runtime.outputs import open_output
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config, write_config
from gpstoken_jax.tokens import TokensError, TokenWriter, open_tokens
from gpstoken_jax.training.metric_log import MetricLog, read_metrics
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import (
    read_about,
    read_npz,
    read_pickle,
    read_specs,
    read_tensors,
    read_torch_file,
    write_tensors,
)
from gpstoken_jax.weights.networks import load_convnext, load_lpips
from gpstoken_jax.weights.published import tokenizer_table
from gpstoken_jax.weights.sources import find_source
from gpstoken_jax.weights.statistics import StatisticsError, load_statistics, save_statistics
from tests.fuzzing import Damage, damage_bytes, damage_json, damage_safetensors

GOLDEN = Path(__file__).parent / "golden"
SECONDS = 120  # for all files of a reader; a single one that takes so long hangs


@dataclass(frozen=True)
class Reader:
    """A reader, files for it to start from, and the errors that it documents."""

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    damage: Damage = damage_bytes


def _layouts() -> Layouts:
    geometry = np.random.default_rng(0).uniform(0.1, 0.9, (4, 3, 5)).astype(np.float32)
    label = np.array([0, 1, -1, 0], np.int32)
    return Layouts(geometry, label, ("cat", "dog"), 64, {"min_size": 8, "weight": 2.5}, "here")


def _write_safetensors(folder):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((), np.float16)}
    write_tensors(folder / "a.safetensors", arrays, step=3)
    (folder / "b.safetensors").write_bytes(save(arrays))
    return [folder / "a.safetensors", folder / "b.safetensors"]


def _write_npz(folder):
    arrays = {"mu": np.arange(6.0), "text": np.array("fid"), "i": np.zeros((2, 3), np.uint8)}
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "b.npz", **arrays)
    return [folder / "a.npz", folder / "b.npz"]


def _write_statistics(folder):
    gaussian = Gaussian(np.zeros(512), np.eye(512), 3)
    save_statistics(folder / "a.npz", {"frechet_vgg16": gaussian})
    np.savez_compressed(folder / "b.npz", mu=np.zeros(3), sigma=np.eye(3))
    return [folder / "b.npz"] * 9 + [folder / "a.npz"]


def _write_torch(folder):
    return sorted((GOLDEN / "torch_files").glob("*.p*"))


def _write_pickles(folder):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    values = [
        {
            "a": array,
            "b": [array, (array.T, 3)],
            "c": np.float32(1),
            "d": np.array([array], object),
        },
        collections.defaultdict(list, {1: collections.deque([array])}),
        [None, True, "text", b"bytes", 2**70, 0.5, {"x": {}}, collections.OrderedDict(a=array)],
    ]
    return _pickles(folder, values)


def _write_layout_pickles(folder):
    layouts = list(_layouts().geometry)
    values = [
        {0: layouts, np.int64(3): np.stack(layouts)},
        [layouts[:2], layouts[2:]],
        {"1": [layout.tolist() for layout in layouts]},
    ]
    return _pickles(folder, values)


def _pickles(folder, values):
    for number, value in enumerate(values):
        for protocol in range(6):
            path = folder / f"{number}_{protocol}.pkl"
            path.write_bytes(pickle.dumps(value, protocol=protocol))
    return sorted(folder.glob("*.pkl"))


def _write_layouts(folder):
    write_layouts(folder / "a.safetensors", _layouts())
    return [folder / "a.safetensors"]


def _write_json(folder):
    write_json(folder / "a.json", {"a": [1, 2.5, None], "b": {"c": "text"}})
    (folder / "b.json").write_text('{"a": [1, 2, {"x": "\\u00e4"}]}')
    return [folder / "a.json", folder / "b.json"]


def _write_config(folder):
    write_config(RunDirectory(folder), tiny.get_config("smoke"))
    return [folder / "config.json"]


def _write_images(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 4), np.uint8)
    kinds = {
        "png": "RGBA", "jpg": "RGB", "gif": "P", "webp": "RGBA", "bmp": "RGB", "tiff": "CMYK",
        "ppm": "RGB", "jp2": "RGB",
    }  # fmt: skip
    for suffix, mode in kinds.items():
        with contextlib.suppress(OSError):  # formats that this Pillow does not write
            image = Image.fromarray(pixels).convert("RGB").convert(mode)
            exif = image.getexif()
            exif[0x0112] = 6
            image.save(folder / f"a.{suffix}", exif=exif)
    return sorted(folder.glob("a.*"))


def _write_run_weights(folder):
    config = tiny.get_config("smoke")
    table = tokenizer_table(config.model)
    rng = np.random.default_rng(0)
    tensors = {key: rng.normal(size=shape) for key, shape in (table.used | table.unused).items()}
    half = {key: np.asarray(tensor, np.float16) for key, tensor in tensors.items()}
    write_tensors(folder / "a.safetensors", half)
    return [folder / "a.safetensors"]


def _read_all(path):
    for read in (read_tensors, read_specs, read_about):
        read(path)


def _read_networks(path):
    for load in (lambda path: load_lpips("alexnet", path), load_convnext):
        load(path)


def _read_image(path):
    return decode(path.read_bytes())


def _read_source(path):
    return find_source(path).load()


def _read_config(path):
    return read_config(RunDirectory(path.parent))


def _write_tokens(folder):
    rng = np.random.default_rng(0)
    settings = {"label_names": ["cat", "dog"], "data": "here"}
    writer = TokenWriter(folder, settings, 3, shard_size=2)
    for number in writer.unfinished():
        count = len(writer.shards[number])
        sizes = {"geometry": (3, 5), "initial_geometry": (3, 5), "features": (3, 4), "size": (2,)}
        rows = {name: rng.uniform(0.1, 0.9, (count, *shape)) for name, shape in sizes.items()}
        rows |= {"label": np.zeros(count), "position": np.array(writer.shards[number])}
        writer.write(number, rows, [f"{i}.png" for i in range(count)], {})
    writer.finish({"seconds": 1.5})


def _tokens_file(pattern):
    def write(folder):
        _write_tokens(folder)
        return sorted(folder.glob(pattern))

    return write


def _read_tokens(path):
    tokens = open_tokens(path.parent)
    return [example.name for example in tokens], tokens.fingerprint(), tokens.normalisation


def _write_journal(folder):
    with open_output(folder, "things", {"a": 1}) as output:
        for i in range(3):
            output.write(f"{i}.txt", b"content")
    return [folder / "journal-00000.txt"]


def _read_journal(path):
    with open_output(path.parent, "things", {"a": 1}) as output:
        return output.names()


def _write_metrics(folder):
    log = MetricLog(RunDirectory(folder), step=0)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": 1 / step})
    log.close()
    return [folder / "metrics.jsonl"]


def _read_manifest(path):
    manifest = read_manifest(path.parent, "tokens")
    return [manifest.check(name) for name in manifest.files]


WEIGHTS = (WeightsError,)
READERS = {
    "token index": Reader(_tokens_file("index.json"), _read_tokens, (TokensError,), damage_json),
    "token shards": Reader(
        _tokens_file("tokens-*"), _read_tokens, (TokensError,), damage_safetensors
    ),
    "manifest": Reader(
        _tokens_file("manifest.json"), _read_manifest, (DamagedFileError, OutputError), damage_json
    ),
    "journal": Reader(_write_journal, _read_journal, (DamagedFileError,)),
    "metrics.jsonl": Reader(_write_metrics, read_metrics, ()),
    "safetensors": Reader(_write_safetensors, _read_all, WEIGHTS, damage_safetensors),
    "npz": Reader(_write_npz, read_npz, WEIGHTS),
    "statistics": Reader(
        _write_statistics,
        lambda p: load_statistics(p, "frechet_vgg16"),
        (StatisticsError, DamagedFileError),
    ),
    "pth": Reader(_write_torch, read_torch_file, WEIGHTS),
    "tensors": Reader(_write_torch, _read_all, WEIGHTS),
    "pickle": Reader(_write_pickles, read_pickle, WEIGHTS),
    "weights of networks": Reader(_write_pickles, _read_networks, WEIGHTS),
    "layout pickle": Reader(_write_layout_pickles, layouts_of_pickle, (LayoutsError,)),
    "layouts": Reader(_write_layouts, read_layouts, (LayoutsError,), damage_safetensors),
    "is_layout_file": Reader(_write_layouts, is_layout_file, (), damage_safetensors),
    "json": Reader(_write_json, read_json, (DamagedFileError,), damage_json),
    "config.json": Reader(_write_config, _read_config, (CheckpointError,), damage_json),
    "images": Reader(_write_images, _read_image, (UnreadableImageError,)),
    "sources": Reader(
        _write_run_weights, _read_source, (WeightsError, DamagedFileError), damage_safetensors
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_raise_what_is_documented(name, tmp_path, request):
    reader, tried = READERS[name], request.config.getoption("--fuzz")
    paths = reader.write(tmp_path)
    seeds = [path.read_bytes() for path in paths]
    path = tmp_path / paths[0].name  # in a directory of the test's, whatever the seed's
    read = 0
    for number in range(tried):
        rng = np.random.default_rng([zlib.crc32(name.encode()), number])
        first, second = rng.integers(0, len(seeds), 2)
        path.write_bytes(reader.damage(rng, seeds[first], seeds[second]))
        with _alarm(f"file {number} of {name}"):
            try:
                reader.read(path)
                read += 1
            except reader.errors as error:
                assert str(error) and "\n" not in str(error), f"file {number}: {error}"
                assert not isinstance(error.__cause__, MemoryError), f"file {number} took it all"
            except BaseException as error:
                kind = type(error).__name__
                pytest.fail(f"file {number} of {name}: {kind}: {error}")
    assert read < tried or not reader.errors  # the damage is noticed at times


@contextlib.contextmanager
def _alarm(what):
    def ring(*_):
        raise TimeoutError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
