"""Estimate what the GPU kernels would take on an H100, from what the emulator saw them do.

    python -m tests.ptx_emulator.predict [--shape b16_64x64_l256 ...] [--json FILE]

A model, no measurement. Each unit of a multiprocessor is busy for so many cycles an instruction
(NVIDIA's throughputs; PTX instructions scaled by machine instructions / PTX); a block of threads
takes at least its longest chain of dependent instructions, with latencies as published
microbenchmarks have them; blocks share a multiprocessor as registers and shared memory allow. No
caches but for the lines that a load touches, no DRAM latency, no clock changes.
"""

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import targets
from .compiled import Emulator, Kernel
from .memory import Report

TARGET = "sm_90a"
PROCESSORS, CLOCK = 132, 1.7e9  # of an H100 at work, Hz
DRAM = 3.35e12  # bytes a second
LAUNCH = 2.0  # microseconds from one small kernel of a stream to the next
START = 700  # cycles until a block's first instruction, and from its last to its end
# Cycles that one instruction of a warp keeps a unit of a quarter multiprocessor busy.
BUSY = {"fma": 1.0, "alu": 2.0, "xu": 8.0, "mma": 6.3}
# Cycles until an instruction's result can be used.
LATENCY = {"global": 270, "shared": 30, "mma": 33, "xu": 22, "warp": 26, "barrier": 30}
ARITHMETIC_LATENCY = 4.5
FREE = ("mov", "cvta", "ret", "neg", "abs")  # what ptxas drops or folds into operands


@dataclass(frozen=True)
class Prediction:
    """Microseconds, best and worst of the model, without the launch; and what they come from."""

    kernel: str
    best: float
    worst: float
    blocks: int
    resident: int
    registers: int
    instructions: int  # of warps, in all
    latency: float  # cycles of the longest block
    busy: dict[str, float]  # microseconds of each unit, spread evenly over the chip

    def __str__(self) -> str:
        units = sorted(self.busy.items(), key=lambda item: -item[1])
        return (
            f"{self.kernel}: {self.best:.1f} .. {self.worst:.1f} us; {self.blocks} blocks, "
            f"{self.resident} at once, {self.registers} registers, "
            f"{self.instructions / 1e6:.2f} M instructions, longest block {self.latency:.0f} "
            "cycles; busy: " + ", ".join(f"{name} {us:.2f}" for name, us in units)
        )


def unit(i) -> str:
    if i.head == "mma":
        return "mma"
    if i.head in ("ex2", "rcp", "rsqrt", "popc") or {"rpi", "rmi"} & set(i.parts):
        return "xu"
    if i.head in ("ld", "st", "ldmatrix", "shfl", "vote"):
        return "memory"
    if i.head in ("bra", "bar"):
        return "control"
    floating = i.parts[-1] == "f32" and i.head in ("fma", "mul", "add", "sub")
    return "fma" if floating or i.head in ("mad", "mul") else "alu"


def latency(i) -> float:
    """Cycles from an instruction to one that needs its result."""
    if i.head in ("ld", "ldmatrix"):
        return LATENCY["global" if "global" in i.parts else "shared"]
    if i.head in ("shfl", "vote"):
        return LATENCY["warp"]
    return LATENCY.get("barrier" if i.head == "bar" else unit(i), ARITHMETIC_LATENCY)


def chain(block, registers, ratio: float, in_order: bool) -> float:
    """Cycles of one warp in a block of code: its longest chain of dependences.

    in_order: each instruction also waits until those before it have begun.
    """
    ready, now, last = {}, 0.0, 0.0
    for i in block:
        if i.head in FREE and len(i.operands) == 2:
            sources = registers(i.operands[1:])
            ready |= {t: max((ready.get(s, 0.0) for s in sources), default=0.0)
                      for t in registers(i.operands[:1])}  # fmt: skip
            continue
        stores = i.head in ("st", "bra", "bar")
        sources = registers(i.operands if stores else i.operands[1:])
        begins = max([now if in_order else 0.0, *(ready.get(s, 0.0) for s in sources)])
        if in_order:
            now = begins + ratio
        done = begins + (0 if i.head == "st" else latency(i))
        ready |= {} if stores else dict.fromkeys(registers(i.operands[:1]), done)
        last = max(last, done)
    issue = ratio * sum(i.head not in FREE for i in block)
    return max(last, issue)


def schedule(chains: np.ndarray, work: np.ndarray, resident: int) -> float:
    """Cycles until all blocks are done, handed out in order to multiprocessors with room.

    A block needs its chain's time, and its work of the busiest unit, which residents share.
    """
    queue, running = list(range(len(chains)))[::-1], [[] for _ in range(PROCESSORS)]
    for _ in range(resident):
        for place in running:
            if queue:
                place.append([queue.pop(), 1.0])
    now = np.zeros(PROCESSORS)
    while any(running):
        n = min((n for n in range(PROCESSORS) if running[n]), key=lambda n: now[n])
        demand = sum(work[c] / chains[c] for c, _ in running[n])
        pace = [1 / (chains[c] * max(demand, 1.0)) for c, _ in running[n]]
        step = min(left / p for (_, left), p in zip(running[n], pace, strict=True))
        now[n] += step
        for entry, p in zip(running[n], pace, strict=True):
            entry[1] -= p * step
        running[n] = [e for e in running[n] if e[1] > 1e-9]
        while queue and len(running[n]) < resident:
            running[n].append([queue.pop(), 1.0])
    return float(now.max())


