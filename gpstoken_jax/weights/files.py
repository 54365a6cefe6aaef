"""Read files of arrays that others made: safetensors, PyTorch, NumPy and pickles, by content.

Nothing in a file is executed, what reading can cost is bounded by the file's size, and whatever is
wrong with its content is a `WeightsError` that names it. A file that is missing or cannot be opened
is an ordinary OSError.
"""

import io
import itertools
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open

from gpstoken_jax.runtime.files import reading, sealed_safetensors, write_file
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.pickle_reader import Unpickler, expansion_limit

Tensors = Mapping[str, np.ndarray]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_METADATA = "gpstoken_jax"  # key of what our own safetensors files say of themselves
_ZIP_MAGIC = b"PK\x03\x04"
_DTYPES = {
    **{
        f"{kind}{bits}": f"{name}{bits}"
        for kind, name in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    },
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
}
_ZIP_EXPANSION, _ZIP_ALWAYS_ALLOWED = 64, 1 << 24  # zeros in a .npz file shrink a thousandfold
_reading = partial(
    reading, error=WeightsError, remedy="copy or download it again, or give another file"
)
_WEB_PAGE = "a web page, not the file itself: of the hub's addresses take that with /resolve/"
_NO_WEIGHTS = {  # what is downloaded or saved by mistake, by how it begins, in small letters
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: git lfs pull",
    b"<!doctype": _WEB_PAGE,
    b"<html": _WEB_PAGE,
    b"<?xml": _WEB_PAGE,
    b"\x93numpy": "a single array, not weights by name: give a state dict",
    b"\x89png": "a picture, not weights: give another file",
    b"\xff\xd8\xff": "a picture, not weights: give another file",
    b"riff": "a picture, not weights: give another file",
    b"{": "JSON, not weights: give the folder that it is in, or the file of weights beside it",
    b"\x1f\x8b": "compressed: unpack it",
    b"bzh": "compressed: unpack it",
    b"\xfd7zxz": "compressed: unpack it",
    b"pk\x05\x06": "an empty archive: copy or download it again",
}


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor, as much of it as a check needs."""

    shape: tuple[int, ...]
    dtype: Any


def read_pickle(path: str | Path) -> Any:
    """Reads containers, plain values and numeric arrays from a pickle.

    Returns:
      Dictionaries, lists and tuples (for a deque a list) with read-only arrays in them.

    Raises:
      WeightsError: for anything else in it; no name in the file is ever imported or called.
      OSError: if it cannot be opened.
    """
    data = Path(path).read_bytes()
    with _reading(path, "a pickle of arrays"):
        unpickler = Unpickler(data, expansion_limit(len(data)))
        return unpickler.resolve(unpickler.load())


def read_torch_file(path: str | Path) -> Any:
    """Reads what ``torch.save`` wrote, before and since PyTorch 1.6, without PyTorch.

    Returns and raises as of ``read_pickle``; bfloat16 arrays have the dtype of ``ml_dtypes``.
    """
    data = Path(path).read_bytes()
    with _reading(path, "a file of torch.save"):
        load = _load_torch_zip if data.startswith(_ZIP_MAGIC) else _load_torch_stream
        return load(data)


def read_npz(path: str | Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Reads arrays of numbers or text from a ``.npz`` file.

    Args:
      path: the file.
      names: which arrays, as far as they are there; all if None.

    Raises:
      WeightsError: for anything else in it.
      OSError: if it cannot be opened.
    """
    with open(path, "rb") as file, _reading(path, "a .npz file"), _open_zip(file) as archive:
        entries = {name.removesuffix(".npy"): name for name in archive.namelist()}
        wanted = entries if names is None else [name for name in names if name in entries]
        return {name: _parse_npy(_read_entry(archive, entries[name])) for name in wanted}


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors, PyTorch or ``.npz`` file by name.

    A checkpoint that keeps them in dictionaries gives names with the keys on the way before them
    (``ema.NAME``), but for keys that all share (``state_dict``). What is no tensor is left out.

    Raises:
      WeightsError: if it is damaged, unsafe, or has no tensors by name.
      OSError: if it cannot be opened.
    """
    kind = _sniff(path)
    if kind == "safetensors":
        with _reading(path, "a safetensors file"), safe_open(path, framework="np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if kind == "npz":
        return read_npz(path)
    value = read_torch_file(path)
    with _reading(path, "a state dict"):
        tensors = _named(value, expansion_limit(Path(path).stat().st_size))
        if not tensors:
            raise WeightsError("it holds no tensors by name: give a state dict")
        return tensors


def read_specs(path: str | Path) -> dict[str, TensorSpec]:
    """Shapes and dtypes of a file's tensors by name; of a safetensors file from the header alone.

    Raises as of ``read_tensors``.
    """
    if _sniff(path) != "safetensors":
        return {key: TensorSpec(t.shape, t.dtype.name) for key, t in read_tensors(path).items()}
    with _reading(path, "a safetensors file"), safe_open(path, framework="np") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        return {
            key: TensorSpec(tuple(s.get_shape()), _DTYPES.get(s.get_dtype(), s.get_dtype()))
            for key, s in slices.items()
        }


def write_tensors(path: str | Path, tensors: Tensors, **about: Any) -> None:
    """Writes a safetensors file, sealed, whole or not at all; ``about`` is kept as JSON in it.

    Loaders of PyTorch weights read it, too.

    Raises:
      OSError: if it cannot be written.
    """
    write_file(path, sealed_safetensors(tensors, _METADATA, about, format="pt"))


def read_about(path: str | Path) -> dict[str, Any]:
    """Reads the notes that ``write_tensors`` left in a file; none in files of other programs.

    Raises as of ``read_tensors``.
    """
    if _sniff(path) != "safetensors":
        return {}
    with _reading(path, "a safetensors file"), safe_open(path, framework="np") as file:
        return dict(json.loads((file.metadata() or {}).get(_METADATA, "{}")))


def _sniff(path: str | Path) -> str:
    with open(path, "rb") as file:
        start = file.read(32)
        if start[8:9] == b"{":
            return "safetensors"
        for beginning, kind in _NO_WEIGHTS.items():
            if start.lstrip().lower().startswith(beginning):
                raise WeightsError(f"{path} is {kind}")
        if not start:
            raise WeightsError(f"{path} is empty: copy or download it again")
        if not start.startswith(_ZIP_MAGIC):
            return "safetensors" if Path(path).suffix == ".safetensors" else "torch"
        with _reading(path, "a file of weights"), _open_zip(file) as archive:
            names = archive.namelist()
            return "npz" if names and all(name.endswith(".npy") for name in names) else "torch"


def _named(value: Any, limit: int) -> dict[str, np.ndarray]:
    """The arrays in nested dictionaries, by the keys on the way, without those that all share."""
    found: dict[tuple[str, ...], np.ndarray] = {}

    def walk(item: Any, keys: tuple[str, ...]) -> None:
        nonlocal limit
        limit -= sum(map(len, keys)) + len(keys) + 1
        if limit < 0:  # shared dictionaries: each of the ways to them would be gone
            raise WeightsError("its dictionaries have far more names than the file has bytes")
        if isinstance(item, np.ndarray):
            found[keys] = item
        elif isinstance(item, dict):
            for key, inside in item.items():
                walk(inside, (*keys, str(key)))

    walk(value if isinstance(value, dict) else {}, ())
    while len({keys[0] for keys in found}) == 1 and all(len(keys) > 1 for keys in found):
        found = {keys[1:]: tensor for keys, tensor in found.items()}
    return {".".join(keys): tensor for keys, tensor in found.items()}


def _open_zip(file: Any) -> zipfile.ZipFile:
    """A zip archive whose entries together do not unpack to far more than the file has bytes."""
    archive = zipfile.ZipFile(file)
    file.seek(0, io.SEEK_END)
    limit = _ZIP_EXPANSION * file.tell() + _ZIP_ALWAYS_ALLOWED
    if sum(entry.file_size for entry in archive.infolist()) > limit:
        raise WeightsError("its contents would unpack to far more than the file has bytes")
    return archive


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry's bytes, no more than it declares; raises if its checksum is another."""
    with archive.open(name) as entry:
        return entry.read()


