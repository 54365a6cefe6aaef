"""Times each kind of training step on random images: python -m tests.bench_training

Processor seconds are given beside seconds: on a machine with other work they are what compares.
Arithmetic is that of matrix products and convolutions (gpstoken_jax/training/flops.py).
"""

import argparse
import importlib
import json
import time

import jax
import numpy as np

from gpstoken_jax.training.flops import count_flops, utilisation
from gpstoken_jax.training.memory import memory_in_use
from gpstoken_jax.training.step import on_all_devices, replicate, shard
from gpstoken_jax.training.task import create_task

KINDS = {  # name to (schedule, step number) after the GAN's start
    "without GAN": ("together", 1),
    "both networks": ("together", 4),
    "alternate: autoencoder": ("alternate", 5),
    "alternate: discriminator": ("alternate", 4),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config", default="tiny_gan", help="a module of configs/, or MODULE:VARIANT"
    )
    parser.add_argument("--batch", type=int, help="images a step; the config's by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    return parser.parse_args()


def main() -> None:
    args = parse()
    for kind in args.kinds:
        print(json.dumps({"step": kind, **measure(args, *KINDS[kind])}), flush=True)


def measure(args: argparse.Namespace, schedule: str, number: int) -> dict:
    """Seconds a step, after one that compiles it."""
    name, _, variant = args.config.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(*[variant] if variant else [])
    config.train.schedule, config.gan.start_step = schedule, 2
    config.train.batch_size = args.batch or config.train.batch_size
    config.model.dtype = args.dtype or config.model.dtype
    config.model.encoder.remat = config.model.decoder.remat = args.remat
    task = create_task(config)
    state, frozen = replicate((task.create_state(jax.random.key(0)), task.load_frozen()))
    size = config.model.image_size
    images = np.random.default_rng(0).uniform(-1, 1, (config.train.batch_size, size, size, 3))
    batch = shard({"image": images.astype(np.float32)}, jax.local_device_count())
    step = on_all_devices(task.step_at(number))
    flops = count_flops(step, state, batch, frozen)
    begun = time.perf_counter()
    state, metrics = step(state, batch, frozen)
    jax.block_until_ready(metrics)
    compiled = time.perf_counter() - begun
    begun, processor = time.perf_counter(), time.process_time()
    for _ in range(args.steps):
        state, metrics = step(state, batch, frozen)
    jax.block_until_ready(metrics)
    seconds = (time.perf_counter() - begun) / args.steps
    return {
        "batch": config.train.batch_size,
        "dtype": config.model.dtype,
        "remat": args.remat,
        "seconds": round(seconds, 4),
        "processor_seconds": round((time.process_time() - processor) / args.steps, 4),
        "images_per_second": round(config.train.batch_size / seconds, 2),
        "gflop": round(flops / 1e9, 2),
        "mfu": utilisation(flops, seconds),
        "first_step_seconds": round(compiled, 1),
        **memory_in_use(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    main()
