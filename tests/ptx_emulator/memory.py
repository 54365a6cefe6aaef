"""Global and shared memory in which every access is checked."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

TYPES = {1: bool, 16: np.uint16, 32: np.uint32, 64: np.uint64}
GUARD = 1 << 16  # bytes between buffers that belong to nobody
NOBODY, SEVERAL_WARPS = -1, -2


@dataclass
class Access:
    """Access of one instruction to memory, summed over warps."""

    shared: bool
    words: int  # of four bytes a lane
    warps: int = 0
    sectors: int = 0  # of 32 bytes
    lines: int = 0  # of 128 bytes, within the quarter or half warps that wide accesses go in


@dataclass
class Report:
    """Faults, and work done: instructions run by warps, blocks run by CTAs."""

    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    executed: Counter = field(default_factory=Counter)
    visits: dict[int, np.ndarray] = field(default_factory=dict)
    accesses: dict[int, Access] = field(default_factory=dict)

    def fault(self, kind: str, lanes, example: str) -> None:
        """Count a fault in so many lanes; the first example is kept."""
        if count := int(np.sum(lanes)):
            seen, first = self.faults.get(kind, (0, example))
            self.faults[kind] = seen + count, first


class _Bytes:
    """Bytes, with who wrote each pair of them."""

    def __init__(self, size: int):
        size = -(-size // 16) * 16
        self.bytes = np.full(size, 0xFF, np.uint8)
        self.views = {width: self.bytes.view(TYPES[width]) for width in (16, 32, 64)}
        self.valid = np.zeros(size // 2, bool)
        self.writer = np.full(size // 2, NOBODY, np.int64)

    def read(self, offset, width: int, count: int) -> list[np.ndarray]:
        index = offset // (width // 8)
        return [self.views[width][index + i] for i in range(count)]

    def put(self, offset, values, width: int) -> np.ndarray:
        """Write; where another lane has written something else to the same place."""
        index, lost = offset // (width // 8), np.zeros(len(offset), bool)
        for i, value in enumerate(values):
            self.views[width][index + i] = value
        for i, value in enumerate(values):
            lost |= self.views[width][index + i] != value
        return lost


class Global(_Bytes):
    """Buffers far from each other. Only outputs may be written, and read only by their writer."""

    BASE = 0x7F4200000000

    def __init__(self, inputs, outputs):
        """inputs: arrays; outputs: (dtype, shape) of each."""
        sizes = [a.nbytes for a in inputs] + [int(np.prod(s)) * d.itemsize for d, s in outputs]
        self.names = [f"input {n}" for n in range(len(inputs))]
        self.names += [f"output {n}" for n in range(len(outputs))]
        starts, total = [], GUARD
        for size in sizes:
            # An odd multiple of the alignment that XLA promises: nothing may lean on a better one.
            start = -(-total // 256) * 256
            start += 0 if start % 512 else 256
            starts.append(start)
            total = start + size + GUARD
        super().__init__(total)
        self.starts, self.first_output = np.array(starts, np.int64), len(inputs)
        self.ends = self.starts + np.array(sizes, np.int64)
        for start, array in zip(starts, inputs, strict=False):
            raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            self.bytes[start : start + len(raw)] = raw
            self.valid[start // 2 : (start + len(raw) + 1) // 2] = True

    def addresses(self) -> list[int]:
        return [self.BASE + int(start) for start in self.starts]

    def content(self, number: int, dtype, shape) -> tuple[np.ndarray, int]:
        """An output, and how many of its bytes were never written."""
        n = self.first_output + number
        start, end = int(self.starts[n]), int(self.ends[n])
        missing = 2 * int((~self.valid[start // 2 : end // 2]).sum())
        return self.bytes[start:end].view(dtype).reshape(shape).copy(), missing

    def _locate(self, address, size: int, what: str, report: Report):
        offset = address.astype(np.int64) - self.BASE
        owner = np.maximum(np.searchsorted(self.starts, offset, "right") - 1, 0)
        inside = (offset >= self.starts[owner]) & (offset + size <= self.ends[owner])
        report.fault("out of bounds", ~inside, f"{what} near {self.names[owner[0]]}")
        aligned = offset % size == 0
        report.fault("misaligned", ~aligned, what)
        return offset, owner, inside & aligned

    def load(self, address, width: int, count: int, who, what: str, report: Report):
        size = width // 8 * count
        offset, _, good = self._locate(address, size, what, report)
        offset = np.where(good, offset, self.starts[0])
        unwritten = np.zeros(len(offset), bool)
        for half in range(size // 2):
            unwritten |= ~self.valid[offset // 2 + half]
        report.fault("read of memory never written", good & unwritten, what)
        writer = self.writer[offset // 2]
        foreign = (writer != NOBODY) & (writer != who.thread)
        report.fault("read of what another thread wrote", good & foreign, what)
        return self.read(offset, width, count)

    def store(self, address, values, width: int, who, what: str, report: Report) -> None:
        size = width // 8 * len(values)
        offset, owner, good = self._locate(address, size, what, report)
        report.fault("write to an input", owner < self.first_output, what)
        offset, thread = offset[good], who.thread[good]
        before = self.writer[offset // 2]
        report.fault("two threads write one place", (before >= 0) & (before != thread), what)
        report.fault(
            "two threads write one place", self.put(offset, [v[good] for v in values], width), what
        )
        for half in range(size // 2):
            self.writer[offset // 2 + half] = thread
            self.valid[offset // 2 + half] = True


class Shared(_Bytes):
    """The shared memory of each CTA in flight.

    An access races with another thread's since the last barrier that both passed; a barrier of the
    warp counts between its lanes.
    """

    def __init__(self, size: int, ctas: int):
        self.size = -(-max(size, 16) // 16) * 16
        super().__init__(self.size * ctas)
        halves = len(self.valid)
        self.reader = np.full(halves, NOBODY, np.int64)
        self.several = np.zeros(halves, bool)  # lanes of the reader's warp have read
        # Of the last write and read: how many barriers the block, and the warp, had passed.
        self.written, self.was_read = (np.full((2, halves), -1, np.int64) for _ in range(2))
        self.block_barriers = np.zeros(ctas, np.int64)
        self.warp_barriers = np.zeros((ctas, 32), np.int64)

    def _locate(self, address, size: int, who, what: str, report: Report):
        offset = address.astype(np.int64)
        inside, aligned = offset + size <= self.size, offset % size == 0
        report.fault("shared: out of bounds", ~inside, what)
        report.fault("shared: misaligned", ~aligned, what)
        return np.where(inside & aligned, offset, 0) + who.cta * self.size

    def _races(self, other, when, at, who, several=False) -> np.ndarray:
        """Tells whether the last access, by `other`, is unordered with one now by `who`."""
        warp, now = who.local >> 5, self.block_barriers[who.cta]
        ordered = when[0][at] < now
        same_warp = (other[at] >= 0) & (other[at] >> 5 == warp)
        ordered |= same_warp & (when[1][at] < self.warp_barriers[who.cta, warp])
        return (other[at] != NOBODY) & ((other[at] != who.local) | several) & ~ordered

    def _note(self, other, when, at, who) -> None:
        other[at] = who.local
        when[0][at] = self.block_barriers[who.cta]
        when[1][at] = self.warp_barriers[who.cta, who.local >> 5]

    def _note_read(self, at, who) -> None:
        since_block = self.was_read[0][at] == self.block_barriers[who.cta]
        same_warp = self.reader[at] >> 5 == who.local >> 5
        since_warp = self.was_read[1][at] == self.warp_barriers[who.cta, who.local >> 5]
        another = (since_warp & (self.reader[at] != who.local)) | (self.several[at] & since_warp)
        self.several[at] = since_block & same_warp & another
        self._note(self.reader, self.was_read, at, who)
        self.several[at[self.reader[at] != who.local]] = True  # in this very instruction
        self.reader[at[since_block & ~same_warp]] = SEVERAL_WARPS

    def load(self, address, width: int, count: int, who, what: str, report: Report):
        size = width // 8 * count
        offset = self._locate(address, size, who, what, report)
        for at in (offset // 2 + half for half in range(size // 2)):
            report.fault("shared: read of memory never written", ~self.valid[at], what)
            races = self._races(self.writer, self.written, at, who)
            report.fault("shared: read races with a write", races, what)
            self._note_read(at, who)
        return self.read(offset, width, count)

    def store(self, address, values, width: int, who, what: str, report: Report) -> None:
        size = width // 8 * len(values)
        offset = self._locate(address, size, who, what, report)
        for at in (offset // 2 + half for half in range(size // 2)):
            races = self._races(self.writer, self.written, at, who)
            races |= self._races(self.reader, self.was_read, at, who, self.several[at])
            report.fault("shared: write races with an access", races, what)
            self._note(self.writer, self.written, at, who)
            self.valid[at] = True
        report.fault("shared: two threads write one place", self.put(offset, values, width), what)
