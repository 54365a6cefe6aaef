"""Encode and decode of the full-size models on a CPU, beside an equivalent PyTorch network.

    python -m tests.bench_model [--models M128 L256] [--rounds 5] [--stages] [--train BATCH]
        [--json FILE]

Batch 1, at most two threads, everything in one process, the candidates taking turns; the least of
several rounds counts, as wall time and as processor time (which other programs on the machine
disturb less). Both networks have the same weights, and the largest difference of their outputs is
printed. Without PyTorch (`pip install torch`) its side is left out. `--stages` says where the time
goes; operations and memory of the conditions, one block after another and all at once, come last.
`--train BATCH` times the squared error of whole images and its gradient by all parameters instead,
in one round (or `--rounds`), and compares the losses and the norms of the gradients.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gpstoken_jax import kernels
from gpstoken_jax.model.encoder import BlockConditions, Stem, exact_gelu
from gpstoken_jax.model.gpstoken import GPSToken
from gpstoken_jax.model.layers import ResnetBlock, SpatialAttention
from gpstoken_jax.model.roi_align import roi_align
from gpstoken_jax.model.tile_norm import TileNorm
from gpstoken_jax.model.transformer import stack_blocks
from gpstoken_jax.partition.geometry import boxes_to_pixels
from tests.full_size import CONFIGS, FullSize, full_size

THREADS = min(2, len(os.sched_getaffinity(0)))
# Stages that loop: XLA counts the operations of a loop's body once, however often it runs.
IN_LOOPS = ("RoIAlign", "splat")
Candidates = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--train", type=int, metavar="BATCH")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {"machine": describe_machine()}
    if not options.only:
        print(results["machine"])
    for name in options.models:
        model = full_size(name)
        if options.only:
            print(json.dumps(one_gradient(options.only, model, options.train, options.rounds)))
            return
        if options.train:
            results[name] = measure_gradients(name, model, options.train, options.rounds or 1)
            continue
        results[name] = measure(name, model, options.rounds or 5)
        if options.stages:
            results[name]["stages"] = stages(model, options.rounds or 5)
        results[name]["conditions"] = conditions(model)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def describe_machine() -> dict[str, Any]:
    """The machine that the figures hang on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def measure(name: str, model: FullSize, rounds: int) -> dict[str, Any]:
    """Times of encode and decode by candidate, and the ratio of PyTorch's to ours."""
    encode, decode = model.method("encode"), model.method("decode")
    arguments = model.params, model.image, model.geometry, model.boxes
    tokens = np.asarray(encode(*arguments))
    candidates = {
        "encode": {"jax": lambda: encode(*arguments).block_until_ready()},
        "decode": {"jax": lambda: decode(model.params, tokens).block_until_ready()},
    }
    outputs = {"encode": tokens, "decode": np.asarray(decode(model.params, tokens))}
    add_torch(model, tokens, candidates)
    results = {}
    for direction, functions in candidates.items():
        times = take_turns(functions, rounds)
        results[direction] = {"seconds": times}
        for key, (wall, cpu) in times.items():
            print(f"{name} {direction:6s} {key:20s} {wall:7.3f} s  {cpu:7.3f} s of processor time")
        best = [min(v[i] for k, v in times.items() if k != "jax") for i in (0, 1) if len(times) > 1]
        if best:
            ratios = {k: b / t for k, b, t in zip(("wall", "cpu"), best, times["jax"], strict=True)}
            difference = np.abs(np.asarray(functions["torch"]()) - outputs[direction]).max()
            results[direction] |= {"ratio": ratios, "difference": float(difference)}
            print(
                f"{name} {direction:6s} PyTorch's best takes {ratios['wall']:.2f} times as long "
                f"({ratios['cpu']:.2f} in processor time); outputs differ by {difference:.1e}"
            )
    return results


def add_torch(model: FullSize, tokens: np.ndarray, candidates: dict[str, Candidates]) -> None:
    """PyTorch's side in its two memory layouts, if it is installed."""
    try:
        import torch
    except ImportError as error:
        print(f"without PyTorch: {error}")
        return
    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    for name, (network, start) in torch_networks(model).items():
        given = torch.from_numpy(tokens.copy())
        candidates["encode"][name] = lambda n=network, start=start: n.encode(*start)
        candidates["decode"][name] = lambda n=network, given=given: n.decode(given).permute(
            0, 2, 3, 1
        )


