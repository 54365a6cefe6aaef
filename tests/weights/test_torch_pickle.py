"""Files that torch.save wrote are read without PyTorch; files that try to do more are not."""

import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gpstoken_jax.weights.array_pickle import UnsafePickleError
from gpstoken_jax.weights.torch_pickle import read_torch_file
from gpstoken_jax.weights.weight_files import WeightFileError, read_state_dict, select_tensors

both_layouts = pytest.mark.parametrize("layout", ["", "_legacy"])


@pytest.fixture(scope="module")
def files(golden_dir):
    return golden_dir / "torch_files"


def _numbers(*shape, dtype="float32"):
    return (np.arange(np.prod(shape)) / 4).reshape(shape).astype(dtype)


@both_layouts
def test_every_kind_of_tensor(files, layout):
    tensors = read_torch_file(files / f"kinds{layout}.pth")
    shared = _numbers(4, 6)
    expected = {
        "double": _numbers(2, 3, dtype="float64"),
        "half": _numbers(2, 3, dtype="float16"),
        "brain": _numbers(2, 3, dtype=ml_dtypes.bfloat16),
        "long": np.arange(-2, 4),
        "int": np.arange(-2, 4, dtype=np.int32),
        "short": np.arange(-2, 4, dtype=np.int16),
        "byte": np.arange(4, dtype=np.uint8),
        "char": np.arange(-2, 2, dtype=np.int8),
        "bool": np.array([True, False]),
        "transposed": shared.T,
        "part": shared[1:3, ::2],
        "scalar": np.float32(2.5),
        "nothing": np.zeros((0, 3), np.float32),
        "expanded": np.full((2, 3), 1.5, np.float32),
        "channels_last": _numbers(1, 2, 2, 2),
        "parameter": _numbers(2),
    }
    assert list(tensors) == list(expected)
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype and not tensor.flags.writeable
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


@both_layouts
def test_a_checkpoint_around_a_state_dict(files, layout):
    value = read_torch_file(files / f"nested{layout}.pth")
    assert (value["epoch"], value["note"], value["list"][1]) == (3, "done", None)
    inside = read_state_dict(files / f"nested{layout}.pth")
    alone = read_state_dict(files / f"module{layout}.pth")
    assert inside.keys() == alone.keys() and "1.running_var" in alone
    np.testing.assert_array_equal(alone["0.weight"], _numbers(3, 2, 1, 2))
    np.testing.assert_array_equal(inside["0.weight"], alone["0.weight"])


def test_numbers_of_a_machine_of_the_other_byte_order(files, tmp_path):
    path = tmp_path / "big.pth"
    with zipfile.ZipFile(files / "module.pth") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            raw = old.read(name)
            if "/data/" in name:
                raw = np.frombuffer(raw, "i8" if len(raw) == 8 else "f4").byteswap().tobytes()
            new.writestr(name, b"big" if name.endswith("byteorder") else raw)
    for name, tensor in read_torch_file(path).items():
        np.testing.assert_array_equal(tensor, read_torch_file(files / "module.pth")[name])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("whole_module.pth", r"names torch\.nn\.modules"),
        ("torchscript.pt", "TorchScript program, not a state dict"),
    ],
)
def test_more_than_tensors_is_refused(files, name, message):
    with pytest.raises(UnsafePickleError, match=message) as error:
        read_torch_file(files / name)
    assert name in str(error.value)


# Hostile and broken files, assembled from the pickle machine's instructions.


