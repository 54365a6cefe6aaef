"""Stages of `make gpu`: what is measured, on a GPU or, to try it out, small on a CPU.

Each takes `write(result)`, which puts a JSON value on disk, and calls it whenever it knows more.
They import what they need themselves: a stage that cannot be imported must not stop the others.
"""

import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
Write = Callable[[Any], None]
# Shapes in the order of what they tell most: time may run out.
SHAPES = (
    *("b16_64x64_l256", "b16_64x64_l128", "b1_64x64_l64", "b1_256x256_l4096", "b1_128x128_l1024"),
    *("b64_64x64_l256", "b16_32x32_l64_c16", "b1_64x64_l256", "b16_64x64_l64", "b4_64x64_l256"),
    *("b1_64x64_l128", "b64_64x64_l128", "b64_64x64_l64"),
)


def device(write: Write, small: bool) -> None:
    """Names and versions of everything that the figures belong to."""
    import flax
    import jax

    found = jax.devices()[0]
    shown = "none"
    if shutil.which("nvidia-smi"):
        fields = "name,driver_version,memory.total,clocks.max.sm,power.limit"
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    write(
        {
            "device": found.device_kind,
            "platform": found.platform,
            "capability": getattr(found, "compute_capability", None),
            "nvidia_smi": shown,
            "python": sys.version.split()[0],
            "jax": jax.__version__,
            "flax": flax.__version__,
            "processors": os.cpu_count(),
        }
    )


def _on_gpu() -> bool:
    import jax

    return jax.default_backend() == "gpu"


def suite(write: Write, small: bool, dtype: str, few: bool = False) -> None:
    """The emulator's cases on the device: map and gradients against float64, twice the same bits.

    On a CPU, where the kernels do not run, `xla` takes their place.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from gpstoken_jax.kernels import pallas, xla
    from tests.ptx_emulator.cases import CASES, arguments, errors, expected

    splat = pallas.splat if _on_gpu() else xla.splat
    result = {"implementation": splat.__module__.rpartition(".")[2], "right": 0, "cases": {}}
    cases = [c for c in CASES if c.dtype == dtype and (c.few or not few)]
    for case in cases[:1] if small else cases:
        geometry, features, cotangent = arguments(case)

        def run(g, f, c, size=case.size):
            image, pullback = jax.vjp(lambda g, f: splat(g, f, size, 3.0), g, f)
            return image, *pullback(c.astype(image.dtype))

        slots = pallas.slot_count if case.slots is None else lambda *_, n=case.slots: n
        with mock.patch.object(pallas, "slot_count", slots):
            compiled = jax.jit(run)
            inputs = [jnp.asarray(a) for a in (geometry, features, cotangent)]
            first, again = ([np.asarray(a) for a in compiled(*inputs)] for _ in range(2))
        found = errors(first, expected(geometry, features, cotangent))
        same = all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
        right = same and all(e <= case.limit for e in found.values())
        result["right"] += right
        result["cases"][case.name] = found | {"limit": case.limit, "same": same, "right": right}
        write(result)
    wrong = [name for name, found in result["cases"].items() if not found["right"]]
    if wrong:
        raise SystemExit(f"{len(wrong)} of {len(result['cases'])} cases are wrong: {wrong}")


def transformed(write: Write, small: bool) -> None:
    """`jit`, `checkpoint`, `vmap` around the kernels: the same bits as the plain call."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from gpstoken_jax.kernels import pallas, self_check, xla
    from tests.ptx_emulator.cases import Case, arguments

    module = pallas if _on_gpu() else xla
    case = Case("transformed", batch=6, tokens=20, size=(12, 20), channels=5)
    tokens = [jnp.asarray(a) for a in arguments(case)[:2]]
    loss = lambda g, f: (module.splat(g, f, case.size, 3.0) ** 2).sum()  # noqa: E731
    gradient = jax.grad(loss, (0, 1))
    mapped = jax.jit(jax.vmap(gradient))
    ways = {
        "checkpoint": jax.jit(jax.grad(jax.checkpoint(loss), (0, 1))),
        "vmap": lambda *a: [
            r.reshape(6, *r.shape[2:]) for r in mapped(*(x.reshape(2, 3, *x.shape[1:]) for x in a))
        ],
    }
    plain = jax.jit(gradient)(*tokens)
    result = {"implementation": module.__name__.rpartition(".")[2]}
    for name, way in ways.items():
        result[name] = all(np.array_equal(a, b) for a, b in zip(plain, way(*tokens), strict=True))
        write(result)
    for dtype in ("float32", "bfloat16") if module is pallas else ():
        result[f"check on first use, {dtype}"] = (
            self_check.fault(pallas, "pallas", "gpu", dtype) or "ok"
        )
        write(result)


