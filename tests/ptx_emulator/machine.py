"""Runs a program for all threads of a grid at once, as arrays, and checks what they do.

Threads that stand at different blocks take turns, the first block of the program first. A block
that begins with a warp-wide instruction waits for all lanes of a warp, a barrier for all threads of
a CTA.
"""

import re
from dataclasses import dataclass

import numpy as np

from .memory import TYPES, Global, Report, Shared
from .numbers import EXACT, Model
from .operations import Compiler
from .program import Program

AT_ONCE = 48  # CTAs


class Deadlock(Exception):
    """Threads wait for others that will not come."""


@dataclass(frozen=True)
class Who:
    """Numbers of the threads that run: of all, in the CTA, of the CTA in flight, of the warp."""

    thread: np.ndarray
    local: np.ndarray
    cta: np.ndarray
    warp: np.ndarray

    def __getitem__(self, chosen) -> "Who":
        return Who(*(a[chosen] for a in (self.thread, self.local, self.cta, self.warp)))


class Lanes(dict):
    """Registers of the threads that run one block."""

    def __init__(self, who: Who, threads: int):
        super().__init__()
        self.who, self.threads, self.count = who, threads, len(who.thread)

    def special(self, name: str) -> np.ndarray:
        of = {"%tid.x": self.who.local, "%laneid": self.who.local % 32}
        number = of[name] if name in of else self.who.thread // self.threads
        return number.astype(np.uint32)


class Machine:
    """A program, a model of its inexact instructions, and what happened."""

    def __init__(self, program: Program, model: Model = EXACT):
        self.program, self.model, self.report = program, model, Report()
        compiler = Compiler(program, self)
        self.actions = [[compiler.compile(i) for i in block] for block in program.blocks]
        self.registers = [self._registers(block) for block in program.blocks]

    def _registers(self, block) -> tuple[list[str], list[str]]:
        """Registers that a block needs from before it, and those that it sets."""
        needed, written = {}, {}
        for i in block:
            reads, sets = list(i.operands), []
            if i.head not in ("st", "bra", "bar", "ret", "fence"):
                sets, reads = reads[:1], reads[1:]
            guard = [i.guard[0]] if i.guard else []
            names = (*self._names(reads), *guard)
            needed |= dict.fromkeys(n for n in names if n not in written)
            written |= dict.fromkeys(self._names(sets))
        return list(needed), list(written)

    def _names(self, operands) -> list[str]:
        """The registers in operands such as %r1, [%r2+4], !%p1, %r3|%p2 and lists of them."""
        flat = [o for x in operands for o in ([x] if isinstance(x, str) else x)]
        words = [w for o in flat for w in re.findall(r"%[\w.]+", o)]
        return [w for w in words if w in self.program.widths]

    def run(self, ctas: int, threads: int, memory: Global, parameters, shared_bytes: int) -> Report:
        """Run `ctas` CTAs of `threads` threads, some at a time."""
        self.memory, self.parameters, self.threads = memory, parameters, threads
        with np.errstate(all="ignore"):
            for start in range(0, ctas, AT_ONCE):
                self._run(np.arange(start, min(start + AT_ONCE, ctas)), ctas, shared_bytes)
        return self.report

    def _run(self, numbers: np.ndarray, ctas: int, shared_bytes: int) -> None:
        count = len(numbers) * self.threads
        local = np.tile(np.arange(self.threads), len(numbers))
        cta = np.repeat(np.arange(len(numbers)), self.threads)
        who = Who(numbers[cta] * self.threads + local, local, cta, np.arange(count) // 32)
        self.shared = Shared(shared_bytes, len(numbers))
        kept: dict[str, np.ndarray] = {}
        place, end = np.zeros(count, np.int64), len(self.program.blocks)
        while (place < end).any():
            block, chosen = self._next(place, end)
            first = self.program.blocks[block][0]
            if first.block_barrier:
                self.report.executed[first.number] += len(chosen) // 32
                self.shared.block_barriers[np.unique(cta[chosen])] += 1
                place[chosen] += 1
                continue
            everyone = len(chosen) == count
            lanes = Lanes(who if everyone else who[chosen], self.threads)
            self._load(block, lanes, kept, None if everyone else chosen)
            visits = self.report.visits.setdefault(block, np.zeros(ctas, np.int64))
            warps = np.unique(lanes.who.warp)
            np.add.at(visits, numbers[warps * 32 // self.threads], 1)
            place[chosen] = self._block(block, lanes, len(warps), end)
            for name in self.registers[block][1]:
                if everyone:
                    kept[name] = lanes[name]
                    continue
                if name not in kept:
                    kept[name] = np.zeros(count, TYPES[self.program.widths[name]])
                kept[name][chosen] = lanes[name]

    def _next(self, place: np.ndarray, end: int) -> tuple[int, np.ndarray]:
        """The first block that can run, and its threads."""
        for block in np.unique(place[place < end]):
            here, first = place == block, self.program.blocks[block][0]
            if first.warp_wide:
                group = self.threads if first.block_barrier else 32
                here &= np.repeat(here.reshape(-1, group).all(axis=1), group)
            if here.any():
                return int(block), np.flatnonzero(here)
        waiting = {self.program.blocks[b][0].text for b in np.unique(place[place < end])}
        raise Deadlock(f"not all lanes come to: {'; '.join(sorted(waiting))}")

    def _load(self, block: int, lanes: Lanes, kept, chosen) -> None:
        for name in self.registers[block][0]:
            if name not in kept:
                self.report.fault("read of a register never written", 1, f"{name}, block {block}")
                dtype = TYPES[self.program.widths[name]]
                lanes[name] = np.ones(lanes.count, dtype)
            else:
                lanes[name] = kept[name] if chosen is None else kept[name][chosen]

    def _block(self, block: int, lanes: Lanes, warps: int, end: int) -> np.ndarray:
        """Run a block; where its threads go."""
        after = np.full(lanes.count, block + 1)
        for i, action in zip(self.program.blocks[block], self.actions[block], strict=True):
            self.report.executed[i.number] += warps
            if i.head == "ret":
                after[:] = end
            elif i.head == "bra":
                taken = lanes[i.guard[0]] ^ i.guard[1] if i.guard else True
                after = np.where(taken, self.program.labels[i.operands[0]], after)
            else:
                action(lanes)
        return after


def run_kernel(kernel, inputs, model: Model = EXACT) -> tuple[list[np.ndarray], Report]:
    """Run a compiled kernel (see `compiled`) on arrays; its outputs, and what happened."""
    memory = Global(inputs, kernel.outputs)
    addresses = memory.addresses()
    machine = Machine(kernel.program, model)
    parameters = [addresses[n] for n in kernel.order]
    report = machine.run(kernel.blocks, kernel.threads, memory, parameters, kernel.shared_bytes)
    results = []
    for n, (dtype, shape) in enumerate(kernel.outputs):
        value, missing = memory.content(n, dtype, shape)
        results.append(value)
        if n not in kernel.partly_written:
            report.fault("output bytes never written", missing, f"output {n} {shape}")
    return results, report
