"""Weights are found in every form that published ones have, and fitted to a config."""

import gzip
import json
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gpstoken_jax import Generator, Tokenizer
from gpstoken_jax.configs import gpstoken_m128, sit_tiny, tiny
from gpstoken_jax.runtime.files import DamagedFileError
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import write_tensors
from gpstoken_jax.weights.published import infer_config, sit_table, tokenizer_table
from gpstoken_jax.weights.sources import find_source
from tests.weights.torch_writer import save_torch

COUNTERS = {"initted": np.ones((), bool), "step": np.array(7)}


@pytest.fixture(scope="module")
def table():
    return tokenizer_table(tiny.get_config("smoke").model)


def _random(table, seed):
    rng = np.random.default_rng(seed)
    shapes = table.used | table.unused
    return {key: rng.normal(0, 0.2, shape).astype(np.float32) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def model(table):
    return _random(table, 1)


@pytest.fixture(scope="module")
def averaged(table):
    return _random(table, 2)


def _prefixed(tensors, prefix):
    return {prefix + key: tensor for key, tensor in tensors.items()}


def _assert_has(found, model, averaged=None):
    for name, tensors in (("params", model), ("ema_params", averaged or model)):
        expected = found.table.from_torch(tensors)
        jax.tree.map(np.testing.assert_array_equal, found.load(name), expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("wrapper", [(), ("state_dict",), ("outer", "model")])
def test_single_files(suffix, wrapper, model, tmp_path):
    path = tmp_path / f"gpstoken{suffix}"
    if suffix == ".safetensors":
        save_file(_prefixed(model, "".join(f"{name}." for name in wrapper)), path)
    else:
        value = model
        for name in reversed(wrapper):
            value = {name: value, "epoch": 3}
        save_torch(value, path)
    found = find_source(path)
    _assert_has(found, model)
    assert found.config.to_dict() == infer_config({k: t.shape for k, t in model.items()}).to_dict()
    _assert_has(find_source(tmp_path), model)


def test_a_file_is_known_by_its_content(model, tmp_path):
    save_file(model, tmp_path / "w.bin")
    _assert_has(find_source(tmp_path / "w.bin"), model)


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_any_float_type(dtype, model, table, tmp_path):
    stored = {key: tensor.astype(dtype) for key, tensor in model.items()}
    save_file(stored, tmp_path / "w.safetensors")
    _assert_has(find_source(tmp_path / "w.safetensors"), stored)


def test_a_folder_as_on_the_hub(model, averaged, tmp_path):
    for name, tensors in (("S64", model), ("M128", averaged)):
        (tmp_path / f"GPSToken-{name}").mkdir()
        file = tmp_path / f"GPSToken-{name}" / f"gpstoken_{name.lower()}.safetensors"
        save_file(tensors, file)
    (tmp_path / "README.md").write_text("# GPSToken")
    for chosen in (
        find_source(tmp_path / "GPSToken-S64"),
        find_source(tmp_path, subfolder="GPSToken-S64"),
        find_source(str(tmp_path), subfolder="s64"),
    ):
        _assert_has(chosen, model)
        assert chosen.config.partition.num_tokens == 64
    assert find_source(tmp_path, subfolder="M128").config.partition.num_tokens == 128
    with pytest.raises(WeightsError, match=r"several variants.*: GPSToken-M128, GPSToken-S64"):
        find_source(tmp_path)
    with pytest.raises(WeightsError, match=r"no sub-folder 'L256'; there are: GPSToken-M128, G"):
        find_source(tmp_path, subfolder="L256")
    shutil.rmtree(tmp_path / "GPSToken-M128")
    _assert_has(find_source(tmp_path), model)


@pytest.mark.parametrize("save, ending", [(save_file, ".safetensors"), (save_torch, ".bin")])
def test_a_folder_that_accelerate_wrote(save, ending, model, averaged, tmp_path):
    """The network, its average, the discriminator, a loss network, and what training needs."""
    name = "model" if ending == ".safetensors" else "pytorch_model"
    for step, change in ((20, 1), (100, 0)):
        folder = tmp_path / f"checkpionts.{step:08d}"
        folder.mkdir()
        save({k: t + change for k, t in model.items()}, folder / f"{name}{ending}")
        stale = _prefixed({k: t + 1 for k, t in model.items()}, "online_model.")
        kept = _prefixed(averaged, "ema_model.") | stale
        save(kept | {"step": np.ones(1, np.float32)}, folder / f"{name}_1{ending}")
        save({"discriminator.main.0.bias": np.zeros(3, "f4")}, folder / f"{name}_2{ending}")
        save({"lin0.model.1.weight": np.zeros(3, "f4")}, folder / f"{name}_3{ending}")
        for other in ("optimizer.bin", "optimizer_1.bin", "scheduler.bin", "random_states_0.pkl"):
            (folder / other).write_bytes(b"\x80\x02cos\nsystem\n.")
    for path in (folder, tmp_path):
        found = find_source(path)
        assert found.step == 100
        _assert_has(found, model, averaged)
        assert [file.name for file in found.other_files] == [
            f"{name}_2{ending}",
            f"{name}_3{ending}",
        ]
        assert found.ignored["step"] == "a counter of the moving average"


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod."])
def test_averaged_and_last_weights_in_one_file(wrapper, model, averaged, tmp_path):
    both = _prefixed(averaged, "ema_model.") | _prefixed(model, "online_model.") | COUNTERS
    save_file(_prefixed(both, wrapper), tmp_path / "w.safetensors")
    _assert_has(find_source(tmp_path / "w.safetensors"), model, averaged)
    save_file(_prefixed(averaged, "ema.") | _prefixed(model, "model."), tmp_path / "x.safetensors")
    _assert_has(find_source(tmp_path / "x.safetensors"), model, averaged)


def test_keys_that_the_model_does_not_have_are_listed(model, tmp_path):
    extra = {"loss.logvar": np.zeros(()), "decoder.extra": np.zeros(3), "quantize.w": np.zeros(1)}
    save_file(model | extra, tmp_path / "w.safetensors")
    found = find_source(tmp_path / "w.safetensors")
    assert {k for k, v in found.ignored.items() if v == "not a part of this network"} == set(extra)
    _assert_has(found, model)


def test_the_generator(tmp_path):
    config = sit_tiny.get_config("smoke")
    config.model.update(num_tokens=8, channels=21, num_classes=3, width=64)
    tensors = _random(sit_table(config.model), 3)
    save_file(_prefixed(tensors, "ema."), tmp_path / "w.safetensors")
    found = find_source(tmp_path / "w.safetensors", "sit")
    _assert_has(found, tensors)
    generator = Generator.from_pretrained(tmp_path / "w.safetensors")
    assert generator.model.num_classes == 3 and len(generator.config.statistics.mean) == 21
    with pytest.raises(WeightsError, match="has the weights of a sit, not of a tokenizer"):
        find_source(tmp_path / "w.safetensors")


def test_the_tokenizer_object_takes_them(model, tmp_path):
    save_torch(model, tmp_path / "w.pth")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "w.pth")
    config = tokenizer.config
    assert config.model.encoder.width == 32 and config.model.feature_channels == 16
    given = Tokenizer.from_pretrained(tmp_path / "w.pth", config=tiny.get_config("smoke"))
    assert given.config.model.encoder.num_heads == 4


def test_the_config_beside_them_comes_first(model, tmp_path):
    save_file(model, tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["x"], "model": "y"}))
    assert find_source(tmp_path).config.model.encoder.num_heads == 8  # of another program
    (tmp_path / "config.json").write_text(tiny.get_config("smoke").to_json())
    for path in (tmp_path, tmp_path / "w.safetensors"):
        assert find_source(path).config.model.encoder.num_heads == 4
    with pytest.raises(WeightsError, match="is of a sit, and a tokenizer is asked for"):
        find_source(tmp_path, config=sit_tiny.get_config())


