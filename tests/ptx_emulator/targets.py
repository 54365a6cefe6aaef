"""GPUs to compile for on a machine that has none, and how to."""

import contextlib
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

# What XLA must know of a device to compile for it: NVIDIA's published figures.
_DESCRIPTION = """
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
    """A GPU to compile for; memory in bytes, bandwidth in bytes a second, clock in GHz."""

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
    "sm_80": Device(
        "NVIDIA A100-SXM4-40GB", 8, 0, 108, 64, 1.41, 1555200000000, 41943040, 42331013120,
        167936, 166912,
    ),
    "sm_86": Device(
        "NVIDIA GeForce RTX 3090", 8, 6, 82, 128, 1.70, 936096000000, 6291456, 25438126080,
        102400, 101376,
    ),
    "sm_89": Device(
        "NVIDIA GeForce RTX 4090", 8, 9, 128, 128, 2.52, 1008096000000, 75497472, 25393692672,
        102400, 101376,
    ),
    "sm_90a": Device(
        "NVIDIA H100 80GB HBM3", 9, 0, 132, 128, 1.98, 3352320000000, 52428800, 84942979072,
        233472, 232448, _ACCELERATED,
    ),
    "sm_100a": Device(
        "NVIDIA B200", 10, 0, 148, 128, 1.97, 8000000000000, 132644864, 191500000000,
        233472, 232448, _ACCELERATED,
    ),
    "sm_120a": Device(
        "NVIDIA GeForce RTX 5090", 12, 0, 170, 128, 2.41, 1792000000000, 100663296, 33660000000,
        102400, 101376, _ACCELERATED,
    ),
}  # fmt: skip


def prepare() -> None:
    """Set what JAX reads when it is imported: run on the CPU, keep what the compiler makes."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ |= {f"MOSAIC_GPU_DUMP_{what}": "1" for what in ("PTX", "PTXAS", "HOST_LLVM")}


def lower(target: str, function, shapes, donated=(), axis: str = "x"):
    """Return what JAX makes of `function` for one such GPU, ready to be compiled.

    Args:
      target: a name of `DEVICES`.
      function: of trees of arrays.
      shapes: for each argument a tree of `jax.ShapeDtypeStruct`.
      donated: arguments whose memory the results may take.
      axis: the name of the mesh's axis of length 1, for `jax.shard_map`.
    """
    import jax
    from jax._src import xla_bridge
    from jax.experimental import topologies

    xla_bridge.backends()  # finds the CUDA plugin
    described = DEVICES[target]
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=_DESCRIPTION.format(**asdict(described)),
        topology="1x1x1",
    )
    device = topology.devices[0]
    mesh = topologies.make_mesh(topology, (1,), (axis,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    kind = jax.sharding.AbstractDevice(
        device_kind=device.device_kind, num_cores=described.cores, platform="gpu"
    )
    abstract = jax.sharding.AbstractMesh(
        (1,), (axis,), (jax.sharding.AxisType.Auto,), abstract_device=kind
    )
    arguments = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), list(shapes)
    )
    with jax.sharding.use_abstract_mesh(abstract), jax.default_device(device):
        return (
            jax.jit(function, donate_argnums=donated)
            .trace(*arguments)
            .lower(lowering_platforms=("cuda",))
        )


def launches(program: str) -> list[str]:
    """Lists launches in a compiled program's text: kernels, fusions, copies, sorts."""
    free = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
    entry = program.split("\nENTRY")[1]
    found = re.findall(r"^\s*(?:ROOT )?%(\S+) = .*? ([a-z][\w-]*)\(", entry, flags=re.M)
    return [name for name, kind in found if kind not in free]


@contextlib.contextmanager
def kept_files():
    """A folder where Mosaic leaves what it makes of kernels compiled meanwhile."""
    import jax.experimental.mosaic.gpu  # noqa: F401  it sets the variable

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MOSAIC_GPU_DUMP_TO"] = folder
        yield Path(folder)
