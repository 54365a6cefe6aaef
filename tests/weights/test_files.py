"""PyTorch, NumPy and safetensors files are read as data; files that try to do more are not."""

import argparse
import collections
import contextlib
import io
import pickle
import signal
import tracemalloc
import zipfile
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gpstoken_jax.runtime.files import DamagedFileError, check_sealed_file
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
from gpstoken_jax.weights.networks import select_tensors

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
    inside = read_tensors(files / f"nested{layout}.pth")
    alone = read_tensors(files / f"module{layout}.pth")
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
    with pytest.raises(WeightsError, match=message) as error:
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
    with pytest.raises(WeightsError, match=r"bad\.pth"):
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
    with pytest.raises(WeightsError, match=r"short\.pth"):
        read_torch_file(path)


def test_other_files(tmp_path):
    ordinary = tmp_path / "ordinary.pkl"
    ordinary.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="ordinary"):
        read_torch_file(ordinary)
    with pytest.raises(WeightsError, match="compressed"):
        read_torch_file(_write(tmp_path / "c.pth", _tensor(), zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(WeightsError, match=r"not one that torch\.save wrote"):
        read_torch_file(tmp_path / "z.pth")
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pth")


# State dicts and what a network expects.


def test_state_dicts_from_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": _numbers(2, 3), "b": _numbers(2, dtype=ml_dtypes.bfloat16)}, path)
    tensors = read_tensors(path)
    np.testing.assert_array_equal(tensors["a"], _numbers(2, 3))
    chosen = select_tensors(tensors, {"a": (2, 3), "b": (2,)})
    assert {tensor.dtype for tensor in chosen.values()} == {np.dtype(np.float32)}
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(
        WeightsError, match=r"weights\.safetensors is damaged or not a safetensors file"
    ):
        read_tensors(path)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.safetensors")


def test_files_without_names_are_not_state_dicts(files, tmp_path):
    with pytest.raises(WeightsError, match="no tensors by name"):
        read_tensors(_write(tmp_path / "text.pth", _text("hello")))
    with zipfile.ZipFile(tmp_path / "none.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    with pytest.raises(WeightsError, match="no tensors by name"):
        read_tensors(tmp_path / "none.pth")


def _select(tensors, **options):
    expected = {"conv.weight": (2, 3), "fc.bias": (2,)}
    return select_tensors(tensors, expected, **options)


def test_prefixes_and_counters_are_no_obstacle():
    tensors = {"m.conv.weight": _numbers(2, 3), "m.fc.bias": _numbers(2), "m.bn.steps": np.int64(3)}
    assert set(_select(tensors, ignored=["steps"])) == {"conv.weight", "fc.bias"}
    with pytest.raises(WeightsError, match=r"1 unknown \(bn\.steps\)"):
        _select(tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, r"1 missing \(fc\.bias\)"),
        ({"fc.bias": _numbers(3)}, r"1 of another shape \(fc\.bias is 3, not 2\)"),
        ({"fc.bias": np.array([1, np.nan])}, r"1 not finite \(fc\.bias\)"),
        ({f"x{i}": _numbers(1) for i in range(9)}, r"9 unknown \(x0, x1, x2, x3, \.\.\.\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    tensors = {"conv.weight": _numbers(2, 3), "fc.bias": _numbers(2)} | change
    with pytest.raises(WeightsError, match=message):
        _select({name: tensor for name, tensor in tensors.items() if tensor is not None})


# Pickles of arrays.


class _Calls:
    """Unpickles into a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _dump(path: Path, value, protocol: int = 3) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1", "bool", "<i8"])
def test_arrays_come_back(tmp_path, dtype, protocol):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    tree = {
        "a": array,
        "b": [np.asfortranarray(array[0]), (array[..., :0], 3)],
        "scalar": array[0, 0, 0:1],
    }
    read = read_pickle(_dump(tmp_path / "a.pkl", tree, protocol))
    assert jax.tree.structure(read) == jax.tree.structure(tree)
    for got, expected in zip(jax.tree.leaves(read), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "bomb",
    [
        _Calls(Path.touch, Path("touched")),
        _Calls(eval, "open('touched', 'w')"),
        _Calls(getattr, np.ndarray, "tofile"),
        np.array([_Calls(Path.touch, Path("touched"))], dtype=object),
        np.zeros(2, dtype=[("x", "f4")]),
        {"fine": np.zeros(3), "rest": [_Calls(np.ndarray, (2,))]},
    ],
    ids=["touch", "eval", "getattr", "object array", "record array", "ndarray call"],
)
def test_nothing_in_a_pickle_is_executed(tmp_path, monkeypatch, bomb):
    monkeypatch.chdir(tmp_path)
    path = _dump(tmp_path / "bomb.pkl", bomb)
    with pytest.raises(WeightsError, match=r"bomb\.pkl"):
        read_pickle(path)
    assert not (tmp_path / "touched").exists()


def test_the_bomb_would_have_gone_off(tmp_path, monkeypatch):
    """The test above can fail: the ordinary reader does run such a file."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(_Calls(Path.touch, Path("touched"))))
    assert (tmp_path / "touched").exists()


def test_a_file_cannot_alter_the_reader(tmp_path):
    """A BUILD instruction on a named class would set the class's attributes."""
    program = b"\x80\x03cnumpy\nndarray\n(NX\x08\x00\x00\x00__init__X\x01\x00\x00\x00xs\x86b."
    path = tmp_path / "build.pkl"
    path.write_bytes(program)
    with pytest.raises(WeightsError):
        read_pickle(path)
    array = np.arange(3)
    np.testing.assert_array_equal(read_pickle(_dump(tmp_path / "ok.pkl", array)), array)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-20], lambda raw: b"", lambda raw: b"PK\x03\x04" + raw]
)
def test_damaged_files_are_named(tmp_path, damage):
    path = _dump(tmp_path / "weights.pkl", {"a": np.zeros((8, 8), np.float32)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"weights\.pkl"):
        read_pickle(path)


def test_a_missing_file_is_an_ordinary_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_pickle(tmp_path / "none.pkl")


def test_containers_and_numbers_of_every_kind(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    stored = {
        "default": collections.defaultdict(list, {np.int64(3): [array]}),
        "ordered": collections.OrderedDict([("a", (1, None, True)), ("b", 2.5)]),
        "deque": collections.deque([array, array], maxlen=5),
        "numbers": [np.float32(0.5), np.int16(-3), np.bool_(True), 2**70],
        "objects": np.array([array, "text"], dtype=object),
        "flags": argparse.Namespace(lr=0.1, name="x"),
        "bytes": [b"raw", bytearray(b"more")],
    }
    for protocol in range(6):
        read = read_pickle(_dump(tmp_path / "c.pkl", stored, protocol))
        np.testing.assert_array_equal(read["default"][3][0], array)
        assert read["ordered"] == {"a": (1, None, True), "b": 2.5}
        assert isinstance(read["deque"], list) and read["deque"][0] is read["deque"][1]
        assert read["numbers"] == [0.5, -3, True, 2**70]
        np.testing.assert_array_equal(read["objects"][0], array)
        assert read["flags"] == {"lr": 0.1, "name": "x"}
        assert [bytes(item) for item in read["bytes"]] == [b"raw", b"more"]


def test_arrays_of_python_2(tmp_path):
    """Its bytes were text: the array that NumPy 1 for Python 2 would have written."""
    raw = np.arange(3, dtype="<i2").tobytes()
    minus_one = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\n(U\x02i2K\x00K\x01tR(K\x03U\x01<NNN" + minus_one * 2 + b"K\x00tb"
    make = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    state = b"(K\x01(K\x03t" + dtype + b"\x89U" + bytes([len(raw)]) + raw + b"tb"
    (tmp_path / "two.pkl").write_bytes(b"\x80\x02" + make + state + b".")
    np.testing.assert_array_equal(read_pickle(tmp_path / "two.pkl"), [0, 1, 2])


# Files that ask for more than they are.


def _array(shape: bytes, raw: bytes) -> bytes:
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4K\x00K\x01tR"
    make = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    return make + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + raw + b"tb"


def _long(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


_DOUBLED = b"]q\x00" + b"".join(b"0](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
_TUPLES = b")q\x00" + b"".join(b"0h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
PICKLE_BOMBS = {
    "memo at a huge place": b"}r" + (100_000_000).to_bytes(4, "little"),
    "memo at a huger place": b"}p99999999999999999999\n",
    "doubled tuples as a key": b"}" + _TUPLES + b"Ns",
    "doubled tuples in a set": b"\x8f(" + _TUPLES + b"\x90",
    "deep tuples": b")" + b"\x85" * 1900,
    "deep lists": b"]" * 900 + b"a" * 899,
    "bytes that are not there": b"\x8e" + (1 << 60).to_bytes(8, "little"),
    "a bytearray that is not there": b"\x96" + (1 << 40).to_bytes(8, "little"),
    "a text that is not there": b"\x8d" + (1 << 62).to_bytes(8, "little"),
    "a frame that is not there": b"\x95" + (1 << 62).to_bytes(8, "little") + b"N",
    "a number that is not there": b"\x8b" + (2**31 - 1).to_bytes(4, "little"),
    "a number of negative length": b"\x8b" + b"\xff" * 4,
    "a number of many digits": b"L" + b"9" * 1900 * 3 + b"L\n",
    "an array of a trillion": _array(_long(10**12), b"C\x04abcd"),
    "an array of none of a trillion": _array(b"K\x00" + _long(10**17), b"C\x00"),
    "an array of 65 axes": _array(b"K\x01" * 65, b"C\x04abcd"),
    "an array of negative sides": _array(_long(-1) + _long(-4), b"C\x10" + bytes(16)),
    "an array of strange contents": _array(b"K\x01", b"]"),
    "the end is missing": b"(" * 1000,
    "marks that are not there": b"t" * 10,
    "an exponential list in a call": b"ccollections\ndeque\n" + _DOUBLED + b"\x85R" + b"h\x63",
}


@pytest.mark.parametrize("program", PICKLE_BOMBS.values(), ids=PICKLE_BOMBS)
@pytest.mark.parametrize("read", [read_pickle, read_torch_file, read_tensors])
def test_small_pickles_do_not_ask_for_much(program, read, tmp_path):
    path = tmp_path / "bomb.pkl"
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    path.write_bytes((b"" if read is read_pickle else magic) + b"\x80\x04" + program + b".")
    with _frugal(), contextlib.suppress(WeightsError):
        read(path)


def test_a_doubled_list_stays_one_list(tmp_path):
    path = tmp_path / "laughs.pkl"
    path.write_bytes(b"\x80\x02" + _DOUBLED + b".")
    with _frugal():
        read = read_pickle(path)
    assert read[0] is read[1]
    with _frugal(), pytest.raises(WeightsError, match="more names than the file has bytes"):
        doubled = b"}q\x00" + b"".join(
            b"0}(X\x01\x00\x00\x00ah%cX\x01\x00\x00\x00bh%cuq%c" % (i, i, i + 1) for i in range(60)
        )
        read_tensors(_write(tmp_path / "named.pth", doubled))


def test_one_storage_is_not_shown_a_million_times(tmp_path):
    """Each array is a small one of the file, together they are more than a copy may hold."""
    raw, count = bytes(1 << 18), 2000
    first = _array(b"J" + (1 << 16).to_bytes(4, "little"), b"B\0\0\4\0" + raw + b"q\x00")
    more = _array(b"J" + (1 << 16).to_bytes(4, "little"), b"h\x00") * count
    (tmp_path / "many.pkl").write_bytes(b"\x80\x04](" + first + more + b"e.")
    with _frugal(), pytest.raises(WeightsError, match="more memory than the file has bytes"):
        read_pickle(tmp_path / "many.pkl")
    wide = _tensor(0, (1 << 30,), (0,))
    with _frugal(), pytest.raises(WeightsError, match="more memory than the file has bytes"):
        read_torch_file(_write(tmp_path / "wide.pth", wide))


def test_calls_do_not_copy_one_list_over_and_over(tmp_path):
    items = b"(" + b"N" * 60_000 + b"lq\x00\x85q\x01"
    again = b"ccollections\ndeque\nq\x02" + b"h\x01R0h\x02" * 60_000
    (tmp_path / "copies.pkl").write_bytes(b"\x80\x02" + items + again + b".")
    with _frugal(), pytest.raises(WeightsError, match="more memory than the file has bytes"):
        read_pickle(tmp_path / "copies.pkl")


def _zip(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def _npy(array=None, header=None) -> bytes:
    file = io.BytesIO()
    if array is not None:
        np.save(file, array)
        return file.getvalue()
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_arrays_of_npz_files(tmp_path):
    arrays = {
        "mu": np.arange(3.0),
        "sigma": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "features": np.array("fid,sfid"),
        "scalar": np.array(3),
        "none": np.zeros((0, 4), np.float16),
    }
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    read = read_npz(tmp_path / "a.npz")
    assert read.keys() == arrays.keys() == read_specs(tmp_path / "a.npz").keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
    assert set(read_npz(tmp_path / "a.npz", ["mu", "absent"])) == {"mu"}


HEADER = "{{'descr': '<f8', 'fortran_order': False, 'shape': {}, }}"
NPZ_BOMBS = {
    "zeros": _npy(np.zeros(1 << 23)),
    "a trillion": _npy(header=HEADER.format("(1000000000000,)")),
    "negative": _npy(header=HEADER.format("(-1,)")),
    "nested": _npy(header=HEADER.format("(" * 90)),
    "calls": _npy(header=HEADER.format("print('x')")),
    "objects": _npy(header=HEADER.replace("<f8", "|O").format("(1,)")),
    "no array": b"\x93NUMPY",
    "version": b"\x93NUMPY\x09\x00",
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("entry", NPZ_BOMBS.values(), ids=NPZ_BOMBS)
def test_small_npz_files_do_not_ask_for_much(entry, tmp_path):
    path = _zip(tmp_path / "bomb.npz", {"a.npy": entry})
    assert path.stat().st_size < 100_000
    with _frugal(), pytest.raises(WeightsError, match=r"bomb\.npz"):
        read_npz(path)


def test_one_run_of_zeros_is_not_unpacked_for_many_names(tmp_path):
    path = _zip(tmp_path / "quine.npz", {"a.npy": _npy(np.zeros(1 << 20))})
    raw = path.read_bytes()
    start, end = raw.index(b"PK\x01\x02"), raw.index(b"PK\x05\x06")
    entry = raw[start:end]
    many = b"".join(
        entry.replace(b"a.npy", b"%c%c%c.n" % (65 + i, 65 + j, 65))
        for i in range(20)
        for j in range(20)
    )
    tail = bytearray(raw[end:])
    tail[8:12] = (400).to_bytes(2, "little") * 2
    tail[12:16] = len(many).to_bytes(4, "little")
    path.write_bytes(raw[:start] + many + bytes(tail))
    with _frugal(), pytest.raises(WeightsError, match="far more than the file has bytes"):
        read_npz(path)


@pytest.mark.parametrize("length", [0, 2, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_small_safetensors_files_do_not_ask_for_much(length, tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    path = tmp_path / "bomb.safetensors"
    for read in (read_tensors, read_specs):
        for size in (length, len(header)):
            path.write_bytes(size.to_bytes(8, "little") + header + bytes(8))
            with _frugal(), pytest.raises(WeightsError, match=r"bomb\.safetensors"):
                read(path)


@contextlib.contextmanager
def _frugal(megabytes=64, seconds=20):
    """Stops what takes far more memory or time than a small file should."""

    def ring(*_):
        raise KeyboardInterrupt(f"it went on for {seconds} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        signal.alarm(0)
    assert peak < megabytes << 20


def test_names_of_checkpoints(tmp_path):
    """Dictionaries that all tensors are in give no names, others do."""
    path = tmp_path / "c.pkl"
    tensor = _tensor()
    inside = b"}" + _text("a.weight") + tensor + b"s"
    wrapped = read_tensors(
        _write(path, b"}" + _text("model") + inside + b"s" + _text("epoch") + b"K\x03s")
    )
    assert list(wrapped) == ["a.weight"]
    both = b"}" + _text("model") + inside + b"s" + _text("ema") + inside + b"s"
    assert list(read_tensors(_write(path, both))) == ["model.a.weight", "ema.a.weight"]


def test_what_is_written_is_sealed_and_read(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"a": _numbers(2, 3)}, step=7)
    np.testing.assert_array_equal(read_tensors(path)["a"], _numbers(2, 3))
    assert read_about(path)["step"] == 7
    assert read_about(_write(tmp_path / "x.pth", _tensor())) == {}
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedFileError, match=r"w\.safetensors"):
        check_sealed_file(path)
