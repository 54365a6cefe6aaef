"""Times an exported tokenizer by batch size, beside the processor's load.

    python -m tests.bench_export --served=DIR

Prints a line of JSON a function and batch: the best of five calls after one that compiles.
"""

import argparse
import json
import os
import time
from pathlib import Path

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file


def main() -> None:
    """Times both functions at each batch size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--served", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    args = parser.parse_args()
    weights = jax.device_put(load_file(args.served / "weights.safetensors"))
    rng = np.random.default_rng(0)
    for name in ("encode", "decode"):
        data = (args.served / f"{name}.stablehlo").read_bytes()
        function = export.deserialize(bytearray(data))
        call, shape = jax.jit(function.call), function.in_avals[-1].shape[1:]
        for batch in args.batches:
            if name == "encode":
                given = rng.integers(0, 256, (batch, *shape), np.uint8)
            else:
                given = rng.uniform(0.1, 0.9, (batch, *shape)).astype(np.float32)
            seconds = [measure(call, weights, given) for _ in range(6)]
            row = {"function": name, "batch": batch, "first_s": round(seconds[0], 2)}
            row |= {"best_ms": round(1000 * min(seconds[1:]), 1), "load": os.getloadavg()[0]}
            print(json.dumps(row), flush=True)


def measure(call, weights, given) -> float:
    """Seconds of a call until its result is there."""
    begun = time.perf_counter()
    jax.block_until_ready(call(weights, given))
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