def _text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def _int(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _storage(kind=b"ctorch\nFloatStorage\n", size=8) -> bytes:
    return _tuple(_text("storage"), kind, _text("0"), _text("cpu"), _int(size)) + b"Q"


def _tensor(offset=0, shape=(2, 4), strides=(4, 1), storage=None) -> bytes:
    sizes = (_tuple(*map(_int, shape)), _tuple(*map(_int, strides)))
    parts = _tuple(storage or _storage(), _int(offset), *sizes, b"\x89", b"N")
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + parts + b"R"


def _write(path: Path, value: bytes, compression=zipfile.ZIP_STORED, size=8) -> Path:
    """An archive as of torch.save whose program gives {"w": value}; one storage of 8 floats."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}" + _text("w") + value + b"s.")
        archive.writestr("a/data/0", np.arange(size, dtype=np.float32).tobytes())
    return path


def test_the_assembler_writes_proper_files(tmp_path):
    tensor = read_torch_file(_write(tmp_path / "a.pth", _tensor(1, (2, 3))))["w"]
    np.testing.assert_array_equal(tensor, [[1, 2, 3], [5, 6, 7]])


_TOUCH = b"cpathlib\nPath\n(" + _text("touched") + b"tR"


@pytest.mark.parametrize(
    "program",
    {
        "call": b"cbuiltins\neval\n(" + _text("open('touched', 'w')") + b"tR",
        "path": b"cpathlib\nPath.touch\n(" + _TOUCH + b"tR",
        "getattr": b"cbuiltins\ngetattr\n(" + _tensor() + _text("tofile") + b"tR",
        "stack global": _text("os")
        + _text("system")
        + b"\x93"
        + _tuple(_text("touch touched"))
        + b"R",
        "INST": b"(" + _text("touch touched") + b"ios\nsystem\n",
        "alter a function": b"ctorch._utils\n_rebuild_tensor_v2\n}"
        + _text("_function")
        + b"cbuiltins\nprint\nsb",
        "alter a dictionary type": b"ccollections\nOrderedDict\n}" + _text("x") + b"Nsb",
        "alter a storage type": b"ctorch\nFloatStorage\n}" + _text("dtype") + b"Nsb",
        "alter a tensor": _tensor() + b"}" + _text("offset") + _int(-4) + b"sb",
        "call a storage type": b"ctorch\nFloatStorage\n)R",
        "new object of a name": b"ctorch\nFloatStorage\n)\x81",
        "a bare name": b"ctorch\nFloatStorage\n",
        "a bare storage": _storage(),
        "beyond the storage": _tensor(1),
        "long strides": _tensor(strides=(5, 1)),
        "negative offset": _tensor(-1),
        "negative stride": _tensor(7, (8,), (-1,)),
        "fractional shape": _tensor().replace(_int(2), b"G" + bytes(8)),
        "missing stride": _tensor(strides=(1,)),
        "storage of another kind": _tensor(
            storage=_storage(b"ctorch._utils\n_rebuild_parameter\n")
        ),
        "tensor of a tensor": _tensor(storage=_tensor()),
        "long storage": _tensor(storage=_storage(size=9)),
        "unknown dtype": _tensor(storage=_storage(b"ctorch\nComplexFloatStorage\n")),
        "endless": b"}2" + _text("self") + b"2s",
    }.values(),
)
def test_nothing_in_a_file_is_executed_or_read_from_elsewhere(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path / "bad.pth", program)
    with pytest.raises(UnsafePickleError, match=r"bad\.pth"):
        read_torch_file(path)
    assert not (tmp_path / "touched").exists()
    good = read_torch_file(_write(tmp_path / "good.pth", _tensor()))["w"]  # the reader is unharmed
    np.testing.assert_array_equal(good, np.arange(8).reshape(2, 4))


def test_a_shared_list_is_not_copied_out(tmp_path):
    """Forty lists, each of the one before twice: 2^40 entries if every path were followed."""
    nest = b"]q\x00" + b"".join(b"0](h%ch%ceq%c" % (i, i, i + 1) for i in range(40))
    assert len(read_torch_file(_write(tmp_path / "deep.pth", nest))["w"]) == 2


@pytest.mark.parametrize("layout", ["kinds.pth", "kinds_legacy.pth"])
@pytest.mark.parametrize("keep", [0, 3, 200, 0.5, -40])
def test_files_cut_short(files, tmp_path, layout, keep):
    raw = (files / layout).read_bytes()
    path = tmp_path / "short.pth"
    path.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(UnsafePickleError, match=r"short\.pth"):
        read_torch_file(path)


def test_other_files(tmp_path):
    ordinary = tmp_path / "ordinary.pkl"
    ordinary.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsafePickleError, match="ordinary"):
        read_torch_file(ordinary)
    with pytest.raises(UnsafePickleError, match="compressed"):
        read_torch_file(_write(tmp_path / "c.pth", _tensor(), zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(UnsafePickleError, match=r"not one that torch\.save wrote"):
        read_torch_file(tmp_path / "z.pth")
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pth")


# State dicts and what a network expects.


def test_state_dicts_from_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": _numbers(2, 3), "b": _numbers(2, dtype=ml_dtypes.bfloat16)}, path)
    tensors = read_state_dict(path)
    np.testing.assert_array_equal(tensors["a"], _numbers(2, 3))
    chosen = select_tensors(tensors, {"a": (2, 3), "b": (2,)}, source=path, network="a test")
    assert {tensor.dtype for tensor in chosen.values()} == {np.dtype(np.float32)}
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(WeightFileError, match=r"weights\.safetensors is not a safetensors file"):
        read_state_dict(path)
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "none.safetensors")


def test_files_without_names_are_not_state_dicts(files, tmp_path):
    with pytest.raises(WeightFileError, match=r"w' is no tensor"):
        read_state_dict(_write(tmp_path / "text.pth", _text("hello")))
    with zipfile.ZipFile(tmp_path / "none.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    with pytest.raises(WeightFileError, match="no tensors by name"):
        read_state_dict(tmp_path / "none.pth")


def _select(tensors, **options):
    expected = {"conv.weight": (2, 3), "fc.bias": (2,)}
    return select_tensors(tensors, expected, source="f.pth", network="a net", **options)


def test_prefixes_and_counters_are_no_obstacle():
    tensors = {"m.conv.weight": _numbers(2, 3), "m.fc.bias": _numbers(2), "m.bn.steps": np.int64(3)}
    assert set(_select(tensors, ignored=["steps"])) == {"conv.weight", "fc.bias"}
    with pytest.raises(WeightFileError, match=r"1 unknown \(bn\.steps\)"):
        _select(tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, r"f\.pth does not hold a net: 1 missing \(fc\.bias\)"),
        ({"fc.bias": _numbers(3)}, r"1 of another shape \(fc\.bias \(3,\) instead of \(2,\)\)"),
        ({"fc.bias": np.array([1, np.nan])}, r"1 not finite \(fc\.bias\)"),
        ({f"x{i}": _numbers(1) for i in range(9)}, r"9 unknown \(x0, x1, x2, x3, \.\.\.\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    tensors = {"conv.weight": _numbers(2, 3), "fc.bias": _numbers(2)} | change
    with pytest.raises(WeightFileError, match=message):
        _select({name: tensor for name, tensor in tensors.items() if tensor is not None})