def _parse_npy(data: bytes) -> np.ndarray:
    """One array, checked against the bytes that are there before it takes any memory."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise WeightsError(f"it has an array of version {version} of NumPy's format")
    parse = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, is_fortran, dtype = parse(file)
    if dtype.kind not in "biufUS" or dtype.hasobject:
        raise WeightsError(f"arrays of type {dtype} are not read, only numbers and text")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(data) - file.tell():
        raise WeightsError(f"an array of shape {shape} does not have as many numbers")
    if not dtype.itemsize:
        return np.zeros(shape, dtype)
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _load_torch_zip(data: bytes) -> Any:
    with _open_zip(io.BytesIO(data)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if any(f"{root}constants.pkl" in entries for root in roots):
            raise WeightsError(
                "it is a TorchScript program, not a state dict: save its state_dict()"
            )
        if len(roots) != 1:
            raise WeightsError("it is a zip archive, but not one that torch.save wrote: unpack it")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise WeightsError("its contents are compressed, which torch.save never does")
        (root,) = roots
        unpickler = Unpickler(_read_entry(archive, f"{root}data.pkl"), expansion_limit(len(data)))
        value = unpickler.load()
        order = f"{root}byteorder"
        big_endian = order in entries and _read_entry(archive, order) == b"big"
        for key, storage in unpickler.storages.items():
            storage.fill(_read_entry(archive, f"{root}data/{key}"), big_endian)
    return unpickler.resolve(value)


def _load_torch_stream(data: bytes) -> Any:
    """Five pickles (a magic number, the protocol, the machine, the value, keys), then storages."""
    unpickler = Unpickler(data, expansion_limit(len(data)))
    if unpickler.load() != _LEGACY_MAGIC or unpickler.load() != _LEGACY_PROTOCOL:
        raise WeightsError(
            "it is a pickle, but not one that torch.save wrote: save the state_dict by torch.save"
        )
    machine, value, keys = (unpickler.load() for _ in range(3))
    for key in itertools.islice(keys, len(unpickler.storages) + 1):
        size = int.from_bytes(unpickler.file.read(8), "little")
        storage = unpickler.storages.get(key)
        if storage is None or size != storage.size or storage.values is not None:
            raise WeightsError("its storages are not those that its tensors refer to")
        start = unpickler.file.tell()
        raw = memoryview(data)[start : start + size * storage.dtype.itemsize]
        storage.fill(raw, not machine["little_endian"])
        unpickler.file.seek(start + len(raw))
    return unpickler.resolve(value)
