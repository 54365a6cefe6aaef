"""The sampler beside the release's loop, written down literally: time, evaluations, same samples.

    python -m tests.bench_sampler --config=configs/sit_tiny.py --steps=250 --batch=8

The release's loop evaluates the network for the drift and again for the score of the same point,
always on the doubled batch of guidance. Both run in this process, on the same weights and noise,
taking turns. Random weights: time does not depend on them.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.samplers import Sampler, evaluations, image_noise
from gpstoken_jax.generation.sampling import BatchSampler, image_keys
from gpstoken_jax.generation.sit import create_sit, init_params
from gpstoken_jax.generation.transport import Transport

GUIDANCE = Guidance(scale=1.5, low=0.2, high=1.0)  # the published run's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/sit_tiny.py")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--channels", type=int, default=21)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", help="where to write the figures")
    arguments = parser.parse_args()
    model, params = _model(arguments)
    keys = image_keys(0, range(arguments.batch))
    labels = np.arange(arguments.batch) % arguments.classes
    rng = np.random.default_rng(0)
    cond = rng.uniform(0.1, 0.9, (arguments.batch, arguments.tokens, 5)).astype(np.float32)

    sampler, transport = Sampler(steps=arguments.steps), Transport()
    ours = BatchSampler(model, params, transport, sampler, GUIDANCE)
    release = ReleaseLoop(model, params, arguments.steps)
    ways = {
        "release's loop": lambda: release(keys, labels, cond),
        "ours": lambda: ours(keys, labels, cond)[0],
    }
    made = {name: way() for name, way in ways.items()}  # compiles
    counts = {
        "release's loop": release.rows / arguments.batch,
        "ours": float(evaluations(sampler, transport, GUIDANCE)),
    }
    seconds = {name: [] for name in ways}
    for _ in range(arguments.turns):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    report(arguments, made, counts, seconds)


def report(arguments, made, counts, seconds) -> None:
    """Prints the table, and writes it if asked."""
    size = np.abs(made["ours"]).max()
    difference = float(np.abs(made["ours"] - made["release's loop"]).max())
    figures = {}
    for name, times in seconds.items():
        median = float(np.median(times))
        figures[name] = {
            "evaluations_per_image": counts[name],
            "seconds": times,
            "images_per_second": arguments.batch / median,
        }
        print(
            f"{name:16} {counts[name]:7.0f} evaluations an image  {median:7.2f} s a batch of "
            f"{arguments.batch} ({min(times):.2f} to {max(times):.2f})  "
            f"{arguments.batch / median:.3f} images/s"
        )
    fewer = counts["release's loop"] / counts["ours"]
    ratios = np.divide(seconds["release's loop"], seconds["ours"])
    print(f"{fewer:.2f} times fewer evaluations; {np.median(ratios):.2f} times faster")
    print(f"largest difference of the samples {difference:.1e}, of values up to {size:.1f}")
    if arguments.json:
        figures |= {"difference": difference, "speedup": float(np.median(ratios))}
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")


class ReleaseLoop:
    """Euler-Maruyama as the release runs it: a Python loop, two networks a step, two halves.

    Attributes:
      rows: inputs that the network has been given in the last run.
    """

    def __init__(self, model, params, steps: int):
        self.rows = 0
        self._steps = steps
        network = jax.jit(model.apply)
        params = jax.device_put(params)
        self._network = lambda *inputs: network(params, *inputs)
        self._null = model.num_classes
        self._shape = model.num_tokens, model.channels

    def __call__(self, keys, labels, cond):
        self.rows = 0
        draw = jax.jit(lambda number: image_noise(keys, self._shape)(number))
        labels = jnp.concatenate([labels, np.full_like(labels, self._null)])
        cond = jnp.concatenate([cond, cond])
        times = np.linspace(1e-3, 0.96, self._steps, dtype=np.float32)
        dt = times[1] - times[0]
        noise = draw(0)
        x = jnp.concatenate([noise, noise])
        for number, t in enumerate(times[:-1], 1):
            mean = x + self._sde_drift(x, t, labels, cond) * dt
            kick = jnp.concatenate([draw(number)] * 2)
            x = mean + np.sqrt(2 * _diffusion(t)) * np.sqrt(dt) * kick
        x = x + self._sde_drift(x, times[-1], labels, cond) * np.float32(0.04)
        return np.asarray(jnp.split(x, 2)[0])

    def _sde_drift(self, x, t, labels, cond):
        drift = self._guided(x, t, labels, cond)
        score = (t * self._guided(x, t, labels, cond) - x) / (1 - t)
        return drift + _diffusion(t) * score

    def _guided(self, x, t, labels, cond):
        self.rows += len(x)
        if not GUIDANCE.low <= t <= GUIDANCE.high:
            return self._network(x, jnp.full(len(x), t), labels, cond)
        half = jnp.split(x, 2)[0]
        out = self._network(jnp.concatenate([half, half]), jnp.full(len(x), t), labels, cond)
        conditional, null = jnp.split(out, 2)
        guided = null + GUIDANCE.scale * (conditional - null)
        return jnp.concatenate([guided, guided])


def _diffusion(t):
    return (1 - t) ** 2 / t + (1 - t)


def _model(arguments):
    spec = importlib.util.spec_from_file_location("config", arguments.config)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config().model
    config.update(
        num_tokens=arguments.tokens, channels=arguments.channels, num_classes=arguments.classes
    )
    model = create_sit(config)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    rng = np.random.default_rng(0)
    scale = np.float32(0.05)
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32) * scale, shapes)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    device = jax.devices()[0].device_kind
    print(
        f"{arguments.config}: {count / 1e6:.1f} M parameters, {arguments.tokens} tokens, {device}"
    )
    return model, params


if __name__ == "__main__":
    main()
