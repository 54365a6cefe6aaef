"""Compile the programs of full size for a GPU on a machine that has none; report what they take.

Training steps, encode, decode and a step of SiT-XL's sampler: bytes of arguments and of temporary
memory, arithmetic, launches, and what is float32 in a bfloat16 program. XLA's buffer assignment is
the GPU's own, so the memory is what a run allocates, but for the libraries' workspaces: without a
GPU convolutions are not tuned, and cuDNN's choice may take more.

    python scripts/compile_step.py [--program train ...] [--batch 8 16 32 64] [--json FILE]

It wants an environment with JAX's CUDA plugin, see `make compile-step`.
"""

import argparse
import functools
import importlib.util
import itertools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.ptx_emulator import targets

DTYPES = ("bfloat16", "float32")
PROGRAMS = ("train", "train_gan", "encode", "decode", "sit_train", "sit_sample")
REMAT = {
    "none": (),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "both": ("encoder", "decoder"),
}
GIB = 2**30
Program = tuple[Callable, tuple, tuple[int, ...]]


def main() -> int:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", nargs="+", choices=PROGRAMS, default=["train"])
    parser.add_argument("--config", default="gpstoken_m128", help="of the tokenizer, in configs/")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=[*DTYPES])
    parser.add_argument("--remat", nargs="+", choices=REMAT, default=["none"])
    parser.add_argument("--target", choices=targets.DEVICES, default="sm_90a")
    parser.add_argument("--json", type=Path, help="a line is added for each program")
    parser.add_argument("--hlo", type=Path, help="also write the compiled program here")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return 0
    if mistake := find_mistake(args):
        parser.error(mistake)
    print("| program | batch | dtype | remat | arguments | temporary | GFLOP | launches | took |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    failed = 0
    for program, dtype, remat, batch in itertools.product(
        args.program, args.dtype, args.remat, args.batch
    ):
        # A process each: Mosaic keeps its first target, and XLA its memory.
        words = ["--program", program, "--dtype", dtype, "--remat", remat, "--batch", str(batch)]
        words += ["--config", args.config, "--target", args.target]
        words += ["--hlo", str(args.hlo)] if args.hlo else []
        done = subprocess.run(
            [sys.executable, __file__, "--one", *words],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"| {program} | {batch} | {dtype} | {remat} | failed |", flush=True)
            failed += 1
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(row(found), flush=True)
        if args.json:
            with args.json.open("a") as file:
                file.write(json.dumps(found) + "\n")
    return 1 if failed else 0


def find_mistake(args: argparse.Namespace) -> str | None:
    """Words what would let every program fail."""
    if min(args.batch) < 1:
        return f"--batch {min(args.batch)}: at least 1"
    try:
        config = importlib.import_module(f"gpstoken_jax.configs.{args.config}").get_config()
    except (ImportError, AttributeError):
        return f"--config {args.config}: configs/ has no such config"
    if config.get("task", "tokenizer") != "tokenizer":
        return f"--config {args.config}: it is of no tokenizer"
    for path in filter(None, (args.json, args.hlo)):
        if not path.absolute().parent.is_dir():
            return f"{path}: there is no directory {path.parent}"
    if not importlib.util.find_spec("jax_plugins"):
        return "JAX's CUDA plugin is not installed: `make compile-step` makes an environment"
    return None


def row(found: dict) -> str:
    """Returns one line of a Markdown table."""
    return (
        f"| {found['program']} | {found['batch']} | {found['dtype']} | {found['remat']} "
        f"| {found['arguments'] / GIB:.2f} GiB | {found['temporary'] / GIB:.2f} GiB "
        f"| {found['flops'] / 1e9:,.0f} | {found['launches']} | {found['seconds']:.0f} s |"
    )


def measure(args: argparse.Namespace) -> dict:
    """Compiles one program and returns its figures; memory in bytes."""
    targets.prepare()
    import jax

    from gpstoken_jax.kernels import api
    from gpstoken_jax.training.step import AXIS

    # There is no GPU to check the kernel on: it is what a run takes there.
    api._default = lambda platform, dtype: "pallas"
    api._reason = lambda *_: None
    (program,), (dtype,), (remat,), (batch,) = args.program, args.dtype, args.remat, args.batch
    function, arguments, donated = build(program, args.config, batch, dtype, REMAT[remat])
    begun = time.perf_counter()
    lowered = targets.lower(args.target, function, arguments, donated, AXIS)
    compiled = lowered.compile()
    text = compiled.as_text()
    if args.hlo:
        args.hlo.write_text(text)
    memory = compiled.memory_analysis()
    return {
        "program": program,
        "config": args.config,
        "batch": batch,
        "dtype": dtype,
        "remat": remat,
        "target": args.target,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "flops": flops_of(function, arguments),
        "launches": len(targets.launches(text)),
        "largest_float32": largest_float32(text),
        "seconds": time.perf_counter() - begun,
        "jax": jax.__version__,
    }


def flops_of(function, arguments) -> int:
    """Returns the operations of matrix products and convolutions, as the training log counts."""
    import jax

    from gpstoken_jax.training.flops import count_flops
    from gpstoken_jax.training.step import AXIS

    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), (AXIS,))):
        return count_flops(function, *arguments)


