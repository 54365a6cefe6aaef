"""Numbers as the hardware has them: bfloat16, approximations, and products of the tensor cores."""

from dataclasses import dataclass

import numpy as np

LANES = np.arange(32)
GROUP, IN_GROUP = LANES >> 2, LANES & 3  # of a lane, in fragments of matrices


@dataclass(frozen=True)
class Model:
    """Behaviour of instructions whose bits are not documented.

    ulp: 2 ** x is off by at most so many units of the last place (PTX ISA: 2), the same each time.
    truncate: tensor cores add in steps of so many products and cut every addend to 24 bits below
    the largest, the sum towards zero, as was measured (Fasi et al. 2021: A100 8, H100 16 products
    a step); 0 rounds the exact sum once.
    """

    ulp: int = 0
    truncate: int = 0


EXACT = Model()
HARDWARE = {"sm_80": Model(ulp=2, truncate=8), "sm_90a": Model(ulp=2, truncate=16)}


def to_bfloat16(value: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16, to nearest even; a NaN becomes 0x7fff."""
    bits = value.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(value), 0x7FFF, rounded).astype(np.uint32)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def flush(value: np.ndarray) -> np.ndarray:
    """Zero for denormal numbers."""
    tiny = np.abs(value) < np.float32(2.0**-126)
    return np.where(tiny, np.copysign(np.float32(0), value), value).astype(np.float32)


def power_of_two(value: np.ndarray, model: Model) -> np.ndarray:
    value = flush(value)
    result = np.exp2(value.astype(np.float64)).astype(np.float32)
    if model.ulp:
        mixed = (value.view(np.uint32) * np.uint32(0x9E3779B1)) >> 15
        off = (mixed % (2 * model.ulp + 1)).astype(np.int32) - model.ulp
        normal = np.isfinite(result) & (result >= 2.0**-125) & (value != 0)  # 2 ** 0 is exact
        result = (result.view(np.int32) + np.where(normal, off, 0)).astype(np.int32)
    return flush(result.view(np.float32))


def fma(a, b, c) -> np.ndarray:
    """a * b + c; through float64, so doubly rounded in about one of 2^29 cases."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def _halves(registers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return from_bfloat16(registers & 0xFFFF), from_bfloat16(registers >> 16)


def matrix_multiply(left, right, total, model: Model) -> list[np.ndarray]:
    """Fragments of [16, 8] = [16, 16] @ [16, 8] + [16, 8], registers [warps, 32] of uint32.

    PTX ISA, "Matrix Fragments for mma.m16n8k16": four registers, two, and four.
    """
    warps = len(left[0])
    a, b, c = (np.zeros((warps, *s), np.float32) for s in ((16, 16), (16, 8), (16, 8)))
    for i, register in enumerate(left):
        row, column = GROUP + 8 * (i & 1), 2 * IN_GROUP + 8 * (i >> 1)
        a[:, row, column], a[:, row, column + 1] = _halves(register)
    for i, register in enumerate(right):
        row = 2 * IN_GROUP + 8 * i
        b[:, row, GROUP], b[:, row + 1, GROUP] = _halves(register)
    places = [(GROUP + 8 * (i >> 1), 2 * IN_GROUP + (i & 1)) for i in range(4)]
    for register, (row, column) in zip(total, places, strict=True):
        c[:, row, column] = register.view(np.float32)
    c = _accumulate(c, a.astype(np.float64), b.astype(np.float64), model)
    return [np.ascontiguousarray(c[:, row, column]).view(np.uint32) for row, column in places]


def _accumulate(total, left, right, model: Model) -> np.ndarray:
    if not model.truncate:
        return (left @ right + total).astype(np.float32)
    for start in range(0, 16, model.truncate):
        part = slice(start, start + model.truncate)
        products = left[:, :, None, part] * right[:, part].swapaxes(1, 2)[:, None]
        addends = np.concatenate([total.astype(np.float64)[..., None], products], axis=-1)
        largest = np.abs(addends).max(axis=-1, keepdims=True)
        _, exponent = np.frexp(np.where(np.isfinite(largest), largest, 1.0))
        unit = np.ldexp(1.0, exponent - 24)
        cut = np.where(np.isfinite(addends), np.trunc(addends / unit) * unit, addends)
        exact = cut.sum(axis=-1)
        near = exact.astype(np.float32)
        over = np.abs(near.astype(np.float64)) > np.abs(exact)
        total = np.where(over, np.nextafter(near, np.float32(0)), near).astype(np.float32)
    return total
