"""Read pickles of arrays and tensors as data: nothing in them is ever imported or called.

A pickle is a program for a small machine, and Python's own machine calls whatever the program
names. The machine here knows the instructions that build containers, numbers, texts and arrays,
and a list of names, each of which stands for something inert. All else is refused by name.

What a file can cost is bounded by its size. Each instruction takes a byte at least and makes one
small object; containers that many paths lead to are followed once; and the arrays of a file
together may not hold more than ``expansion_limit`` bytes, however often one storage is shown.
"""

import io
import math
import pickletools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from gpstoken_jax.weights.errors import WeightsError

_MAX_DEPTH = 100  # of containers inside containers
_EXPANSION, _ALWAYS_ALLOWED = 16, 1 << 20
_NUMBERS = {
    "b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8",
}  # fmt: skip
_STORAGES = {
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


def expansion_limit(file_bytes: int) -> int:
    """Bytes that all arrays of a file of this size may hold together once they are read."""
    return _EXPANSION * file_bytes + _ALWAYS_ALLOWED


class Unpickler:
    """One file's pickles, and the storages of numbers that they refer to.

    Args:
      data: the whole file.
      limit: bytes that all arrays together may hold.
    """

    def __init__(self, data: bytes, limit: int):
        self.file, self.storages = io.BytesIO(data), {}
        self._left = limit

    def load(self) -> Any:
        """Runs the program at the file's place; arrays in its result are still stand-ins."""
        machine = _Machine(self)
        for opcode, argument, _ in pickletools.genops(self.file):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.run(opcode, argument)
        raise WeightsError("it ends in the middle: copy or download it again")

    def resolve(self, value: Any) -> Any:
        """Replaces the stand-ins in nested containers by read-only arrays.

        A dictionary, list or tuple that occurs several times stays one object.

        Raises:
          WeightsError: for anything but containers, arrays and plain values, for endless nesting,
            and when the arrays hold more than the limit.
        """
        return self._resolve(value, {}, 0)

    def _resolve(self, value: Any, done: dict[int, Any], depth: int) -> Any:
        if id(value) in done:
            return done[id(value)]
        if depth > _MAX_DEPTH:
            raise WeightsError(f"its containers are nested more than {_MAX_DEPTH} deep")
        if isinstance(value, dict):
            result = {k: self._resolve(item, done, depth + 1) for k, item in value.items()}
        elif isinstance(value, list | tuple):
            result = type(value)(self._resolve(item, done, depth + 1) for item in value)
        elif isinstance(value, _Array | _Tensor):
            result = value.resolve(self.spend)
            if isinstance(result, list):  # an array of objects
                result = self._resolve(result, done, depth + 1)
        elif isinstance(value, _StandIn):
            raise WeightsError("it holds something other than arrays and plain values")
        else:
            return value
        done[id(value)] = result
        return result

    def spend(self, size: int) -> None:
        """Counts bytes that are made against the limit."""
        self._left -= size
        if self._left < 0:
            raise WeightsError("its arrays would take far more memory than the file has bytes")


class _StandIn:
    """An object that is none of Python's own: a file can name or make it, and never alter it."""

    def build(self, state: Any) -> None:
        raise WeightsError("a stored object is built in an unknown way")


class _Name(_StandIn):
    """A function or class that the file names; ``call`` makes what stands for its result."""

    def __init__(self, call: Callable | None = None):
        self.call = call


class _Factory(_StandIn):
    """Maker of a defaultdict's missing values, of which there are none in a file."""

    def __init__(self, *_):
        pass

    def build(self, state: Any) -> None:
        pass


class _StorageType(_StandIn):
    """A class like ``torch.FloatStorage``: the element type of a storage."""

    def __init__(self, kind: Any):
        self.dtype = np.dtype(kind)


class _Dict(dict):
    """A dictionary of another class; attributes that modules leave on it are not kept."""

    def build(self, state: Any) -> None:
        pass


class _Namespace(dict):
    """``argparse.Namespace``: training scripts keep their flags in it."""

    def build(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Dtype(_StandIn):
    """The element type of an array; ``O``, any object, makes lists."""

    def __init__(self, kind: Any, *_):
        if kind not in _NUMBERS and kind not in ("O", "O8", "O4"):
            raise WeightsError(f"arrays of type {kind!r:.40} are not read, only numbers")
        self.kind, self.byte_order = kind, "="

    def build(self, state: Any) -> None:
        self.byte_order = {"|": "="}.get(state[1], state[1])

    @property
    def holds_objects(self) -> bool:
        return self.kind[0] == "O"

    def numbers(self, raw: Any) -> np.ndarray:
        """A flat read-only array of bytes, or of the text that Python 2 kept them in."""
        if isinstance(raw, str):
            raw = raw.encode("latin-1")
        if not isinstance(raw, bytes | bytearray) or self.holds_objects:
            raise WeightsError("a stored array does not hold plain numbers")
        return np.frombuffer(bytes(raw), np.dtype(self.kind).newbyteorder(self.byte_order))


class _Array(_StandIn):
    """A NumPy array as stored: shape, element type, order and contents."""

    def __init__(self, *_):
        self._parts = None

    @classmethod
    def of_buffer(cls, raw: Any, dtype: Any, shape: Any, order: Any) -> "_Array":
        array = cls()
        array.build((1, shape, dtype, order == "F", raw))
        return array

    def build(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _Dtype) or not _are_sizes(shape):
            raise WeightsError("a stored array has no proper shape and type")
        self._parts = tuple(shape), dtype, bool(is_fortran), raw

    def resolve(self, spend: Callable[[int], None]) -> np.ndarray | list:
        if self._parts is None:
            raise WeightsError("a stored array has no contents")
        shape, dtype, is_fortran, raw = self._parts
        if dtype.holds_objects:
            if not isinstance(raw, list) or len(raw) != math.prod(shape) or is_fortran:
                raise WeightsError("a stored array of objects is not a list of as many")
            spend(_cost(raw))
            return _nested(raw, shape)
        spend(_cost(raw))
        flat = dtype.numbers(raw)
        return flat.reshape(shape, order="F" if is_fortran else "C")


class Storage(_StandIn):
    """A run of numbers; its bytes may come after everything that refers to it."""

    def __init__(self, dtype: np.dtype, size: int):
        self.dtype, self.size, self.values = dtype, size, None

    def fill(self, raw: bytes | memoryview, big_endian: bool) -> None:
        """Gives it its bytes, of which it must have exactly enough."""
        if len(raw) != self.size * self.dtype.itemsize:
            raise WeightsError(
                f"a storage of {self.size} {self.dtype} has {len(raw)} bytes: it is cut short, "
                "copy or download it again"
            )
        if big_endian and self.dtype.itemsize > 1:
            raw = np.frombuffer(raw, f"u{self.dtype.itemsize}").byteswap().tobytes()
        self.values = np.frombuffer(raw, self.dtype)


class _Tensor(_StandIn):
    """A PyTorch tensor as stored: a strided view of a storage."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_):
        if not isinstance(storage, Storage) or not _are_sizes((offset,)):
            raise WeightsError("a stored tensor is not a view of plain numbers")
        if not _are_sizes(shape) or not _are_sizes(strides) or len(shape) != len(strides):
            raise WeightsError("a stored tensor has no proper shape and strides")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def resolve(self, spend: Callable[[int], None]) -> np.ndarray:
        storage = self.storage
        if storage.values is None:
            raise WeightsError("a stored tensor has no contents")
        last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) and self.offset + last >= storage.size:
            raise WeightsError("a stored tensor reaches beyond its storage")
        spend(math.prod(self.shape) * storage.dtype.itemsize)
        if not math.prod(self.shape):
            return storage.values[:0].reshape(self.shape)
        return np.lib.stride_tricks.as_strided(
            storage.values[self.offset :],
            tuple(self.shape),
            [step * storage.dtype.itemsize for step in self.strides],
            writeable=False,
        )


def _cost(value: Any) -> int:
    """Bytes of a copy of a value, without what is inside of it."""
    if isinstance(value, list | tuple | dict):
        return 8 * len(value)
    return len(value) if isinstance(value, str | bytes | bytearray) else 0


def _are_sizes(values: Any) -> bool:
    """Tells whether these are whole numbers from 0 on, at most as many as an array has axes."""
    return (
        isinstance(values, tuple | list)
        and len(values) <= 32
        and all(type(value) is int and 0 <= value < 1 << 48 for value in values)
    )


def _nested(items: list, shape: Sequence[int]) -> list:
    """A flat list as lists of lists, as ``numpy.ndarray.tolist`` has them."""
    for size in reversed(shape[1:]):
        items = [items[i : i + size] for i in range(0, len(items), size)] if size else []
    return items


def _ordered_dict(pairs: Sequence = ()) -> _Dict:
    result = _Dict()
    for key, value in pairs:
        _set(result, key, value)
    return result


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _Dtype):
        raise WeightsError("a stored number has no proper type")
    return dtype.numbers(raw)[0].item()


def _text_to_bytes(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise WeightsError("bytes are stored in an unknown way")
    return text.encode("latin-1")


def _bytes(value: Any = b"", encoding: Any = None) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray) else _text_to_bytes(value, encoding)


def _sequence(items: Any = (), *_) -> list:
    if not isinstance(items, list | tuple):
        raise WeightsError("a sequence is stored in an unknown way")
    return list(items)


def _itself(value: Any, *_) -> Any:
    return value


_NUMPY = {
    "multiarray": {"_reconstruct": _Name(_Array), "scalar": _Name(_scalar)},
    "numeric": {"_frombuffer": _Name(_Array.of_buffer)},
}
_NAMES: Mapping[tuple[str, str], _StandIn] = {
    ("collections", "OrderedDict"): _Name(_ordered_dict),
    ("collections", "defaultdict"): _Name(lambda *_: _Dict()),
    ("collections", "deque"): _Name(_sequence),
    ("argparse", "Namespace"): _Name(lambda *_: _Namespace()),
    ("copy_reg", "_reconstructor"): _Name(lambda kind, *_: kind.call()),  # of a Namespace
    ("_codecs", "encode"): _Name(_text_to_bytes),
    ("functools", "partial"): _Name(_Factory),
    **dict.fromkeys((("numpy", "ndarray"), ("numpy", "memmap")), _Name()),
    ("numpy", "dtype"): _Name(_Dtype),
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")  # of NumPy 1 and 2
        for module, names in _NUMPY.items()
        for name, stand_in in names.items()
    },
    **{
        (module, name): _Name(call)
        for module in ("builtins", "__builtin__")  # of Python 3 and 2
        for name, call in {
            **dict.fromkeys(
                ("dict", "float", "int", "list", "long", "object", "str", "tuple")
            ),  # of defaultdicts
            **dict.fromkeys(("bytes", "bytearray"), _bytes),
        }.items()
    },
    ("torch", "Size"): _Name(lambda sizes=(): tuple(_sequence(sizes))),
    ("torch._utils", "_rebuild_tensor"): _Name(_Tensor),  # before PyTorch 0.4
    ("torch._utils", "_rebuild_tensor_v2"): _Name(_Tensor),
    ("torch._utils", "_rebuild_parameter"): _Name(_itself),  # trained or not does not matter here
    **{("torch", name): _StorageType(kind) for name, kind in _STORAGES.items()},
}


class _Machine:
    """The pickle machine: a stack, marks in it, and a memo."""

    def __init__(self, unpickler: Unpickler):
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._unpickler = unpickler

    def run(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        if opcode.name in _VALUES:
            self.stack.append(argument)
        elif opcode.name in _INSTRUCTIONS:
            _INSTRUCTIONS[opcode.name](self, argument)
        else:
            raise WeightsError(f"it has the instruction {opcode.name}, which no array needs")

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _since_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise WeightsError("it takes more values than there are")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _mark(self, _) -> None:
        self._marks.append(len(self.stack))

    def _memoize(self, number: int | None) -> None:
        self._memo[len(self._memo) if number is None else number] = self.stack[-1]

    def _append(self, items: list) -> None:
        if not isinstance(self.stack[-1], list):
            raise WeightsError("values are added to something that is no list")
        self.stack[-1].extend(items)

    def _set_items(self, items: list) -> None:
        for key, value in _pairs(items):
            _set(self.stack[-1], key, value)

    def _find(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str or (module, name) not in _NAMES:
            raise WeightsError(
                f"it names {module!s:.60}.{name!s:.60}, which is no part of an array: save arrays "
                "alone (of a PyTorch module its state_dict())"
            )
        self._push(_NAMES[module, name])

    def _call(self, _) -> None:
        name, arguments = self._last(2)
        if not isinstance(name, _Name) or not name.call or not isinstance(arguments, tuple):
            raise WeightsError("it calls something that is no part of an array")
        self._unpickler.spend(sum(map(_cost, arguments)))  # a call may copy them
        self._push(name.call(*arguments))

    def _build(self, _) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _StandIn | _Dict | _Namespace):
            raise WeightsError("it sets attributes of a plain value")
        self._unpickler.spend(_cost(state))
        self.stack[-1].build(state)

    def _refer(self, _) -> None:
        kind, storage_type, key, _, size, *view = self.stack.pop()
        if kind != "storage" or not isinstance(storage_type, _StorageType) or any(view):
            raise WeightsError("it refers to something other than stored numbers")
        if type(key) is not str or not _are_sizes((size,)):
            raise WeightsError("a storage has no proper name and size")
        storages = self._unpickler.storages
        storage = storages.setdefault(key, Storage(storage_type.dtype, size))
        if (storage.dtype, storage.size) != (storage_type.dtype, size):
            raise WeightsError("one storage is described in two ways")
        self._push(storage)


def _pairs(items: list) -> list[tuple]:
    return list(zip(items[::2], items[1::2], strict=True))


def _set(target: Any, key: Any, value: Any) -> None:
    """Sets an entry; only plain keys, as the hash of nested tuples can take for ever."""
    if not isinstance(target, dict) or not isinstance(key, str | int | float | bytes | None):
        raise WeightsError("an entry of a dictionary has no plain key")
    target[key] = value


_VALUES = {
    *("NONE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES"),
    *("SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    "BINUNICODE8",
}
_INSTRUCTIONS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "NEWTRUE": lambda m, _: m._push(True),
    "NEWFALSE": lambda m, _: m._push(False),
    "EMPTY_LIST": lambda m, _: m._push([]),
    "EMPTY_DICT": lambda m, _: m._push({}),
    "EMPTY_TUPLE": lambda m, _: m._push(()),
    "MARK": _Machine._mark,
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m._since_mark(),
    "DUP": lambda m, _: m._push(m.stack[-1]),
    "TUPLE": lambda m, _: m._push(tuple(m._since_mark())),
    "TUPLE1": lambda m, _: m._push(tuple(m._last(1))),
    "TUPLE2": lambda m, _: m._push(tuple(m._last(2))),
    "TUPLE3": lambda m, _: m._push(tuple(m._last(3))),
    "LIST": lambda m, _: m._push(m._since_mark()),
    "DICT": lambda m, _: m._push(_ordered_dict(_pairs(m._since_mark()))),
    "APPEND": lambda m, _: m._append(m._last(1)),
    "APPENDS": lambda m, _: m._append(m._since_mark()),
    "SETITEM": lambda m, _: m._set_items(m._last(2)),
    "SETITEMS": lambda m, _: m._set_items(m._since_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._memoize),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, number: m._push(m._memo[number])),
    "GLOBAL": lambda m, names: m._find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m._find(*m._last(2)),
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._refer,
}
