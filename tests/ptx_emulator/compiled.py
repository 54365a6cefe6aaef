"""Kernels as the compiler makes them for a GPU, and the emulator in their place."""

import contextlib
import importlib.metadata
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .machine import run_kernel
from .memory import Report
from .numbers import EXACT, Model
from .program import Program, Unsupported, parse
from .targets import kept_files, lower

# Outputs of which the readers know what is written.
_COMPILED: dict[str, "Kernel"] = {}
_PARTLY_WRITTEN = {"splat_tiles": (0, 1), "splat_lists": (0,)}


@dataclass(frozen=True)
class Usage:
    """Usage of a kernel, as ptxas tells it; shared_bytes: as it is launched."""

    compiled_for: str
    registers: int
    spilled_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel and how it is launched.

    order: the buffer of each parameter, inputs before outputs, which are (dtype, shape).
    """

    name: str
    program: Program
    usage: Usage
    blocks: int
    threads: int
    order: tuple[int, ...]
    inputs: tuple
    outputs: tuple
    sass: str | None  # as nvdisasm shows it, where that is installed

    @property
    def shared_bytes(self) -> int:
        return self.usage.shared_bytes

    @property
    def partly_written(self) -> tuple[int, ...]:
        return _PARTLY_WRITTEN.get(self.name, ())


def usage(report: str, shared_bytes: int) -> Usage:
    """Read ptxas's report on one kernel."""
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", report)]
    if not registers:
        raise ValueError(f"no kernel in this ptxas report: {report[:300]!r}")
    target = re.search(r"for '(\w+)'", report)[1]
    return Usage(target, max(registers), sum(spilled), shared_bytes)


def launch(host: str) -> tuple[int, int, int, tuple[int, ...]]:
    """Blocks, threads, shared bytes and the buffer of each parameter, from Mosaic's launch code."""
    call, buffers = re.search(r"@mosaic_gpu_build_kernel_spec\(ptr %0, ([^)]*)\)", host), "%1"
    if not call:  # JAX 0.11
        call, buffers = re.search(r"@mosaic_gpu_launch_kernel\(ptr %0, ([^)]*)\)", host), "%2"
    if not call or "call void @mosaic_gpu_init_tma" in host:
        raise Unsupported("this launch code")
    buffer, loaded, places, order = {buffers: 0}, {}, {}, {}
    for line in host.splitlines():
        if m := re.match(rf"\s*(%\d+) = getelementptr ptr, ptr {buffers}, i32 (\d+)", line):
            buffer[m[1]] = int(m[2])
        elif (m := re.match(r"\s*(%\d+) = load ptr, ptr (%\d+)", line)) and m[2] in buffer:
            loaded[m[1]] = buffer[m[2]]
        elif m := re.match(
            r"\s*(%\d+) = getelementptr \{ ?ptr.*\}, ptr %\d+, i32 0, i32 (\d+)", line
        ):
            places[m[1]] = int(m[2])
        elif m := re.match(r"\s*store ptr (%\d+), ptr (%\d+)", line):
            order |= {places[m[2]]: loaded[m[1]]} if m[2] in places and m[1] in loaded else {}
    numbers = [int(n) for n in re.findall(r"i32 (-?\d+)", call[1])]
    grid, cluster, block, shared = numbers[:3], numbers[3:6], numbers[6:9], numbers[9]
    if max(cluster) > 1 or max(grid[1:]) > 1 or max(block[1:]) > 1:
        raise Unsupported(f"grid {grid}, clusters {cluster}, threads {block}")
    if sorted(order) != list(range(len(order))):
        raise Unsupported(f"parameters {sorted(order)}")
    return grid[0], block[0], shared, tuple(order[n] for n in range(len(order)))


def compile_kernel(target: str, name: str, function, shapes) -> Kernel:
    """Compile a function that is one Mosaic kernel."""
    import jax

    with kept_files() as folder:
        if (root := _disassembler(folder)) is not None:
            os.environ |= {"MOSAIC_GPU_CUDA_ROOT": str(root), "MOSAIC_GPU_DUMP_SASS": "1"}
        lowered = lower(target, function, shapes)
        # Mosaic keeps what it has compiled, and makes its files only once.
        if (known := _COMPILED.get(key := lowered.as_text())) is not None:
            return known
        operands = re.findall(r"custom_call @mosaic_gpu\w*\(([^)]*)\)", key)
        if operands != [", ".join(f"%arg{i}" for i in range(len(shapes)))]:
            raise Unsupported(f"operands of the custom call: {operands}")
        lowered.compile()
        ptx, host, report = (_only(folder, suffix) for suffix in ("ptx", "ll", "ptxas"))
        sass = _only(folder, "sass*") if root is not None else None
    blocks, threads, shared, order = launch(host)
    of = lambda s: (np.dtype(s.dtype), tuple(s.shape))  # noqa: E731
    outputs = tuple(of(o) for o in jax.tree.leaves(lowered.out_info))
    inputs = tuple(map(of, shapes))
    if sorted(order) != list(range(len(inputs) + len(outputs))):
        raise Unsupported(f"buffers {order} for {len(inputs)} inputs and {len(outputs)} outputs")
    found = usage(report, shared)
    if found.compiled_for != target:
        raise RuntimeError(
            f"Mosaic compiled for {found.compiled_for}, not {target}: it keeps the first target of "
            "a process, so take a process for each"
        )
    kernel = Kernel(name, parse(ptx), found, blocks, threads, order, inputs, outputs, sass)
    return _COMPILED.setdefault(key, kernel)


def _only(folder: Path, suffix: str) -> str:
    files = sorted(folder.glob(f"*.{suffix}"))
    if not files:
        raise Unsupported(f"no file .{suffix} of a kernel")
    return files[0].read_text()


def _disassembler(folder: Path) -> Path | None:
    """A folder that Mosaic takes for CUDA's, with the package's nvdisasm in it."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvdisasm") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    tool = next(Path(f.locate()) for f in files if f.name == "nvdisasm")
    tool.chmod(0o755)
    (folder / "cuda" / "bin").mkdir(parents=True)
    (folder / "cuda" / "bin" / "nvdisasm").symlink_to(tool.resolve())
    return folder / "cuda"


@dataclass
class Emulator:
    """Stands in for the GPU: kernels met while it is `in_place` are compiled for the target, and
    their PTX is run on their operands whenever the program calls them."""

    target: str
    model: Model = EXACT
    runs: list[tuple[Kernel, Report, list, list]] = field(default_factory=list)

    @contextlib.contextmanager
    def in_place(self):
        from jax.experimental.pallas import mosaic_gpu as plgpu

        self._kernel = plgpu.kernel
        plgpu.kernel = self._stand_in
        try:
            yield self
        finally:
            plgpu.kernel = self._kernel

    def _stand_in(self, body, *, out_type, **options):
        import jax

        def call(*operands):
            shapes = [jax.ShapeDtypeStruct(o.shape, o.dtype) for o in operands]
            function = self._kernel(body, out_type=out_type, **options)
            # In a thread of its own: a trace under way belongs to its thread.
            with ThreadPoolExecutor(1) as pool:
                kernel = pool.submit(
                    compile_kernel, self.target, body.__name__, function, shapes
                ).result()
            tree = jax.tree.structure(out_type)

            def run(*arrays):
                arrays = [np.asarray(a) for a in arrays]
                results, report = run_kernel(kernel, arrays, self.model)
                self.runs.append((kernel, report, arrays, results))
                return jax.tree.unflatten(tree, results)

            return jax.pure_callback(run, out_type, *operands)

        return call
