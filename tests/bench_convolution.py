"""Times the gradient of a convolution's kernel as XLA makes it, and as matrix products.

    python -m tests.bench_convolution [--rounds 3] [--loop]

Processor seconds, the least of the rounds, all in one process; ``--loop`` has the two parts of a
batch in a loop, as `train.accumulate=2` makes one, where XLA's form takes its time.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from gpstoken_jax.model.convolution import by_kernel

SHAPES = (  # batch, side, channels in and out
    *((1, 256, 128, 128), (1, 128, 256, 256), (1, 64, 512, 512)),
    *((8, 32, 32, 32), (8, 64, 16, 16)),
)
LOOP = ((1, 64, 128, 128), (8, 32, 32, 32), (8, 64, 16, 16))


def plain(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def gradient(convolve, x, cotangent, kernel):
    return jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](cotangent)[0]


def looped(convolve, x, cotangent, kernel):
    def add(total, part):
        return total + gradient(convolve, *part, kernel), None

    return jax.lax.scan(add, jnp.zeros_like(kernel), (x, cotangent))[0]


def measure(function, convolve, arguments, rounds):
    """Processor seconds and the result."""
    compiled = jax.jit(lambda *arguments: function(convolve, *arguments))
    result = jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(rounds):
        start = time.process_time()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.process_time() - start)
    return min(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", action="store_true")
    args = parser.parse_args()
    function = looped if args.loop else gradient
    print("| map | XLA | products | ratio | differ by |\n|---|---|---|---|---|")
    for batch, side, channels, features in LOOP if args.loop else SHAPES:
        rng = np.random.default_rng(0)
        parts = (2, batch) if args.loop else (batch,)
        x = rng.standard_normal((*parts, side, side, channels), np.float32)
        cotangent = rng.standard_normal((*parts, side, side, features), np.float32)
        kernel = np.zeros((3, 3, channels, features), np.float32)
        (old, a), (new, b) = (
            measure(function, convolve, (x, cotangent, kernel), args.rounds)
            for convolve in (plain, by_kernel)
        )
        difference = float(jnp.abs(a - b).max() / jnp.abs(a).max())
        name = f"{batch} x {side} x {side}, {channels} to {features}"
        print(f"| {name} | {old:.3f} s | {new:.3f} s | {old / new:.1f} | {difference:.0e} |")


if __name__ == "__main__":
    main()
