"""Seeded damage to files: of their bytes, and of the values in their JSON."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)
_VALUES: Sequence[Any] = (
    *(None, True, 0, -1, 2**31, 2**63, 10**400, 0.5, float("inf"), float("nan"), "", "x", "\x00"),
    *("../x", "\ud800", "9" * 5000, [], {}, [[]], [None], [[1, 2], [3]], {"": {}}, {"header": 1}),
)


def damage_bytes(rng: np.random.Generator, data: bytes, other: bytes = b"") -> bytes:
    """Flips bits, overwrites, cuts, repeats, inserts numbers, or splices in another file; often."""
    raw = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        where, length = int(rng.integers(0, len(raw) + 1)), int(rng.integers(1, 17))
        kind = rng.integers(0, 8)
        if kind == 0 and raw:
            raw[where % len(raw)] ^= 1 << rng.integers(0, 8)
        elif kind == 1:
            raw[where : where + length] = rng.bytes(length)
        elif kind == 2:
            del raw[where : where + length]
        elif kind == 3:
            del raw[where:]
        elif kind == 4:
            raw[where:where] = raw[where : where + 4 * length]
        elif kind == 5:
            number = _NUMBERS[rng.integers(0, len(_NUMBERS))]
            size = int(rng.choice([1, 2, 4, 8]))
            raw[where : where + size] = (number % 256**size).to_bytes(size, "little")
        elif kind == 6 and other:
            start = int(rng.integers(0, len(other)))
            raw[where:] = other[start:]
        else:
            end = where + length
            raw[where:end] = raw[where:end][::-1]
    return bytes(raw)


def damage_value(rng: np.random.Generator, value: Any) -> Any:
    """A copy of nested JSON values in which one is missing, doubled, or another."""
    if isinstance(value, dict) and value and rng.integers(0, 5):
        keys = list(value)
        key = keys[rng.integers(0, len(keys))]
        if not rng.integers(0, 6):
            return {k: v for k, v in value.items() if k != key}
        return value | {key: damage_value(rng, value[key])}
    if isinstance(value, list) and value and rng.integers(0, 5):
        place = int(rng.integers(0, len(value)))
        if not rng.integers(0, 6):
            return value[:place] + value[place + 1 :] * 2
        return [*value[:place], damage_value(rng, value[place]), *value[place + 1 :]]
    return _VALUES[rng.integers(0, len(_VALUES))]


def damage_json(rng: np.random.Generator, data: bytes, other: bytes = b"") -> bytes:
    """Of the text, or of a value in it; then its seal is taken out, or no reader would look."""
    if rng.integers(0, 2):
        return damage_bytes(rng, data, other)
    value = json.loads(data)
    value.pop("seal", None)
    return json.dumps(damage_value(rng, value)).encode()


def damage_safetensors(rng: np.random.Generator, data: bytes, other: bytes = b"") -> bytes:
    """Of the bytes, of a value in the header, or of a value in JSON inside its metadata."""
    kind = rng.integers(0, 3)
    if kind == 0:
        return damage_bytes(rng, data, other)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    texts = [key for key, text in header.get("__metadata__", {}).items() if text.startswith("{")]
    if kind == 1 or not texts:
        header = damage_value(rng, header)
    else:
        inside = json.loads(header["__metadata__"][texts[0]])
        inside.pop("seal", None)
        text = json.dumps(damage_value(rng, inside))
        header["__metadata__"][texts[0]] = text if rng.integers(0, 8) else text[:-3]
    new = json.dumps(header).encode()
    return len(new).to_bytes(8, "little") + new + data[8 + size :]


Damage = Callable[[np.random.Generator, bytes, bytes], bytes]