def predict(kernel: Kernel, report: Report) -> Prediction:
    """Predict one launch from the run of it that was emulated."""
    blocks = kernel.program.blocks
    code = [i for b in blocks for i in b if i.head not in FREE and "param" not in i.parts]
    listing = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", kernel.sass or "")
    machine = len([op for op in listing if not op.startswith("NOP")])
    ratio = machine / len(code) if machine else 1.0
    counts = Counter()
    for i in code:
        counts[unit(i)] += report.executed[i.number]
    quarters = 4 * PROCESSORS
    total = sum(counts.values())
    cycles = {"issue": total * ratio / quarters}
    for name, cost in BUSY.items():
        scale = 1.0 if name in ("xu", "mma") else ratio
        cycles[name] = counts[name] * cost * scale / quarters
    shared = sum(a.warps * a.words for a in report.accesses.values() if a.shared)
    arrays = [a for a in report.accesses.values() if not a.shared]
    shuffles = sum(report.executed[i.number] for i in code if i.head in ("shfl", "vote"))
    cycles["load/store"] = (sum(a.warps * a.words for a in arrays) + shared + shuffles) / PROCESSORS
    for lines in (4, 1):
        asked = sum(max(a.lines / lines, a.warps) for a in arrays)
        cycles[f"L1, {lines} lines a clock"] = (asked + shared) / PROCESSORS

    warps = kernel.threads // 32
    names = lambda operands: _registers(kernel.program, operands)  # noqa: E731
    visits = np.array([report.visits.get(n, np.zeros(kernel.blocks)) for n in range(len(blocks))])
    executed = visits.T @ np.array([len(b) for b in blocks], float)  # instructions of a block
    registers = -(-kernel.usage.registers // 8) * 8
    resident = min(
        65536 // (registers * kernel.threads),
        2048 // kernel.threads,
        227 * 1024 // (kernel.shared_bytes + 1024),
    )
    ends = {}
    moved = sum(
        32 * a.sectors for n, a in report.accesses.items() if not a.shared and _stores(kernel, n)
    )
    moved += sum(
        int(np.prod(s)) * d.itemsize for d, s in kernel.inputs if kernel.name != "splat_tokens"
    )
    for name, in_order, skipped in (("best", False, "L1, 1 lines a clock"), ("worst", True, "")):
        one = np.array([chain(b, names, ratio, in_order) for b in blocks])
        # Warps of a block do not do the same: the longest of them is not more than the sum.
        chains = START + np.ceil(visits / warps).T @ one
        busiest = max(c for n, c in cycles.items() if n != skipped) * PROCESSORS
        spent = schedule(chains, busiest * executed / executed.sum(), resident)
        ends[name] = max(spent / CLOCK, moved / DRAM) * 1e6
    busy = {n: c / CLOCK * 1e6 for n, c in cycles.items()}
    return Prediction(
        kernel.name, ends["best"], ends["worst"], kernel.blocks, resident, kernel.usage.registers,
        int(total * ratio), float(chains.max()), busy,
    )  # fmt: skip


def _stores(kernel: Kernel, number: int) -> bool:
    return any(i.number == number and i.head == "st" for b in kernel.program.blocks for i in b)


def _registers(program, operands) -> list[str]:
    flat = [o for x in operands for o in ([x] if isinstance(x, str) else x)]
    return [w for o in flat for w in re.findall(r"%[\w.]+", o) if w in program.widths]


def launches(function, shapes) -> tuple[list[str], int]:
    """Everything that the compiled program launches, and the bytes that it needs meanwhile."""
    with targets.kept_files():
        compiled = targets.lower(TARGET, function, shapes).compile()
    kinds = targets.launches(compiled.as_text())
    return kinds, compiled.memory_analysis().temp_size_in_bytes


def main() -> int:
    targets.prepare()
    import jax

    from gpstoken_jax.kernels import pallas
    from tests.kernels import floor
    from tests.kernels.specs import SPECS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=SPECS, default=["b16_64x64_l256"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rates, record = floor.RATES["NVIDIA H100 80GB HBM3"], {}
    for name in options.shape:
        spec = SPECS[name]
        geometry, features, cotangent = spec.arguments()
        draw = lambda g, f: pallas.splat(g, f, spec.size, 3.0)  # noqa: B023, E731

        def both(g, f, c):
            image, pullback = jax.vjp(draw, g, f)  # noqa: B023
            return image, *pullback(c)

        record[name] = {}
        for direction, function, arguments in (
            ("forward", draw, (geometry, features)),
            ("forward+backward", both, (geometry, features, cotangent)),
        ):
            emulator = Emulator(TARGET)
            with emulator.in_place():
                jax.block_until_ready(function(*arguments))
            found = [predict(kernel, report) for kernel, report, _, _ in emulator.runs]
            kinds, temporary = launches(function, arguments)
            best, worst = (sum(getattr(p, end) for p in found) for end in ("best", "worst"))
            least = floor.seconds(spec, rates, direction) * 1e6
            ends = sum(a.nbytes for a in arguments) + spec.batch * spec.side**2 * spec.channels * 4
            ends += 0 if direction == "forward" else geometry.nbytes + features.nbytes
            after = LAUNCH * len(kinds)
            print(
                f"{name} {direction}: {best:.1f} .. {worst:.1f} us, floor {least:.2f};",
                f"{len(kinds)} launches, with {LAUNCH:.0f} us each {best + after:.1f} ..",
                f"{worst + after:.1f}; temporary {temporary / 1e6:.1f} MB,",
                f"{temporary / ends:.0%} of inputs and outputs",
            )
            for p in found:
                print(f"  {p}", flush=True)
            record[name][direction] = {
                "best": best, "worst": worst, "floor": least, "launches": kinds,
                "temporary": temporary, "kernels": [asdict(p) for p in found],
            }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