def _changed(**changes):
    """Weights with some tensors replaced, or left out."""

    def write(model, folder):
        tensors = {k: changes.get(k, t) for k, t in model.items()}
        path = folder / "w.safetensors"
        save_file({k: t for k, t in tensors.items() if t is not None}, path)
        return path

    return write


def _bytes(name, data):
    """A file of these bytes, or of what a function makes of those of good weights."""

    def write(model, folder):
        path = folder / name
        save_file(model, path)
        path.write_bytes(data(path.read_bytes()) if callable(data) else data)
        return path

    return write


def _folder(*files, config=None):
    """A folder with files of parts of the weights, or of bytes, and a ``config.json``."""

    def write(model, folder):
        for number, name in enumerate(files):
            if name.endswith(".safetensors"):
                save_file(dict(list(model.items())[number :: len(files)]), folder / name)
            else:
                (folder / name).write_bytes(b"hello")
        if config is not None:
            (folder / "config.json").write_text(config)
        return folder

    return write


def _shallow():
    config = tiny.get_config("smoke")
    config.model.encoder.depth = 1
    return config


_NAN = np.full((5, 32), np.nan, np.float32)
_ENCODER = {k: None for k in tokenizer_table(tiny.get_config("smoke").model).used if "decoder" in k}
WRONG = {
    "cut short": (_bytes("w.safetensors", lambda raw: raw[:-5]), {}, r"damaged.*: copy or downl"),
    "cut in the header": (_bytes("w.safetensors", lambda raw: raw[:90]), {}, "download it again"),
    "half of an archive": (_bytes("w.pth", b"PK\x03\x04" + bytes(99)), {}, "download it again"),
    "empty": (_bytes("w.pth", b""), {}, "is empty: copy or download it again"),
    "a pointer": (_bytes("w.bin", b"version https://git-lfs.github.com/"), {}, "git lfs pull"),
    "a web page": (_bytes("w.safetensors", b"\n<!DOCTYPE html>"), {}, "a web page.*/resolve/"),
    "compressed": (_bytes("w.pth", gzip.compress(b"x" * 99)), {}, "compressed: unpack it"),
    "an array": (_bytes("w.npy", b"\x93NUMPY\x01\x00"), {}, "give a state dict"),
    "a picture": (
        _bytes("w.jpg", b"\xff\xd8\xff\xe0" + bytes(99)),
        {},
        "a picture, not weights: give another file",
    ),
    "a text": (_bytes("w.txt", b"hello world"), {}, "or give another file"),
    "a program": (_bytes("w.pth", b"\x80\x02cos\nsystem\n."), {}, r"os\.system.*state_dict\(\)"),
    "another shape": (
        _changed(**{"to_gps.0.bias": np.zeros(7, np.float32)}),
        {},
        r"to_gps\.0\.bias is 7, not 5\); is it whole",
    ),
    "another rank": (
        _changed(**{"to_gps.1.weight": np.zeros(3, np.float32)}),
        {},
        r"to_gps\.1\.weight is 3; .* give the config",
    ),
    "no values": (
        _changed(**{"to_gps.1.weight": np.zeros((0, 5), np.float32)}),
        {},
        r"to_gps\.1\.weight is 0 x 5; ",
    ),
    "whole numbers": (
        _changed(**{"to_gps.0.bias": np.zeros(5, np.int32)}),
        {},
        r"to_gps\.0\.bias is int32, not a float of 16",
    ),
    "not finite": (_changed(**{"to_gps.0.weight": _NAN}), {}, r"1 not finite .* of another step"),
    "one missing": (
        _changed(**{"gps_embed.weight": None}),
        {},
        r"missing \(gps_embed\.weight\); is",
    ),
    "half of it": (_changed(**_ENCODER), {}, r"there is no decoder\.up\..*; is it whole"),
    "another config": (
        _changed(),
        {"config": gpstoken_m128.get_config()},
        "missing.*another model.*told by the tensors' shapes",
    ),
    "a shallower config": (_changed(), {"config": _shallow()}, r"14 tensors more.*attnblocks\.1"),
    "a config of a generator": (
        _changed(),
        {"config": sit_tiny.get_config()},
        "given for it is of a sit, and a tokenizer is",
    ),
    "a tokenizer's": (_changed(), {"task": "sit"}, "weights of a tokenizer, not of a sit: give"),
    "a config that lacks": (
        _folder("w.safetensors", config='{"task": "tokenizer", "model": {}}'),
        {},
        "its model has no encoder; without one",
    ),
    "a broken config": (
        _folder("w.safetensors", config='{"task"'),
        {},
        "not JSON.*: mend it, or take it away",
    ),
    "parts": (
        _folder("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        {},
        "one of several parts of a network: join them",
    ),
    "no files": (_folder(), {}, "has no weights .*it is empty"),
    "other files": (_folder("notes.txt", "optimizer.bin"), {}, "only notes.txt, optimizer.bin"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name, model, tmp_path):
    """With the file, what of it, and what to try."""
    write, options, match = WRONG[name]
    path = write(model, tmp_path)
    with pytest.raises(WeightsError, match=match) as raised:
        find_source(path, **options).load()
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match=r"no file or folder .*gone; .* OWNER/NAME"):
        find_source(tmp_path / "gone")


def test_damage_to_our_own_files_is_noticed(model, tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, model, step=3)
    assert find_source(path).step == 3
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DamagedFileError, match=r"w\.safetensors is damaged"):
        find_source(path).load()


def test_paths_of_the_user(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(model, tmp_path / "w [1].safetensors")
    _assert_has(find_source("~/w [1].safetensors"), model)
    assert isinstance(find_source(Path("~/w [1].safetensors")).path, Path)
