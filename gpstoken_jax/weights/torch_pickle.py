"""Read the tensors of a PyTorch `.pth` / `.pt` file without PyTorch, and without running any of it.

Such a file is a pickle, which is a program (see `array_pickle`), plus the raw bytes of the tensors.
Only the names that a state dict needs are known here, each with an inert stand-in; every other name
is refused before anything is imported. Two layouts exist: a zip archive (PyTorch 1.6 and later) and
a plain stream of pickles and bytes (before, and still with `_use_new_zipfile_serialization=False`).
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from gpstoken_jax.weights.array_pickle import UnsafePickleError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_KINDS = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Inert:
    """What a file can name or make but never alter: `__setstate__` would be BUILD's way."""

    def __setstate__(self, state):
        raise UnsafePickleError("a stored tensor is built in an unknown way")


class _Function(_Inert):
    """Stands for a function or class that the file names; calling it gives a stand-in's result."""

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)


class _StorageType(_Inert):
    """Stands for a class like `torch.FloatStorage`: the element type of a storage."""

    def __init__(self, kind: Any):
        self.dtype = np.dtype(kind)


class _Dict(dict):
    """An OrderedDict of the file. Modules leave their versions on it as `_metadata`: not kept."""

    def __setstate__(self, state):
        pass


class _Storage(_Inert):
    """A run of numbers in the file; its bytes may come after everything that refers to it."""

    def __init__(self, dtype: np.dtype, size: int):
        self.dtype, self.size, self.values = dtype, size, None

    def fill(self, raw: bytes, big_endian: bool) -> None:
        if len(raw) != self.size * self.dtype.itemsize:
            raise UnsafePickleError(
                f"a storage of {self.size} {self.dtype} has {len(raw)} bytes: it is cut short"
            )
        if big_endian and self.dtype.itemsize > 1:
            raw = np.frombuffer(raw, f"u{self.dtype.itemsize}").byteswap().tobytes()
        self.values = np.frombuffer(raw, self.dtype)


class _Tensor(_Inert):
    """A tensor as stored: a strided view of a storage."""

    def __init__(self, storage, offset, shape, strides, *_):
        numbers = [offset, *shape, *strides]
        if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in numbers):
            raise UnsafePickleError("a stored tensor is not a view of plain numbers")
        if len(shape) != len(strides):
            raise UnsafePickleError("a stored tensor has strides for other axes than it has")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def resolve(self) -> np.ndarray:
        """The tensor as a read-only array that stays inside its storage."""
        if self.storage.values is None:
            raise UnsafePickleError("a stored tensor has no contents")
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) and self.offset + last >= self.storage.size:
            raise UnsafePickleError("a stored tensor reaches beyond its storage")
        return np.lib.stride_tricks.as_strided(
            self.storage.values[self.offset :],
            tuple(self.shape),
            [step * self.storage.dtype.itemsize for step in self.strides],
            writeable=False,
        )


def _tensor_itself(tensor, *_):
    """A parameter is its tensor; whether it was trained does not matter here."""
    return tensor


_STAND_INS: dict[tuple[str, str], _Inert] = {
    ("collections", "OrderedDict"): _Function(lambda *_: _Dict()),
    ("torch._utils", "_rebuild_tensor"): _Function(_Tensor),  # before PyTorch 0.4
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_Tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(_tensor_itself),
    **{("torch", name): _StorageType(kind) for name, kind in _KINDS.items()},
}


class _TorchUnpickler(pickle.Unpickler):
    """Makes stand-ins; every storage that the file refers to is in `storages` afterwards."""

    def __init__(self, file: BinaryIO, storages: dict[str, _Storage]):
        super().__init__(file, encoding="utf-8")
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise UnsafePickleError(f"it names {module}.{name}, which is not a part of a tensor")
        return _STAND_INS[module, name]

    def persistent_load(self, identity: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = identity
        if kind != "storage" or not isinstance(storage_type, _StorageType) or any(view):
            raise UnsafePickleError("it refers to something other than stored numbers")
        if type(key) is not str or type(size) is not int or size < 0:
            raise UnsafePickleError("a storage has no proper name and size")
        storage = self._storages.setdefault(key, _Storage(storage_type.dtype, size))
        if (storage.dtype, storage.size) != (storage_type.dtype, size):
            raise UnsafePickleError("one storage is described in two ways")
        return storage


def _unwrap(value: Any, done: dict[int, Any]) -> Any:
    """Replaces every tensor in nested containers by an array; `done` keeps shared parts shared."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        result = {key: _unwrap(item, done) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(_unwrap(item, done) for item in value)
    elif isinstance(value, _Tensor):
        result = value.resolve()
    elif isinstance(value, _Inert):
        raise UnsafePickleError("it holds something other than tensors and plain values")
    else:
        return value
    done[id(value)] = result
    return result


def _load_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if any(f"{root}constants.pkl" in entries for root in roots):
            raise UnsafePickleError("it is a TorchScript program, not a state dict")
        if len(roots) != 1:
            raise UnsafePickleError("it is a zip archive, but not one that torch.save wrote")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise UnsafePickleError("its contents are compressed, which torch.save never does")
        (root,) = roots
        storages: dict[str, _Storage] = {}
        value = _TorchUnpickler(io.BytesIO(archive.read(f"{root}data.pkl")), storages).load()
        order = f"{root}byteorder"
        big_endian = order in entries and archive.read(order) == b"big"
        for key, storage in storages.items():
            storage.fill(archive.read(f"{root}data/{key}"), big_endian)
    return _unwrap(value, {})


def _load_legacy(file: BinaryIO) -> Any:
    storages: dict[str, _Storage] = {}
    magic, protocol, system = (_TorchUnpickler(file, {}).load() for _ in range(3))
    if magic != _LEGACY_MAGIC or protocol != _LEGACY_PROTOCOL:
        raise UnsafePickleError("it is a pickle, but not one that torch.save wrote")
    value = _TorchUnpickler(file, storages).load()
    for key in _TorchUnpickler(file, {}).load():
        size = int.from_bytes(file.read(8), "little")
        if key not in storages or size != storages[key].size:
            raise UnsafePickleError("its storages are not those that its tensors refer to")
        raw = file.read(size * storages[key].dtype.itemsize)
        storages[key].fill(raw, not system["little_endian"])
    return _unwrap(value, {})


def read_torch_file(path: str | Path) -> Any:
    """Reads what `torch.save` wrote: nested dictionaries, lists and tuples of tensors and values.

    Returns the containers as stored (an OrderedDict is a dict) with read-only `numpy.ndarray`
    leaves; bfloat16 ones have the dtype of `ml_dtypes`.
    Raises `UnsafePickleError` (a ValueError), naming the file, for anything else: no name in the
    file is ever imported or called. Also for a file that is damaged or of another kind.
    """
    try:
        with open(path, "rb") as file:
            load = _load_zip if file.peek(4)[:4] == b"PK\x03\x04" else _load_legacy
            return load(file)
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path} was not read: {error}.") from error
    except OSError:
        raise
    except Exception as error:  # a broken stream can fail in any of a dozen ways
        raise UnsafePickleError(
            f"{path} is damaged or not a file of torch.save ({type(error).__name__}: {error})."
        ) from error