def sanitizer(write: Write, small: bool, tool: str) -> None:
    """NVIDIA's compute-sanitizer over the short list of cases, if it is installed."""
    program = shutil.which("compute-sanitizer")
    if program is None or not _gpu_listed():
        why = "compute-sanitizer is not installed" if program is None else "there is no GPU"
        write({"left_out": why})
        print(f"left out: {why}")
        return
    # Every array of its own in the device's memory, or an access past its end meets a neighbour.
    environment = os.environ | {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}
    with tempfile.TemporaryDirectory() as folder:
        inner = ["scripts/gpu.py", "--stage", "suite-few", "--output", folder]
        done = subprocess.run(
            [program, "--tool", tool, "--error-exitcode", "9", sys.executable, *inner],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    text = done.stdout + done.stderr
    reports = [line for line in text.splitlines() if line.startswith("=========")]
    write({"tool": tool, "exit": done.returncode, "reports": reports[-40:]})
    if done.returncode:
        print(text[-4000:])
        raise SystemExit(f"{tool} exits with {done.returncode}")


def _gpu_listed() -> bool:
    return (
        bool(shutil.which("nvidia-smi"))
        and not subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode
    )


def hardware_suite(write: Write, small: bool) -> None:
    """The suite of every implementation (tests/kernels/suite.py) for `pallas`, by pytest."""
    import importlib.util

    missing = [n for n in ("pytest", "hypothesis") if importlib.util.find_spec(n) is None]
    if missing or not _gpu_listed():
        why = f"{' and '.join(missing)} not installed" if missing else "there is no GPU"
        write({"left_out": why})
        print(f"left out: {why}")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--noconftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/kernels/test_pallas.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout[-6000:])
    write({"exit": done.returncode, "end": done.stdout.splitlines()[-3:]})
    if done.returncode:
        raise SystemExit(f"pytest exits with {done.returncode}")


def splat_times(write: Write, small: bool, first: int, last: int) -> None:
    """Each form of `splat`, forward and with gradients, on shapes number `first` to `last`."""
    import jax
    import numpy as np

    from gpstoken_jax.kernels import pallas, reference, xla
    from tests.gpu import device_time, literal_kernel
    from tests.kernels import floor
    from tests.kernels.specs import SPECS, Spec

    gpu = _on_gpu()
    literal = functools.partial(literal_kernel.splat, interpret=not gpu)
    forms = {"pallas": pallas.splat} if gpu else {}
    forms |= {"xla": xla.splat, "dense": reference.splat, "literal": literal}
    specs = {name: SPECS[name] for name in SHAPES[first:last]}
    if small:
        specs = {"tiny": Spec(1, 16, 32, 4)}
    rates = floor.RATES.get(jax.devices()[0].device_kind)
    result = {}
    for name, spec in specs.items():
        arguments = spec.arguments()
        programs = {
            (form, direction): jax.jit(function).lower(*arguments)
            for form, splat in forms.items()
            for direction, function in _both_directions(splat, spec.size).items()
        }
        with ThreadPoolExecutor(4) as pool:
            made = pool.map(lambda program: program.compile(), programs.values())
            compiled = dict(zip(programs, made, strict=True))
        rows = result[name] = {}
        images = {}
        for (form, direction), program in compiled.items():
            times = device_time.measure(program, *arguments, seconds=0.02 if small else 0.1)
            rows.setdefault(form, {})[direction] = asdict(times) | {
                "temporary": program.memory_analysis().temp_size_in_bytes
            }
            if direction == "forward":
                images[form] = np.asarray(program(*arguments), np.float64)
        for form, image in images.items():
            off = np.linalg.norm(image - images["xla"]) / np.linalg.norm(images["xla"])
            rows[form]["differs_from_xla"] = float(off)
        if rates:
            ways = ("forward", "forward+backward")
            rows["floor"] = {way: floor.seconds(spec, rates, way) * 1e6 for way in ways}
        write(result)


