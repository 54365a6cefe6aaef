"""Time `splat` in every implementation that serves here, and set it beside the best and the floor.

    python -m tests.kernels.bench [--shape NAME ...] [--implementation NAME ...] [--runs 20]
        [--before DIR] [--json FILE] [--markdown FILE]

Times are medians of many runs, each ended by waiting for the result; memory is what the compiled
program needs besides its arguments and results. Shapes whose dense form would need more than
`--dense-gigabytes` leave out the reference. `--before` is a checkout of another version, whose
`xla` takes turns with this one's.
"""

import argparse
import functools
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import jax

from gpstoken_jax import kernels
from tests.kernels import floor
from tests.kernels.specs import SPECS, Spec

# Float32 arrays of the size of the weights that the dense form's gradient keeps (as measured).
DENSE_ARRAYS = 12


@dataclass(frozen=True)
class Row:
    """One measurement; ratios over 1 mean faster than the reference or the best XLA form."""

    shape: str
    direction: str
    implementation: str
    milliseconds: float
    runs: int
    temporary_bytes: int
    argument_and_result_bytes: int
    times_faster_than_reference: float | None = None
    times_faster_than_best_xla: float | None = None
    times_the_floor: float | None = None


@functools.cache
def splat_before(checkout: str) -> Callable:
    """The `splat` of an older version, from when `kernels` was imported by that name."""
    sys.path.insert(0, checkout)
    try:
        return importlib.import_module("kernels").splat
    finally:
        sys.path.remove(checkout)


def functions(size: tuple[int, int], implementation: str) -> dict[str, Callable]:
    """Functions to time: the map, and the map with the gradients of both inputs.

    Args:
      size: of the map.
      implementation: one of `kernels.available()`, or the directory of another version.
    """
    earlier = os.path.isdir(implementation)
    splat = splat_before(implementation) if earlier else kernels.splat

    def forward(geometry, features, cotangent):
        way = "xla" if earlier else implementation
        return splat(geometry, features, size, implementation=way)

    def both(geometry, features, cotangent):
        draw = lambda g, f: forward(g, f, cotangent)  # noqa: E731
        image, pullback = jax.vjp(draw, geometry, features)
        return image, *pullback(cotangent)

    return {"forward": forward, "forward+backward": both}


def medians(compiled: dict, arguments, runs: int, budget: float) -> tuple[dict, int]:
    """Median seconds of each program over up to `runs` rounds (at least three), about `budget` s.

    The programs take turns, so that other work on the machine disturbs them alike.
    """
    for function in compiled.values():
        jax.block_until_ready(function(*arguments))
    times: dict = {name: [] for name in compiled}
    rounds, begun = 0, time.perf_counter()
    while rounds < 3 or (rounds < runs and time.perf_counter() - begun < budget):
        for name, function in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: statistics.median(t) for name, t in times.items()}, rounds


def measure(name: str, spec: Spec, implementations, runs: int, budget: float) -> list[Row]:
    """Both directions of one shape in several implementations."""
    arguments = spec.arguments()
    compiled = {
        (direction, implementation): jax.jit(function).lower(*arguments).compile()
        for implementation in implementations
        for direction, function in functions(spec.size, implementation).items()
    }
    seconds, rounds = medians(compiled, arguments, runs, budget)
    rows = []
    for key, program in compiled.items():
        memory = program.memory_analysis()
        ends = memory.argument_size_in_bytes + memory.output_size_in_bytes
        sizes = memory.temp_size_in_bytes, ends
        direction, label = key[0], "before" if os.path.isdir(key[1]) else key[1]
        rows.append(Row(name, direction, label, seconds[key] * 1e3, rounds, *sizes))
    return rows


def with_ratios(rows: list[Row]) -> list[Row]:
    """Fill in how each row compares with the reference, the best XLA form and the floor."""
    times = {(r.shape, r.direction, r.implementation): r.milliseconds for r in rows}

    def ratios(row: Row) -> Row:
        key = row.shape, row.direction
        dense = times.get((*key, "reference"))
        plain = [t for t in (dense, times.get((*key, "xla"))) if t is not None]
        rates = floor.RATES.get(jax.devices()[0].device_kind)
        least = rates and floor.seconds(SPECS[row.shape], rates, row.direction) * 1e3
        return Row(
            **asdict(row)
            | {
                "times_the_floor": least and row.milliseconds / least,
                "times_faster_than_reference": dense and dense / row.milliseconds,
                "times_faster_than_best_xla": min(plain) / row.milliseconds if plain else None,
            }
        )

    return [ratios(row) for row in rows]


def context() -> dict:
    """Device, versions and commit that the figures belong to."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "platform": device.platform,
        "jax": jax.__version__,
        "commit": commit or "unknown",
        "implementations": kernels.available(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else "cpu"


def markdown(rows: list[Row], where: dict) -> str:
    """The table for people."""
    head = [
        f"{where['device']} ({where['platform']}), JAX {where['jax']}, commit {where['commit']}",
        "",
        "| shape | direction | implementation | median ms | temporary MB | of input + output "
        "| vs reference | vs best XLA | times floor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratio = lambda r: "" if r is None else f"{r:.1f}x"  # noqa: E731
    lines = [
        f"| {r.shape} | {r.direction} | {r.implementation} | {r.milliseconds:.2f} "
        f"| {r.temporary_bytes / 1e6:.1f} "
        f"| {r.temporary_bytes / r.argument_and_result_bytes:.0%} "
        f"| {ratio(r.times_faster_than_reference)} | {ratio(r.times_faster_than_best_xla)} "
        f"| {ratio(r.times_the_floor)} |"
        for r in rows
    ]
    return "\n".join([*head, *lines]) + "\n"


def fits(spec: Spec, implementation: str, gigabytes: float) -> bool:
    """Tells whether to run: the dense form's memory is tokens x pixels."""
    weights = 4 * spec.batch * spec.side**2 * spec.tokens
    return implementation != "reference" or DENSE_ARRAYS * weights < gigabytes * 1e9


def main() -> None:
    serving = [name for name, reason in kernels.available().items() if reason is None]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=SPECS, default=list(SPECS))
    parser.add_argument("--implementation", nargs="+", choices=serving, default=serving)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="per shape, about")
    parser.add_argument("--dense-gigabytes", type=float, default=8.0)
    parser.add_argument("--before", metavar="DIR", help="a checkout that has a folder `kernels`")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs {arguments.runs}: at least 1")
    if arguments.before and not os.path.isdir(os.path.join(arguments.before, "kernels")):
        parser.error(f"--before {arguments.before}: there is no folder kernels in it")
    for path in filter(None, (arguments.json, arguments.markdown)):  # not after all the work
        if not path.parent.is_dir():
            parser.error(f"{path}: there is no directory {path.parent}")
    rows: list[Row] = []
    for name in arguments.shape:
        spec, wanted = SPECS[name], arguments.implementation
        chosen = [i for i in wanted if fits(spec, i, arguments.dense_gigabytes)]
        chosen += [os.path.abspath(arguments.before)] if arguments.before else []
        rows += measure(name, spec, chosen, arguments.runs, arguments.seconds)
        print(f"{name}: {', '.join(chosen)}", flush=True)
    rows, where = with_ratios(rows), context()
    print(markdown(rows, where))
    if arguments.markdown:
        arguments.markdown.write_text(markdown(rows, where))
    if arguments.json:
        record = where | {"rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
