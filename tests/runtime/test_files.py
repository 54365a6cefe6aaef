"""Atomic writes, and seals that notice every flipped bit."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from gpstoken_jax.runtime import files
from gpstoken_jax.runtime.files import DamagedFileError

VALUE = {"name": "a [b] 'c' \"d\" é 🎈", "numbers": [1, 2.5, None], "nested": {"deep": True}}


def _sealed_kinds(tmp_path):
    """One file of each format, and how it is read."""
    tensors = {"x": np.arange(6, dtype=np.float32)}
    metadata = {"gpstoken_jax": json.dumps({"seal": files.UNSEALED, **VALUE})}
    weights = tmp_path / "x.safetensors"
    files.write_file(weights, files.seal_bytes(save(tensors, metadata)))
    archive = io.BytesIO()
    np.savez(archive, **tensors)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.comment = files.UNSEALED.encode()
    numpy = tmp_path / "x.npz"
    files.write_file(numpy, files.seal_bytes(archive.getvalue()))
    text = tmp_path / "x.json"
    files.write_json(text, VALUE)
    return {
        weights: files.check_sealed_file,
        numpy: files.check_sealed_file,
        text: lambda path: files.read_json(path, required=True),
    }


def test_every_flipped_bit_of_every_format_is_noticed(tmp_path):
    for path, read in _sealed_kinds(tmp_path).items():
        read(path)
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole)):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match=path.name):
                read(path)


@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_files_cut_short(tmp_path, keep):
    for path, read in _sealed_kinds(tmp_path).items():
        whole = path.read_bytes()
        path.write_bytes(whole[: int(keep * len(whole)) if keep == 0.5 else keep])
        with pytest.raises(DamagedFileError, match=path.name):
            read(path)


def test_sealed_files_are_ordinary_files_of_their_format(tmp_path):
    from safetensors.numpy import load_file

    weights, numpy, text = _sealed_kinds(tmp_path)
    np.testing.assert_array_equal(load_file(weights)["x"], np.arange(6))
    np.testing.assert_array_equal(np.load(numpy)["x"], np.arange(6))
    assert files.read_json(text) == VALUE == {k: json.loads(text.read_text())[k] for k in VALUE}


def test_json_of_early_versions_has_no_seal(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(VALUE))
    assert files.read_json(path) == VALUE
    with pytest.raises(DamagedFileError, match=r"old\.json is damaged"):
        files.read_json(path, required=True)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_json_of_any_bytes_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_bytes(data)
    with contextlib.suppress(DamagedFileError):
        assert isinstance(files.read_json(path), dict)


def test_names_that_look_like_seals(tmp_path):
    value = {"a": files.UNSEALED, "b": f"x{files.UNSEALED[:-1]}1"}
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json", required=True) == value


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    files.write_file(path, "old")
    with pytest.raises(RuntimeError), files.open_new(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_kill_leaves_the_old_file_and_its_leftover_is_swept_away(tmp_path):
    path = tmp_path / "x"
    files.write_file(path, "old")
    program = (
        "import os, signal, sys; from gpstoken_jax.runtime import files\n"
        f"with files.open_new({str(path)!r}) as file:\n"
        "    file.write(b'new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    with files.open_new(path) as file:  # this one is still being written
        files.remove_temporary_files(tmp_path)
        file.write(b"newest")
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_text() == "newest"


@pytest.mark.parametrize("name", ["[a]", "*", "?", " ", "'\"", "a\nb", "\\", "🎈", "x" * 255])
def test_odd_names(tmp_path, name):
    files.write_json(tmp_path / name, VALUE)
    assert files.read_json(tmp_path / name) == VALUE