def _both_directions(splat, size) -> dict[str, Callable]:
    import jax

    def both(geometry, features, cotangent):
        image, pullback = jax.vjp(lambda g, f: splat(g, f, size, 3.0), geometry, features)
        return image, *pullback(cotangent)

    return {"forward": lambda g, f, c: splat(g, f, size, 3.0), "forward+backward": both}


def training(write: Write, small: bool, dtype: str, batch: int) -> None:
    """Steps of training GPSToken-M128 (without the GAN, as its first 600,000 are)."""
    import argparse

    from tests import bench_training

    arguments = argparse.Namespace(
        config="gpstoken_m128:smoke" if small else "gpstoken_m128",
        batch=batch,
        dtype=dtype,
        remat=False,
        steps=2 if small else 10,
    )
    with mock.patch("gpstoken_jax.training.tokenizer.load_loss_networks", _loss_networks):
        write(bench_training.measure(arguments, *bench_training.KINDS["without GAN"]))


def _loss_networks(config) -> dict[str, Any]:
    """LPIPS with random weights, which take the same time: its package may be missing."""
    import jax
    import numpy as np

    from gpstoken_jax.features.backbones import BACKBONES
    from gpstoken_jax.features.lpips import LPIPSWeights

    if not config.lpips_weight:
        return {}
    network, images = BACKBONES["vgg16"](), np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    draw = lambda s: rng.normal(0, 0.02, s.shape).astype(np.float32)  # noqa: E731
    heads = tuple(np.full(n, 0.1, np.float32) for n in (64, 128, 256, 512, 512))
    return {"lpips": LPIPSWeights(jax.tree.map(draw, shapes), heads)}


def coding(write: Write, small: bool) -> None:
    """Encode, with the partition, and decode: images a second."""
    import jax
    import numpy as np

    from gpstoken_jax.configs import gpstoken_m128
    from gpstoken_jax.model.gpstoken import GPSToken, init_params
    from gpstoken_jax.partition.images import partition_images

    result = {}
    for dtype in ("float32",) if small else ("bfloat16", "float32"):
        config = gpstoken_m128.get_config("smoke" if small else "")
        config.model.dtype = dtype
        model, side = GPSToken(config.model), config.model.image_size
        params = jax.jit(functools.partial(init_params, model))(jax.random.key(0))

        def encode(params, images, model=model, count=config.partition.num_tokens):
            geometry, boxes = partition_images(images, count)
            return model.apply(params, images, geometry, boxes, method="encode")

        def decode(params, tokens, model=model):
            return model.apply(params, tokens, method="decode")

        for batch in (2,) if small else (1, 32):
            rng = np.random.default_rng(0)
            images = rng.uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)
            images = jax.device_put(images)
            tokens = jax.jit(encode)(params, images)
            for name, function, given in (("encode", encode, images), ("decode", decode, tokens)):
                seconds = _median(jax.jit(function), params, given, seconds=0.1 if small else 1.0)
                key = f"{name}, {dtype}, batch {batch}"
                result[key] = {"images_per_second": batch / seconds, "seconds": seconds}
                write(result)


