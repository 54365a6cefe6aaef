"""Compile the Pallas kernels for real GPUs on a machine that has none, and report what they take.

Forward and backward go through XLA, Mosaic, PTX and ptxas, each target in a process of its own,
because Mosaic keeps the first one, as many at a time as there are cores. The table shows registers,
spilled bytes and shared memory of each kernel. The exit status is 1 if a kernel spills or needs
more registers than the ceiling, if ptxas reports another target than was asked for, or if the
compiled program launches more than the kernels. Run it through `make kernel-compile`: it wants an
environment of its own (JAX's CUDA plugin without the CUDA libraries) and leans on interfaces of JAX
that may change, so it is no part of the library.

    python -m tests.ptx_emulator.kernel_compile [--target sm_90a ...] [--json FILE]
        [--register-ceiling N]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.ptx_emulator import targets

# A multiprocessor has 65536 registers and a block 128 threads, so up to 255, where the compiler
# begins to spill, two blocks fit. The largest kernel takes 247, on sm_120a.
REGISTER_CEILING = 250
ALL_CHANNELS = ("sm_80", "sm_90a")  # C = 16 and 32; the others C = 32
# Launches of (forward, forward and backward), without and with lists of very many tokens.
LAUNCHES = {256: (1, 3), 2048: (2, 4)}


@dataclass(frozen=True)
class Usage:
    """Usage of one kernel, as ptxas tells it."""

    target: str
    kernel: str
    channels: int
    dtype: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    compiled_for: str


def faults(usages: list[Usage], ceiling: int) -> list[str]:
    """Faults of the kernels, one line each."""
    lines = []
    for u in usages:
        kernel = f"{u.kernel} C={u.channels} {u.dtype} on {u.target}"
        if u.spilled_bytes:
            lines.append(f"{kernel} spills {u.spilled_bytes} bytes")
        if u.registers > ceiling:
            lines.append(f"{kernel} takes {u.registers} registers, over the ceiling of {ceiling}")
        if u.compiled_for != u.target:
            lines.append(f"{kernel} was compiled for {u.compiled_for}")
    return lines


def table(usages: list[Usage]) -> str:
    """A Markdown table."""
    head = "| target | kernel | C | features | registers | spilled | shared memory |"
    rows = [
        f"| {u.target} | {u.kernel} | {u.channels} | {u.dtype} | {u.registers} "
        f"| {u.spilled_bytes} B | {u.shared_bytes} B |"
        for u in usages
    ]
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def _both(splat, size):
    """A function of geometry, features and cotangent: the map and both gradients."""
    import jax

    def run(geometry, features, cotangent):
        image, pullback = jax.vjp(lambda g, f: splat(g, f, size, 3.0), geometry, features)
        return image, *pullback(cotangent)

    return run


def _shapes(batch: int, tokens: int, size, channels: int, dtype: str):
    import jax

    of = jax.ShapeDtypeStruct
    lead = (batch, tokens)
    return (
        of((*lead, 5), "float32"),
        of((*lead, channels), dtype),
        of((batch, *size, channels), dtype),
    )


def compile_kernels(target: str) -> list[Usage]:
    """Compile every kernel for one target, 16 maps of 64 x 64, and count launches."""
    from gpstoken_jax.kernels import pallas
    from tests.ptx_emulator.compiled import launch, usage

    usages = []
    for tokens, expected in LAUNCHES.items():
        for dtype in ("float32", "bfloat16"):
            for channels in (16, 32) if target in ALL_CHANNELS and tokens == 256 else (32,):
                shapes = _shapes(16, tokens, (64, 64), channels, dtype)
                functions = (
                    lambda g, f: pallas.splat(g, f, (64, 64), 3.0),
                    _both(pallas.splat, (64, 64)),
                )
                for function, number in zip(functions, expected, strict=True):
                    with targets.kept_files() as folder:
                        arguments = shapes[: 2 if function is functions[0] else 3]
                        compiled = targets.lower(target, function, arguments).compile()
                        found = targets.launches(compiled.as_text())
                        if len(found) != number:
                            raise SystemExit(f"{len(found)} launches, not {number}: {found}")
                        for report in sorted(folder.glob("*.ptxas")):
                            shared = launch(report.with_suffix(".ll").read_text())[2]
                            taken = usage(report.read_text(), shared)
                            name = report.stem.rsplit("_", 1)[0]
                            usages.append(
                                Usage(target, name, channels, dtype, taken.registers,
                                      taken.spilled_bytes, taken.shared_bytes, taken.compiled_for)
                            )  # fmt: skip
    return usages


def compile_the_rest(target: str) -> None:
    """Compile what has no figures: JAX's transformations, odd sizes, very many blocks, and `xla`.

    An error is a fault.
    """
    import jax

    from gpstoken_jax.kernels import pallas, xla

    loss = lambda g, f: (pallas.splat(g, f, (20, 23), 3.0) ** 2).sum()  # noqa: E731
    gradient = jax.grad(loss, (0, 1))

    def sharded(geometry, features):
        mesh, spec = jax.sharding.get_abstract_mesh(), jax.sharding.PartitionSpec("x")
        mapped = jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec)
        return mapped(geometry, features)

    shapes = _shapes(2, 70, (20, 23), 40, "float32")[:2]
    more = [jax.ShapeDtypeStruct((3, *s.shape), s.dtype) for s in shapes]
    many = _shapes(70_000, 4, (8, 8), 40, "float32")
    for function, arguments in (
        (jax.grad(jax.checkpoint(loss), (0, 1)), shapes),
        (sharded, shapes),
        (jax.vmap(gradient), more),
        (_both(pallas.splat, (8, 8)), many),
        # One tile or block at a time, as where the default backend is a CPU.
        (_both(xla.splat, (64, 64)), _shapes(2, 256, (64, 64), 8, "float32")),
        (_both(xla.splat, (8, 8)), _shapes(1, 20, (8, 8), 8, "float32")),
    ):
        targets.lower(target, function, arguments).compile()
    print(
        f"{target}: compiled under checkpoint, shard_map and vmap, with odd sizes, with 140,000 "
        "blocks, and xla in groups of one"
    )


def _compile_apart(target: str) -> list[Usage] | None:
    """Usage of one target's kernels, compiled in a process of its own; None if that failed."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "usages.json")
        flags = ["--one", "--target", target, "--json", str(found)]
        if subprocess.run([sys.executable, "-m", __spec__.name, *flags], check=False).returncode:
            return None
        return [Usage(**usage) for usage in json.loads(found.read_text())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", nargs="+", choices=targets.DEVICES, default=[*targets.DEVICES])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--register-ceiling", type=int, default=REGISTER_CEILING)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        targets.prepare()
        (target,) = options.target
        usages = compile_kernels(target)
        if target == "sm_90a":
            with targets.kept_files():  # which would go to the screen, a million lines
                compile_the_rest(target)
        options.json.write_text(json.dumps([asdict(u) for u in usages]))
        return 0
    usages = []
    with ThreadPoolExecutor(os.cpu_count()) as processes:
        compiled = processes.map(_compile_apart, options.target)
        for target, found in zip(options.target, compiled, strict=True):
            if found is None:
                print(f"compiling for {target} failed", file=sys.stderr)
                return 1
            usages += found
            print(f"{target}: compiled", flush=True)
    print(table(usages))
    if options.json:
        options.json.write_text(json.dumps([asdict(u) for u in usages], indent=1) + "\n")
    wrong = faults(usages, options.register_ceiling)
    print("\n".join(wrong) or "no spills, no kernel over the register ceiling")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
