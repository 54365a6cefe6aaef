"""Compile the GPU kernels, run their PTX, and compare values and gradients with float64.

    python -m tests.ptx_emulator.check [--target sm_90a] [--model exact] [--few] [--only NAME ...]
        [--fuzz FIRST COUNT]

A line a case: largest errors over the largest value wanted, registers, seconds, and every faulty
access of memory. The exit status is 1 if an error is over its bound or anything is at fault. Each
target needs a process of its own. Run it through `make kernel-check`.
"""

import argparse
import sys
import time
from unittest import mock

import numpy as np

from . import targets
from .cases import CASES, Case, arguments, drawn, errors, expected
from .numbers import EXACT, HARDWARE


def run(case: Case, emulator) -> tuple[dict[str, float], list[str], list]:
    """Errors, faults and kernels of one case."""
    import jax
    import jax.numpy as jnp

    from gpstoken_jax.kernels import pallas

    geometry, features, cotangent = arguments(case)
    slots = pallas.slot_count if case.slots is None else lambda tokens, size: case.slots
    emulator.runs.clear()
    with emulator.in_place(), mock.patch.object(pallas, "slot_count", slots):
        arrays = map(jnp.asarray, (geometry, features))
        image, pullback = jax.vjp(lambda g, f: pallas.splat(g, f, case.size, 3.0), *arrays)
        results = [np.asarray(a) for a in (image, *pullback(jnp.asarray(cotangent)))]
    found = errors(results, expected(geometry, features, cotangent))
    faults = [f"{name} over {case.limit:g}" for name, e in found.items() if not e <= case.limit]
    for kernel, report, _, _ in emulator.runs:
        faults += [f"{kernel.name}: {k}, {n} lanes: {t}" for k, (n, t) in report.faults.items()]
        if kernel.usage.spilled_bytes:
            faults.append(f"{kernel.name} spills {kernel.usage.spilled_bytes} bytes")
    return found, faults, [kernel for kernel, *_ in emulator.runs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="sm_90a", choices=HARDWARE)
    parser.add_argument("--model", default="exact", choices=("exact", "hardware"))
    parser.add_argument("--few", action="store_true", help="the short check")
    parser.add_argument("--only", nargs="+", help="names of cases, or parts of them")
    parser.add_argument("--fuzz", nargs=2, type=int, metavar=("FIRST", "COUNT"))
    options = parser.parse_args()
    targets.prepare()
    from .compiled import Emulator

    model = HARDWARE[options.target] if options.model == "hardware" else EXACT
    emulator = Emulator(options.target, model)
    cases = [c for c in CASES if c.few or not options.few]
    if options.only:
        cases = [c for c in cases if any(part in c.name for part in options.only)]
    if options.fuzz:
        first, count = options.fuzz
        cases = [drawn(seed) for seed in range(first, first + count)]
    print(f"{len(cases)} cases for {options.target}, {options.model} rounding", flush=True)
    print("| case | map | d_features | d_geometry | registers | seconds | |\n" + "|---" * 7 + "|")
    wrong = 0
    for case in cases:
        begun = time.perf_counter()
        found, faults, kernels = run(case, emulator)
        wrong += bool(faults)
        cells = [case.name, *(f"{e:.1e}" for e in found.values())]
        cells.append(", ".join(str(k.usage.registers) for k in kernels))
        cells += [f"{time.perf_counter() - begun:.0f}", "; ".join(faults) or "ok"]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"{len(cases) - wrong} of {len(cases)} right")
    return 1 if wrong or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