def torch_networks(model: FullSize, batch: int = 1) -> dict[str, tuple[Any, tuple]]:
    """The equivalent network and its inputs, in PyTorch's two memory layouts."""
    import torch

    from tests.bench_torch_network import TorchGPSToken

    networks = {}
    for name, layout in (
        ("torch", torch.contiguous_format),
        ("torch channels-last", torch.channels_last),
    ):
        network = TorchGPSToken(model.config.model).eval()
        state = {key: torch.from_numpy(tensor) for key, tensor in model.tensors.items()}
        missing, _ = network.load_state_dict(state, strict=False)
        assert not missing, missing
        image, geometry, boxes = inputs(model, batch)
        image = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(memory_format=layout)
        start = image, torch.from_numpy(geometry), torch.from_numpy(boxes)
        networks[name] = network.to(memory_format=layout), start
    return networks


def inputs(model: FullSize, batch: int) -> tuple[np.ndarray, ...]:
    """The photo, its geometry and boxes, a number of times."""
    return tuple(np.repeat(a, batch, axis=0) for a in (model.image, model.geometry, model.boxes))


def measure_gradients(name: str, model: FullSize, batch: int, rounds: int) -> dict[str, Any]:
    """Times of the squared error and its gradient, and the ratio of PyTorch's to ours.

    Each candidate has a process of its own: what the other keeps of memory would slow it.
    """
    results = {"batch": batch}
    for which in ("jax", "torch", "torch channels-last"):
        command = [sys.executable, "-m", "tests.bench_model", "--models", name]
        command += ["--train", str(batch), "--rounds", str(rounds), "--only", which]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{name} {which}: failed, see above")
            continue
        results[which] = found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name} batch {batch} {which:20s} {found['wall']:7.2f} s  {found['cpu']:7.2f} s of "
            f"processor time  loss {found['loss']:.6f}  norm of the gradient {found['norm']:.6f}",
            flush=True,
        )
    for clock in ("wall", "cpu"):
        if others := [found[clock] for key, found in results.items() if key.startswith("torch")]:
            results[f"ratio ({clock})"] = ratio = min(others) / results["jax"][clock]
            print(f"PyTorch's best takes {ratio:.2f} times as long ({clock})")
    return results


def one_gradient(which: str, model: FullSize, batch: int, rounds: int) -> dict[str, float]:
    """Least wall and processor seconds of one candidate, with the loss and the gradient's norm."""
    if which == "jax":
        network, arguments = GPSToken(model.config.model), inputs(model, batch)

        @jax.value_and_grad
        def loss(params, image, geometry, boxes):
            tokens = network.apply(params, image, geometry, boxes, method="encode")
            return jnp.mean(jnp.square(network.apply(params, tokens, method="decode") - image))

        @jax.jit
        def step(params, *arguments):
            value, gradients = loss(params, *arguments)
            return value, optax.global_norm(gradients), gradients  # all of them are made

        function = lambda: tuple(map(float, step(model.params, *arguments)[:2]))  # noqa: E731
    else:
        torch_network, start = torch_networks(model, batch)[which]
        function = lambda: torch_gradients(torch_network, *start)  # noqa: E731
    values = []
    wall, cpu = take_turns({which: lambda: values.append(function())}, rounds)[which]
    return {"wall": wall, "cpu": cpu, "loss": values[-1][0], "norm": values[-1][1]}


def torch_gradients(network, image, geometry, boxes) -> tuple[float, float]:
    """PyTorch's squared error, and the norm of its gradient by all parameters."""
    import torch

    torch.set_num_threads(THREADS)
    network.zero_grad()
    loss = (network.decode(network.encode(image, geometry, boxes)) - image).square().mean()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return loss.item(), torch.stack([g.norm() for g in gradients]).norm().item()


def take_turns(functions: Candidates, rounds: int) -> dict[str, tuple[float, float]]:
    """Least wall and processor seconds of each, after one round that does not count."""
    times = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if turn:
                times[name].append(spent)
    return {name: tuple(map(min, zip(*spent, strict=True))) for name, spent in times.items()}


def stages(model: FullSize, rounds: int) -> dict[str, tuple[float, float]]:
    """Processor time of the parts, each compiled alone: what the whole is made of."""
    steps = {**encoder_stages(model), **decoder_stages(model)}
    compiled = {name: (jax.jit(function), args) for name, (function, args) in steps.items()}
    functions = {
        name: (lambda f=f, args=args: jax.block_until_ready(f(*args)))
        for name, (f, args) in compiled.items()
    }
    times = take_turns(functions, rounds)
    for name, (wall, cpu) in times.items():
        f, args = compiled[name]
        flops = f.lower(*args).compile().cost_analysis().get("flops", float("nan"))
        print(
            f"  {name:28s} {cpu:7.3f} s of processor time  {wall:7.3f} s  {flops / 1e9:8.2f} GFLOP"
        )
    return times