def build(
    program: str, config_name: str, batch: int, dtype: str, remat: tuple[str, ...]
) -> Program:
    """Returns a function, the shapes of its arguments, and which of them it may overwrite."""
    import jax
    import jax.numpy as jnp

    from gpstoken_jax.training.task import create_task

    if program.startswith("sit"):
        return build_sit(program, batch, dtype, remat)
    config = importlib.import_module(f"gpstoken_jax.configs.{config_name}").get_config()
    config.model.dtype = dtype
    for part in remat:
        config.model[part].remat = True
    config.gan.start_step = 1 if program == "train_gan" else 10
    config.train.batch_size = batch
    side = config.model.image_size
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    if program.startswith("train"):
        task = create_task(config)
        state = state_shapes(task)
        frozen = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, task.load_frozen()))
        return on_one_device(task.step_at(2)), (state, {"image": images}, frozen), (0,)
    from gpstoken_jax.model.gpstoken import GPSToken, init_params
    from gpstoken_jax.partition.images import partition_images

    model = GPSToken(config.model)
    params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    tokens = config.partition.num_tokens
    channels = config.model.feature_channels
    if program == "decode":
        shape = jax.ShapeDtypeStruct((batch, tokens, 5 + channels), jnp.float32)
        return (lambda p, t: model.apply(p, t, method="decode")), (params, shape), ()

    def encode(params, images):
        geometry, boxes = partition_images(images, tokens)
        return model.apply(params, images, geometry, boxes, method="encode")

    return encode, (params, images), ()


def build_sit(program: str, batch: int, dtype: str, remat: tuple[str, ...]) -> Program:
    """As ``build``, for SiT-XL: a training step, or the network once with guidance."""
    import jax
    import jax.numpy as jnp

    from gpstoken_jax.configs import sit_xl
    from gpstoken_jax.generation.normalisation import Normalisation
    from gpstoken_jax.generation.sit import create_sit, init_params
    from gpstoken_jax.generation.transport import Transport
    from gpstoken_jax.training.sit import SiTTask
    from gpstoken_jax.training.task import Task

    config = sit_xl.get_config("published")
    config.model.dtype, config.model.remat = dtype, bool(remat)
    model = create_sit(config.model)
    tokens, channels = config.model.num_tokens, config.model.channels
    of = jax.ShapeDtypeStruct
    if program == "sit_sample":
        params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
        # With and without the class, in one batch of twice the size.
        x = of((2 * batch, tokens, channels), jnp.float32)
        cond = of((2 * batch, tokens, 5), jnp.float32)
        labels, times = of((2 * batch,), jnp.int32), of((2 * batch,), jnp.float32)
        return model.apply, (params, x, times, labels, cond), ()

    class Textures(SiTTask):
        """The task without its data."""

        def __init__(self):
            Task.__init__(self, config)
            self.model, self.transport = model, Transport.of(config.transport)
            self._normalisation = Normalisation.of(config.statistics)

    task = Textures()
    state = state_shapes(task)
    rows = {
        "geometry": of((batch, tokens, 5), jnp.float32),
        "initial_geometry": of((batch, tokens, 5), jnp.float32),
        "features": of((batch, tokens, channels - 5), jnp.float32),
        "label": of((batch,), jnp.int32),
    }
    frozen = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, task.load_frozen()))
    return on_one_device(task.step_at(2)), (state, rows, frozen), (0,)


def state_shapes(task: Any) -> Any:
    """Returns the shapes of a task's state; nothing is compiled for them."""
    import jax

    jit = jax.jit  # the state's own options are for the outermost function only
    with mock.patch.object(jax, "jit", lambda f, compiler_options=None, **more: jit(f, **more)):
        return jax.eval_shape(task.create_state, jax.random.key(0))


def on_one_device(step: Callable) -> Callable:
    """Returns the step as the only device of a run has it."""
    import jax

    @functools.wraps(step)
    def run(state, batch, frozen):
        none = jax.sharding.PartitionSpec()  # one device: nothing is split
        mesh = jax.sharding.get_abstract_mesh()
        mapped = jax.shard_map(step, mesh=mesh, in_specs=none, out_specs=none, check_vma=False)
        return mapped(state, batch, frozen)

    return run


def largest_float32(program: str, count: int = 5) -> list[list]:
    """Returns the float32 shapes that take most bytes in all: [shape, how many, bytes of all]."""
    entry = program.split("\nENTRY")[1]
    shapes = Counter(
        re.findall(r"^\s*(?:ROOT )?%(?!param)\S+ = f32\[([\d,]+)\]", entry, flags=re.M)
    )
    size = {s: 4 * number * functools.reduce(lambda a, b: a * b, map(int, s.split(",")), 1)
            for s, number in shapes.items()}  # fmt: skip
    return [[s, shapes[s], size[s]] for s in sorted(size, key=size.get, reverse=True)[:count]]


if __name__ == "__main__":
    sys.exit(main())
