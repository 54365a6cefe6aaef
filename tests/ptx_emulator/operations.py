"""PTX instructions as functions of registers: arrays over the lanes that run."""

import re

import numpy as np

from . import numbers
from .memory import TYPES, Access
from .program import WIDTHS, Instruction, Program, Unsupported

_COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal}
_COMPARE |= {"gt": np.greater, "ge": np.greater_equal}
_JOIN = {"and": np.logical_and, "or": np.logical_or}
_SPECIAL = ("%tid.x", "%ctaid.x", "%laneid")

# name -> function of operands seen as the instruction's type; the result has the same type.
_ARITHMETIC = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "neg": np.negative,
    "abs": np.abs,
    "mov": np.copy,
    "cvta": np.copy,
    "popc": np.bitwise_count,
    "div": np.floor_divide,
    "rem": np.remainder,
    "fma": numbers.fma,
    "rcp": lambda a: 1.0 / numbers.flush(a).astype(np.float64),
    "rsqrt": lambda a: 1.0 / np.sqrt(numbers.flush(a).astype(np.float64)),
}
_IGNORES_NAN = {"min": np.fmin, "max": np.fmax}


def _view(value, kind: str):
    """Bits of a register seen as `kind`."""
    if kind[0] == "f":
        return value.view(f"f{WIDTHS[kind] // 8}")
    return value.view(f"i{WIDTHS[kind] // 8}") if kind[0] == "s" else value


def _raw(value, width: int) -> np.ndarray:
    value = np.asarray(value)
    dtype = TYPES[width]
    return value.view(dtype) if value.itemsize * 8 == width != 1 else value.astype(dtype)


