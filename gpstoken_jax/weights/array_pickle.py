"""Read a pickle that holds nothing but NumPy arrays, without running any code from it.

A pickle is a program: `pickle.load` imports and calls whatever the file names. The reader here
knows the three names that NumPy writes for an array and gives each an inert stand-in; every other
name is refused before anything is imported. Not even NumPy's own unpickling code sees the file.
"""

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class UnsafePickleError(ValueError):
    """The file asks for something other than NumPy arrays in dictionaries, lists and tuples."""


class _NdarrayName:
    """Stands for the class `numpy.ndarray`, which a pickle names and never needs to touch."""

    def __init__(self, *_):
        raise UnsafePickleError("a stored array is built in an unknown way")

    def __setstate__(self, state):  # without it a file could set attributes of this class
        raise UnsafePickleError("a stored array is built in an unknown way")


class _Dtype:
    """What a pickle says about an array's element type."""

    def __init__(self, kind: str, *_):
        if kind not in _KINDS:
            raise UnsafePickleError(f"arrays of type {kind!r} are not read, only numbers")
        self.kind, self.byte_order = kind, "="

    def __setstate__(self, state: tuple):
        self.byte_order = {"|": "="}.get(state[1], state[1])

    def resolve(self) -> np.dtype:
        return np.dtype(self.kind).newbyteorder(self.byte_order)


class _Array:
    """An array as stored: shape, element type, order and raw bytes."""

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state: tuple):
        _, shape, dtype, fortran_order, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise UnsafePickleError("a stored array does not hold plain numbers")
        flat = np.frombuffer(raw, dtype.resolve())
        self.value = flat.reshape(shape, order="F" if fortran_order else "C")


_STAND_INS = {
    ("numpy", "ndarray"): _NdarrayName,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # written by NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # written by NumPy 2
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise UnsafePickleError(f"it names {module}.{name}, which is not a part of an array")
        return _STAND_INS[module, name]


def _unwrap(value: Any) -> Any:
    """Replace every stored array in nested containers by a read-only NumPy array."""
    if isinstance(value, dict):
        return {key: _unwrap(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unwrap(item) for item in value)
    if not isinstance(value, _Array):
        return value
    if value.value is None:
        raise UnsafePickleError("a stored array has no contents")
    return value.value


def _load(file: BinaryIO) -> Any:
    return _unwrap(_ArrayUnpickler(file).load())


def read_array_pickle(path: str | Path) -> Any:
    """Read nested dictionaries, lists and tuples of numeric arrays from a pickle file.

    Returns the containers as they were stored, with read-only `numpy.ndarray` leaves.
    Raises `UnsafePickleError` (a ValueError), naming the file, for anything else: no name in the
    file is ever imported or called. Also for a file that is damaged or no pickle at all.
    """
    try:
        with open(path, "rb") as file:
            return _load(file)
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path} was not read: {error}.") from error
    except OSError:
        raise
    except Exception as error:  # a broken stream can fail in any of a dozen ways
        raise UnsafePickleError(
            f"{path} is damaged or not a pickle of arrays ({type(error).__name__}: {error})."
        ) from error
