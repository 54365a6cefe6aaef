"""Compile the Pallas kernels for real GPUs on a machine that has none, and report what they take.

Forward and backward go through XLA, Mosaic, PTX and ptxas for each target; the table shows
registers, spilled bytes and shared memory. The exit status is 1 if a kernel spills or needs more
registers than the ceiling. Run it through `make kernel-compile`: it wants an environment of its own
(JAX's CUDA plugin without the CUDA libraries) and leans on interfaces of JAX that may change, so it
is no part of the library.

    python scripts/kernel_compile.py [--json FILE] [--register-ceiling N]
"""

import argparse
import json
import os
import re
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

CHANNELS = (16, 32)
# A multiprocessor has 65536 registers and a program 128 threads, so up to 255, where the compiler
# begins to spill, two programs fit. The largest kernel takes 203; this leaves a little room.
REGISTER_CEILING = 216

# What XLA must know of a device to compile for it: NVIDIA's published figures.
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared_core} threads_per_core_limit: 2048
  core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: {cache} clock_rate_ghz: {clock}
  device_memory_size: {memory} shared_memory_per_block_optin: {shared_block}
  cuda_compute_capability {{ major: {major} minor: {minor} {feature} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability {major}.{minor}"
  model_str: "{name}" device_address_bits: 64 name: "{name}"
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""
_ACCELERATED = "feature_extension: ACCELERATED_FEATURES"


@dataclass(frozen=True)
class Device:
    """A GPU to compile for."""

    name: str
    major: int
    minor: int
    cores: int
    fpus: int
    clock: float
    bandwidth: int
    cache: int
    memory: int
    shared_core: int
    shared_block: int
    feature: str = ""


DEVICES = {
    "sm_90a": Device(
        "NVIDIA H100 80GB HBM3", 9, 0, 132, 128, 1.98, 3352320000000, 52428800, 84942979072,
        233472, 232448, _ACCELERATED,
    ),
    "sm_80": Device(
        "NVIDIA A100-SXM4-40GB", 8, 0, 108, 64, 1.41, 1555200000000, 41943040, 42331013120,
        167936, 166912,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """What ptxas says one kernel takes."""

    target: str
    direction: str
    channels: int
    dtype: str
    registers: int
    spilled_bytes: int
    shared_bytes: int


def parse_ptxas(report: str) -> tuple[int, int, int]:
    """Registers, bytes spilled (stores and loads) and bytes of shared memory in a ptxas report."""
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", report)]
    shared = [int(n) for n in re.findall(r"(\d+) bytes smem", report)]
    if not registers:
        raise ValueError(f"no kernel in this ptxas report: {report[:300]!r}")
    return max(registers), sum(spilled), max(shared, default=0)


def faults(usages: list[Usage], ceiling: int) -> list[str]:
    """What is wrong with the kernels, one line each."""
    lines = []
    for u in usages:
        kernel = f"{u.direction} C={u.channels} {u.dtype} on {u.target}"
        if u.spilled_bytes:
            lines.append(f"{kernel} spills {u.spilled_bytes} bytes")
        if u.registers > ceiling:
            lines.append(f"{kernel} takes {u.registers} registers, over the ceiling of {ceiling}")
    return lines


def table(usages: list[Usage]) -> str:
    """A Markdown table."""
    head = "| target | kernel | C | features | registers | spilled | shared memory |"
    rows = [
        f"| {u.target} | {u.direction} | {u.channels} | {u.dtype} | {u.registers} "
        f"| {u.spilled_bytes} B | {u.shared_bytes} B |"
        for u in usages
    ]
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


def _compile(device: Device, function, *shapes) -> str:
    """Compile for the device; the reports of ptxas on what it assembled."""
    import jax
    from jax._src import xla_bridge
    from jax.experimental import topologies

    xla_bridge.backends()  # finds the CUDA plugin
    described = _TARGET.format(**asdict(device))
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=described, topology="1x1x1"
    )
    target = topology.devices[0]
    mesh = topologies.make_mesh(topology, (1,), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    arguments = [jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding) for s in shapes]
    kind = jax.sharding.AbstractDevice(
        device_kind=target.device_kind, num_cores=device.cores, platform="gpu"
    )
    axis = jax.sharding.AxisType.Auto
    abstract = jax.sharding.AbstractMesh((1,), ("x",), (axis,), abstract_device=kind)
    with (
        tempfile.TemporaryDirectory() as folder,
        jax.sharding.use_abstract_mesh(abstract),
        jax.default_device(target),
    ):
        os.environ["MOSAIC_GPU_DUMP_TO"] = folder
        traced = jax.jit(function).trace(*arguments)
        traced.lower(lowering_platforms=("cuda",)).compile()
        return "\n".join(p.read_text() for p in Path(folder).glob("*.ptxas"))


def _directions(channels: int, dtype: str):
    """Forward and backward of a 64 x 64 map with 256 tokens, with the shapes they take."""
    import jax
    import jax.numpy as jnp

    from gpstoken_jax.kernels import pallas

    shape = lambda *s: jax.ShapeDtypeStruct(s, dtype)  # noqa: E731
    geometry = jax.ShapeDtypeStruct((16, 256, 5), jnp.float32)
    features, image = (
        shape(16, 256, channels),
        jax.ShapeDtypeStruct((16, 64, 64, channels), "float32"),
    )
    forward = lambda g, f: pallas.splat(g, f, (64, 64), 3.0)  # noqa: E731
    backward = lambda g, f, c: pallas._splat_backward((64, 64), 3.0, (g, f), c)  # noqa: E731
    yield "forward", forward, (geometry, features)
    yield "backward", backward, (geometry, features, image)


def compile_transformed() -> None:
    """Compile the gradient under JAX's transformations, with odd sizes; an error is a fault."""
    import jax
    import jax.numpy as jnp

    from gpstoken_jax.kernels import pallas

    loss = lambda g, f: (pallas.splat(g, f, (20, 23), 3.0) ** 2).sum()  # noqa: E731
    gradient = jax.grad(loss, (0, 1))

    def sharded(geometry, features):
        mesh, spec = jax.sharding.get_abstract_mesh(), jax.sharding.PartitionSpec("x")
        mapped = jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec)
        return mapped(geometry, features)

    shapes = (
        jax.ShapeDtypeStruct((2, 70, 5), jnp.float32),
        jax.ShapeDtypeStruct((2, 70, 40), "float32"),
    )
    more = [jax.ShapeDtypeStruct((3, *s.shape), s.dtype) for s in shapes]
    device = DEVICES["sm_90a"]
    _compile(device, jax.grad(jax.checkpoint(loss), (0, 1)), *shapes)
    _compile(device, sharded, *shapes)
    _compile(device, jax.vmap(gradient), *more)
    print("compiled under checkpoint, shard_map and vmap, C = 40, a map of 20 x 23")


def compile_all() -> list[Usage]:
    """Compile every kernel for every target."""
    usages = []
    for target, device in DEVICES.items():
        for dtype in ("float32", "bfloat16"):
            for channels in CHANNELS:
                for direction, function, shapes in _directions(channels, dtype):
                    usage = parse_ptxas(_compile(device, function, *shapes))
                    usages.append(Usage(target, direction, channels, dtype, *usage))
                    print(table(usages[-1:]).splitlines()[-1], flush=True)
    return usages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--register-ceiling", type=int, default=REGISTER_CEILING)
    arguments = parser.parse_args()
    # Before JAX is imported: run nothing on a GPU, and keep ptxas's reports.
    os.environ |= {"JAX_PLATFORMS": "cpu", "MOSAIC_GPU_DUMP_PTXAS": "1"}
    usages = compile_all()
    compile_transformed()
    print(table(usages))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(u) for u in usages], indent=1) + "\n")
    wrong = faults(usages, arguments.register_ceiling)
    print("\n".join(wrong) or "no spills, no kernel over the register ceiling")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