class Compiler:
    """Turns a program's instructions into functions of `Lanes` (see `machine`)."""

    def __init__(self, program: Program, machine):
        self.program, self.machine = program, machine

    def compile(self, i: Instruction):
        if i.guard and i.head != "bra":
            raise Unsupported(i.text)
        method = getattr(self, f"_{i.head}", None)
        if method is not None:
            return method(i)
        if i.head in _ARITHMETIC:
            return self._plain(i)
        raise Unsupported(i.text)

    # Operands

    def _get(self, operand: str, kind: str):
        """A function that gives an operand's bits."""
        width = WIDTHS[kind]
        if (have := self.program.widths.get(operand)) is not None:
            if have == width:
                return lambda r: r[operand]
            if have > width:
                return lambda r: r[operand].astype(TYPES[width])
            raise Unsupported(f"{operand} where {width} bits are wanted")
        if operand in _SPECIAL:
            return lambda r: r.special(operand)
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", operand):
            constant = np.array(int(operand[2:], 16), np.uint32)
        elif operand == self.program.shared:
            constant = np.array(0, TYPES[width])
        elif re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)", operand):
            constant = np.array(int(operand, 0) & (2**width - 1)).astype(TYPES[width])
        else:
            raise Unsupported(f"operand {operand}")
        return lambda r: constant

    def _set(self, target: str):
        dtype = TYPES[self.program.widths[target]]

        def put(r, value):
            value = np.asarray(value)
            value = value if value.dtype == dtype else value.astype(dtype)
            r[target] = np.broadcast_to(value, (r.count,)).copy() if value.ndim == 0 else value

        return put

    def _function(self, i: Instruction, kind: str, function, sources=None):
        """target = function(sources as `kind`)."""
        put, width = self._set(i.operands[0]), self.program.widths[i.operands[0]]
        gets = [self._get(o, kind) for o in sources or i.operands[1:]]
        return lambda r: put(r, _raw(function(*(_view(get(r), kind) for get in gets)), width))

    def _address(self, operand: str):
        base, _, offset = operand.strip("[]").partition("+")
        get = self._get(
            base.strip(), "u64" if self.program.widths.get(base.strip()) == 64 else "u32"
        )
        offset = np.int64(int(offset or "0", 0))
        return lambda r: np.broadcast_to(get(r).astype(np.int64) + offset, (r.count,))

    # Arithmetic

    def _plain(self, i: Instruction):
        kind, function = i.parts[-1], _ARITHMETIC[i.head]
        if kind == "f32":
            function = _IGNORES_NAN.get(i.head, function)
            if "ftz" in i.parts:
                return self._function(
                    i, kind, lambda *a: numbers.flush(np.asarray(function(*a)).astype(np.float32))
                )
            return self._function(i, kind, lambda *a: np.asarray(function(*a)).astype(np.float32))
        return self._function(i, kind, function)

    def _ex2(self, i):
        return self._function(i, "f32", lambda a: numbers.power_of_two(a, self.machine.model))

    def _mul(self, i):
        mode, kind = i.parts[1], i.parts[-1]
        if kind == "f32":
            return self._function(i, kind, np.multiply)
        if mode == "lo":
            return self._function(i, kind, np.multiply)
        wide = np.int64 if kind[0] == "s" else np.uint64
        shift = WIDTHS[kind] if mode == "hi" else 0
        if WIDTHS[kind] > 32:
            raise Unsupported(i.text)
        multiply = lambda a, b: (a.astype(wide) * b.astype(wide)) >> wide(shift)  # noqa: E731
        if mode == "hi":
            return self._function(i, kind, lambda a, b: multiply(a, b).astype(a.dtype))
        return self._function(i, kind, multiply)

    def _mad(self, i):
        if i.parts[1] != "lo":
            raise Unsupported(i.text)
        return self._function(i, i.parts[-1], lambda a, b, c: a * b + c)

    def _shl(self, i):
        return self._shift(i, np.left_shift)

    def _shr(self, i):
        return self._shift(i, np.right_shift)

    def _shift(self, i, function):
        kind = i.parts[-1]
        width, signed = WIDTHS[kind], kind[0] == "s"
        put = self._set(i.operands[0])
        value, count = self._get(i.operands[1], kind), self._get(i.operands[2], "u32")

        def run(r):
            a, by = _view(value(r), kind), count(r)
            moved = function(a, np.minimum(by, width - 1).astype(a.dtype))
            put(r, _raw(moved if signed else np.where(by >= width, a.dtype.type(0), moved), width))

        return run

    def _bfe(self, i):
        if i.parts[-1] != "u32":
            raise Unsupported(i.text)
        one = np.uint64(1)

        def extract(a, first, count):
            a, first, count = (np.asarray(x).astype(np.uint64) for x in (a, first, count))
            return ((a >> first) & ((one << count) - one)).astype(np.uint32)

        return self._function(i, "u32", extract)

    def _setp(self, i):
        test, kind = i.parts[1], i.parts[-1]
        join = _JOIN.get(i.parts[2])
        name, negated = i.operands[-1].lstrip("!"), i.operands[-1].startswith("!")
        other = self._get(name, "pred") if join else None
        if test == "num":
            compare = lambda a, b: ~(np.isnan(a) | np.isnan(b))  # noqa: E731
        elif test.endswith("u") and kind[0] == "f":  # or either is a NaN
            base = _COMPARE[test[:-1]]
            compare = lambda a, b: base(a, b) | np.isnan(a) | np.isnan(b)  # noqa: E731
        elif test == "ne" and kind[0] == "f":
            compare = lambda a, b: (a < b) | (a > b)  # noqa: E731
        else:
            compare = _COMPARE[test]
        put = self._set(i.operands[0])
        left, right = (self._get(o, kind) for o in i.operands[1:3])

        def run(r):
            value = compare(_view(left(r), kind), _view(right(r), kind))
            put(r, join(value, other(r) ^ negated) if join else value)

        return run

    def _selp(self, i):
        kind = f"u{WIDTHS[i.parts[-1]]}"
        put, (a, b) = self._set(i.operands[0]), (self._get(o, kind) for o in i.operands[1:3])
        condition = self._get(i.operands[3], "pred")
        return lambda r: put(r, np.where(condition(r), a(r), b(r)))

    def _cvt(self, i):
        to, since = i.parts[-2:]
        if to == "bf16x2":
            half = lambda a: numbers.to_bfloat16(np.atleast_1d(a))  # noqa: E731
            return self._function(i, "f32", lambda high, low: half(low) | (half(high) << 16))
        if since == "f32" and to == "s32":
            rounding = np.ceil if "rpi" in i.parts else np.floor if "rmi" in i.parts else None
            if rounding is None:
                raise Unsupported(i.text)
            ends = np.iinfo(np.int32)

            def cut(a):
                whole = np.nan_to_num(rounding(a.astype(np.float64)))
                return np.clip(whole, ends.min, ends.max).astype(np.int32)

            return self._function(i, since, cut)
        if since[0] == "f" or to[0] == "f":
            raise Unsupported(i.text)
        wide = f"i{WIDTHS[to] // 8}" if since[0] == "s" else TYPES[WIDTHS[to]]
        return self._function(i, since, lambda a: a.astype(wide))

    # Memory

    def _ld(self, i):
        kind, targets = i.parts[-1], i.operands[0]
        puts = [self._set(t) for t in ([targets] if isinstance(targets, str) else targets)]
        width = WIDTHS[kind]
        if i.parts[1] == "param":
            number = self.program.parameters.index(i.operands[1].strip("[]"))
            return lambda r: puts[0](r, np.array(self.machine.parameters[number], TYPES[width]))
        address, memory = self._address(i.operands[1]), self._memory(i)

        def run(r):
            at = address(r)
            self._measure(i, at, width // 8 * len(puts), r)
            values = memory().load(at, width, len(puts), r.who, i.text, self.machine.report)
            for put, value in zip(puts, values, strict=True):
                put(r, value)

        return run

    def _st(self, i):
        width, values = WIDTHS[i.parts[-1]], i.operands[1]
        values = [values] if isinstance(values, str) else values
        gets = [self._get(v, f"u{width}") for v in values]
        address, memory = self._address(i.operands[0]), self._memory(i)

        def run(r):
            at = address(r)
            self._measure(i, at, width // 8 * len(gets), r)
            values = [np.broadcast_to(get(r), (r.count,)) for get in gets]
            memory().store(at, values, width, r.who, i.text, self.machine.report)

        return run

    def _memory(self, i: Instruction):
        if i.parts[1] == "shared":
            return lambda: self.machine.shared
        if i.parts[1] == "global":
            return lambda: self.machine.memory
        raise Unsupported(i.text)

    def _measure(self, i: Instruction, address, size: int, r) -> None:
        """Count what the access asks of the caches; warps with lanes missing are padded."""
        default = Access("shared" in i.parts, max(size // 4, 1))
        access = self.machine.report.accesses.setdefault(i.number, default)
        by_lane = np.repeat(address.reshape(-1, 1), 1, 1)
        warps, place = np.unique(r.who.warp, return_inverse=True)
        by_lane = np.full((len(warps), 32), -1, np.int64)
        by_lane[place, r.who.local % 32] = address
        by_lane = np.where(by_lane < 0, by_lane.max(axis=1, keepdims=True), by_lane)
        distinct = lambda x: int((np.diff(np.sort(x, axis=1), axis=1) != 0).sum()) + len(x)  # noqa: E731
        access.warps += len(warps)
        if not access.shared:
            access.sectors += distinct(by_lane >> 5)
            access.lines += distinct(by_lane.reshape(-1, 32 // access.words) >> 7)

    # Across the lanes of a warp: registers [warps, 32]

    def _warps(self, get, r):
        return np.broadcast_to(get(r), (r.count,)).reshape(-1, 32)

    def _shfl(self, i):
        mode = i.parts[2]
        put, value = self._set(i.operands[0]), self._get(i.operands[1], "u32")
        by = self._get(i.operands[2], "u32")
        if i.operands[3:] != ("31", "-1") or mode not in ("bfly", "idx"):
            raise Unsupported(i.text)

        def run(r):
            x = self._warps(by, r).astype(np.int64)
            source = numbers.LANES ^ x if mode == "bfly" else x & 31
            put(r, np.take_along_axis(self._warps(value, r), source, 1).reshape(-1))

        return run

    def _vote(self, i):
        if i.parts[2] != "ballot":
            raise Unsupported(i.text)
        name, negated = i.operands[1].lstrip("!"), i.operands[1].startswith("!")
        put, condition = self._set(i.operands[0]), self._get(name, "pred")

        def run(r):
            bits = (self._warps(condition, r) ^ negated).astype(np.uint64) << numbers.LANES.astype(
                np.uint64
            )
            put(r, np.repeat(bits.sum(axis=1).astype(np.uint32), 32))

        return run

    def _elect(self, i):
        put_leader, put = map(self._set, i.operands[0].split("|"))

        def run(r):
            put_leader(r, np.array(0))
            put(r, r.special("%laneid") == 0)

        return run

    def _mma(self, i):
        if i.parts[3:] != ("m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32"):
            raise Unsupported(i.text)
        puts = [self._set(t) for t in i.operands[0]]
        sources = [[self._get(o, "u32") for o in operand] for operand in i.operands[1:]]

        def run(r):
            fragments = ([self._warps(get, r) for get in gets] for gets in sources)
            results = numbers.matrix_multiply(*fragments, self.machine.model)
            for put, value in zip(puts, results, strict=True):
                put(r, value.reshape(-1))

        return run

    def _ldmatrix(self, i):
        if i.parts[3:5] != ("m8n8", "x4"):
            raise Unsupported(i.text)
        puts, address = [self._set(t) for t in i.operands[0]], self._address(i.operands[1])

        def run(r):
            self._measure(i, address(r), 16, r)
            rows = self.machine.shared.load(address(r), 32, 4, r.who, i.text, self.machine.report)
            words = np.stack(rows, axis=-1).reshape(-1, 4, 8, 4)  # warp, matrix, row
            matrix = words.view(np.uint16).reshape(-1, 4, 8, 8).astype(np.uint32)
            if "trans" in i.parts:
                matrix = matrix.swapaxes(2, 3)
            row, column = numbers.GROUP, 2 * numbers.IN_GROUP
            for m, put in enumerate(puts):
                pair = matrix[:, m, row, column] | (matrix[:, m, row, column + 1] << 16)
                put(r, pair.reshape(-1))

        return run

    def _bar(self, i):
        if i.parts[1] != "warp":
            return None  # the machine's

        def run(r):
            cta, local = r.who.cta[::32], r.who.local[::32]
            self.machine.shared.warp_barriers[cta, local >> 5] += 1

        return run

    # The machine's, or nothing to do

    def _bra(self, i):
        return None

    _ret = _bra

    def _fence(self, i):
        return lambda r: None