def encoder_stages(model: FullSize) -> dict[str, tuple[Callable, tuple]]:
    """Stem, RoIAlign, conditions and transformer."""
    config, params = model.config.model.encoder, model.params["params"]["encoder"]
    stem = Stem(config.channels, config.stem_blocks, config.norm_groups)
    pixels = boxes_to_pixels(model.boxes, *model.image.shape[1:3])
    size = (config.roi_size, config.roi_size)
    features = jnp.ones((*model.image.shape[:3], config.channels))
    rois = jnp.ones((*pixels.shape[:2], *size, config.channels))
    conditions = jnp.ones((config.depth, *pixels.shape[:2], config.width))
    transformer = stack_blocks(
        config.depth, num_heads=config.num_heads, mlp_ratio=config.mlp_ratio, activation=exact_gelu
    )
    return {
        "stem": (stem.apply, ({"params": params["stem"]}, model.image)),
        "RoIAlign": (lambda f: roi_align(f, pixels, size), (features,)),
        "conditions": (
            BlockConditions(config.width, config.depth).apply,
            ({"params": params["conditions"]}, rois),
        ),
        "transformer": (
            lambda *args: transformer.apply(*args)[0],
            ({"params": params["blocks"]}, conditions[0], conditions),
        ),
    }


def decoder_stages(model: FullSize) -> dict[str, tuple[Callable, tuple]]:
    """The renderer and one of each kind of the decoder's layers."""
    config, params = model.config.model, model.params["params"]["decoder"]
    groups, size = config.decoder.norm_groups, (config.render_size, config.render_size)

    def norm(name):
        return TileNorm(groups, name=name)

    features = jnp.ones((*model.geometry.shape[:2], config.feature_channels))
    steps = {
        "splat": (
            lambda g, f: kernels.splat(g, f, size, support=config.support),
            (model.geometry, features),
        )
    }
    levels = len(config.decoder.multipliers)
    for level in reversed(range(levels)):
        width = config.decoder.channels * config.decoder.multipliers[level]
        side = config.render_size * 2 ** (levels - 1 - level)
        x = jax.random.normal(jax.random.key(0), (1, side, side, width))
        if level == levels - 1:
            attention = SpatialAttention(groups)
            steps["attention"] = (attention.apply, ({"params": params["mid_attention"]}, x))
        block = {"params": params[f"level_{level}_block_1"]}
        steps[f"block {side}x{side}x{width}"] = (ResnetBlock(width, norm).apply, (block, x))
    return steps


def conditions(model: FullSize) -> dict[str, dict[str, float]]:
    """Operations and working memory of the 30 conditions, as published and all at once."""
    config = model.config.model.encoder
    params = model.params["params"]["encoder"]["conditions"]
    tokens, positions = model.geometry.shape[1], config.roi_size**2
    rois = jnp.ones((1, tokens, config.roi_size, config.roi_size, config.channels))

    def one_by_one(p, rois):
        at_positions = rois.reshape(1, tokens, positions, -1) @ p["kernel"] + p["bias"]
        kernel, bias = p["position_kernel"], p["position_bias"]
        return jnp.stack(
            [
                jnp.einsum("blpd,p->bld", at_positions, kernel[:, i]) + bias[i]
                for i in range(config.depth)
            ]
        )

    def at_once(p, rois):
        return BlockConditions(config.width, config.depth).apply({"params": p}, rois)

    results = {}
    for name, function in (("one by one", one_by_one), ("at once", at_once)):
        compiled = jax.jit(function).lower(params, rois).compile()
        flops = compiled.cost_analysis()["flops"]
        memory = compiled.memory_analysis().temp_size_in_bytes
        results[name] = {"gflop": flops / 1e9, "temporary_mb": memory / 1e6}
        print(f"  conditions {name:10s} {flops / 1e9:6.3f} GFLOP  {memory / 1e6:6.1f} MB temporary")
    difference = jnp.abs(one_by_one(params, rois) - at_once(params, rois)).max()
    print(f"  they differ by at most {difference:.1e}")
    return results


if __name__ == "__main__":
    main()
