"""Time and memory of SiT-XL on this machine: a training step, or the network once with guidance.

    python -m tests.bench_sit [--program sit_train sit_sample] [--batch 1] [--dtype float32]

The programs are those that scripts/compile_step.py compiles for a GPU, on made-up values, which
cost the same. Each program has a process of its own; peak memory is the whole process's.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from gpstoken_jax.training.memory import memory_in_use
from gpstoken_jax.training.step import AXIS

SCRIPT = Path(__file__).parents[1] / "scripts/compile_step.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", nargs="+", default=["sit_train", "sit_sample"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for program in args.program:
        if args.one:
            print(json.dumps(measure(program, args.batch, args.dtype)), flush=True)
            continue
        command = [sys.executable, "-m", "tests.bench_sit", "--one", "--program", program]
        subprocess.run([*command, "--batch", str(args.batch), "--dtype", args.dtype], check=False)


def measure(program: str, batch: int, dtype: str) -> dict[str, Any]:
    """Seconds of a second run, after one that compiles."""
    spec = importlib.util.spec_from_file_location("compile_step", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function, shapes, donated = module.build_sit(program, batch, dtype, ())
    jax.set_mesh(jax.make_mesh((1,), (AXIS,)))
    arguments = jax.tree.map(filled, shapes)
    step = jax.jit(function, donate_argnums=donated)
    seconds = []
    for _ in range(2):
        begun = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(step(*arguments))
        seconds.append([time.perf_counter() - begun[0], time.process_time() - begun[1]])
        if donated:
            arguments = (result[0], *arguments[1:])
    return {
        "program": program,
        "batch": batch,
        "dtype": dtype,
        "first_seconds": round(seconds[0][0], 1),
        "seconds": round(seconds[1][0], 2),
        "processor_seconds": round(seconds[1][1], 2),
        **memory_in_use(),
        "jax": jax.__version__,
    }


def filled(of: jax.ShapeDtypeStruct) -> jax.Array:
    """An array of one small value."""
    if jnp.issubdtype(of.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), of.shape) if of.shape else jax.random.key(0)
    return jnp.full(of.shape, 0.01 if jnp.issubdtype(of.dtype, jnp.floating) else 0, of.dtype)


if __name__ == "__main__":
    main()