def sampling(write: Write, small: bool, dtype: str) -> None:
    """SiT-XL's samples as published: 250 steps, guidance 1.5 in its interval."""
    import jax
    import numpy as np

    from gpstoken_jax.configs import sit_xl
    from gpstoken_jax.generation.guidance import Guidance
    from gpstoken_jax.generation.samplers import Sampler, evaluations
    from gpstoken_jax.generation.sampling import BatchSampler, image_keys
    from gpstoken_jax.generation.sit import create_sit, init_params
    from gpstoken_jax.generation.transport import Transport

    config = sit_xl.get_config("smoke" if small else "published")
    config.model.dtype = dtype
    config.model.update(num_tokens=8 if small else 128, channels=21, num_classes=1000)
    model = create_sit(config.model)
    params = jax.jit(functools.partial(init_params, model))(jax.random.key(0))
    batch = 2 if small else 16
    sampler, guidance = Sampler(steps=3 if small else 250), Guidance(1.5, 0.2, 1.0)
    run = BatchSampler(model, params, Transport(), sampler, guidance)
    rng = np.random.default_rng(0)
    layouts = rng.uniform(0.1, 0.9, (batch, model.num_tokens, 5)).astype(np.float32)
    draw = functools.partial(run, image_keys(0, range(batch)), np.arange(batch), layouts)
    draw()  # compiles
    begun = time.perf_counter()
    draw()
    seconds = time.perf_counter() - begun
    write(
        {
            "batch": batch,
            "dtype": dtype,
            "steps": sampler.steps,
            "evaluations_per_image": float(evaluations(sampler, Transport(), guidance)),
            "seconds": seconds,
            "images_per_second": batch / seconds,
        }
    )


def partition(write: Write, small: bool) -> None:
    """The partition on the device, images a second."""
    import jax
    import numpy as np

    from gpstoken_jax.partition.images import partition_images

    result = {}
    for side, tokens in ((32, 8),) if small else ((256, 128), (256, 256)):
        for batch in (2,) if small else (1, 32, 128):
            rng = np.random.default_rng(0)
            images = rng.uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)
            images = jax.device_put(images)
            function = functools.partial(partition_images, num_tokens=tokens)
            seconds = _median(function, images, seconds=0.1 if small else 1.0)
            key = f"{side} x {side}, {tokens} tokens, batch {batch}"
            result[key] = {"images_per_second": batch / seconds, "seconds": seconds}
            write(result)


def _median(function, *arguments, seconds: float) -> float:
    """Median seconds of a call, over about that long, at least three calls."""
    import jax

    jax.block_until_ready(function(*arguments))
    times, begun = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# Name to (function, its settings, limit in seconds, number of those that run at the same time).
ALL = {
    "device": (device, {}, 40, 0),
    "suite-float32": (suite, {"dtype": "float32"}, 110, 1),
    "suite-bfloat16": (suite, {"dtype": "bfloat16"}, 110, 1),
    "transformed": (transformed, {}, 60, 1),
    "sanitizer-memcheck": (sanitizer, {"tool": "memcheck"}, 110, 1),
    "sanitizer-racecheck": (sanitizer, {"tool": "racecheck"}, 110, 1),
    "splat-1": (splat_times, {"first": 0, "last": 4}, 90, 0),
    "training-bfloat16-16": (training, {"dtype": "bfloat16", "batch": 16}, 90, 0),
    "coding": (coding, {}, 90, 0),
    "partition": (partition, {}, 40, 0),
    "sampling-bfloat16": (sampling, {"dtype": "bfloat16"}, 60, 0),
    "training-float32-16": (training, {"dtype": "float32", "batch": 16}, 90, 0),
    "splat-2": (splat_times, {"first": 4, "last": len(SHAPES)}, 120, 0),
    "training-bfloat16-32": (training, {"dtype": "bfloat16", "batch": 32}, 90, 0),
    "training-bfloat16-8": (training, {"dtype": "bfloat16", "batch": 8}, 90, 0),
    "training-float32-8": (training, {"dtype": "float32", "batch": 8}, 90, 0),
    "training-float32-32": (training, {"dtype": "float32", "batch": 32}, 90, 0),
    "sampling-float32": (sampling, {"dtype": "float32"}, 60, 0),
    "hardware-suite": (hardware_suite, {}, 200, 0),
}
# Of a stage in another one.
INNER = {"suite-few": (suite, {"dtype": "float32", "few": True}, 0, 0)}
# What says nothing new when it is small.
NOT_SMALL = ("splat-2", "training-bfloat16-32", "training-bfloat16-8", "training-float32-8",
             "training-float32-16", "training-float32-32", "sampling-float32")  # fmt: skip
