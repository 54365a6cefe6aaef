"""Writes files as ``torch.save`` does, without PyTorch: for readers to be tested with."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_STORAGES = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "i4": "Int", "b1": "Bool"}


def save_torch(value: Any, path: Path) -> None:
    """Writes nested dictionaries and lists of arrays, numbers and texts."""
    storages: list[bytes] = []

    def text(value: str) -> bytes:
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def tensor(array: np.ndarray) -> bytes:
        array = np.ascontiguousarray(array).reshape(array.shape)
        kind = _STORAGES[array.dtype.str[1:]]
        name = text(str(len(storages)))
        storages.append(array.tobytes())
        storage = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + name
        storage += text("cpu") + number(array.size) + b"tQ"
        shape, strides = (
            b"(" + b"".join(map(number, values)) + b"t"
            for values in (array.shape, [step // array.itemsize for step in array.strides])
        )
        view = storage + number(0) + shape + strides + b"\x89N"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tR"

    def program(value: Any) -> bytes:
        if isinstance(value, dict):
            return b"}(" + b"".join(program(k) + program(v) for k, v in value.items()) + b"u"
        if isinstance(value, list | tuple):
            return b"](" + b"".join(map(program, value)) + b"e"
        if isinstance(value, np.ndarray | np.generic):
            return tensor(np.asarray(value))
        if isinstance(value, bool) or value is None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[value]
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        return text(value) if isinstance(value, str) else number(value)

    program_of_all = b"\x80\x02" + program(value) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", program_of_all)
        for name, raw in enumerate(storages):
            archive.writestr(f"w/data/{name}", raw)
