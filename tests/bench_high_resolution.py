"""Memory and time of one large image through a full-size model, on a CPU.

    python -m tests.bench_high_resolution --config=configs/gpstoken_m128.py --size=1024 --way=merged

Random weights: memory and time do not depend on them. Peak memory is the whole process's.
"""

import argparse
import importlib.util
import resource
import time

import jax
import numpy as np

from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.model.high_resolution import WAYS, decode_images, encode_images
from gpstoken_jax.model.tiles import tile_grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/gpstoken_m128.py")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--way", choices=WAYS, default="merged")
    arguments = parser.parse_args()
    config = _read_config(arguments.config)
    model = GPSToken(config.model)
    start = time.perf_counter()
    params = jax.block_until_ready(_random_params(model))
    _say("weights", start)

    image = np.random.default_rng(0).uniform(-1, 1, (1, arguments.size, arguments.size, 3))
    image = image.astype(np.float32)
    tiles = tile_grid(*image.shape[1:3], config.model.image_size)
    start = time.perf_counter()
    encode = jax.jit(lambda p, x: encode_images(model, p, x, **config.partition)[1])
    tokens = jax.block_until_ready(encode(params, image))
    _say(f"encode to {tokens.shape[1]} tokens", start)
    start = time.perf_counter()
    decode = jax.jit(lambda p, x: decode_images(model, p, x, tiles, way=arguments.way).images)
    decoded = jax.block_until_ready(decode(params, tokens))
    _say(f"decode {arguments.way} to {decoded.shape[1:3]}", start)


def _random_params(model: GPSToken):
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    rng = np.random.default_rng(0)
    scale = np.float32(0.02)
    return jax.tree.map(
        lambda s: jax.device_put(rng.standard_normal(s.shape, np.float32) * scale), shapes
    )


def _say(what: str, start: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - start
    print(f"{what}: {seconds:.1f} s with compilation, peak {peak:.2f} GiB so far", flush=True)


def _read_config(path: str):
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


if __name__ == "__main__":
    main()
