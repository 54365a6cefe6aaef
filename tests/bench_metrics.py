"""Cost of each metric and loss network per image, of baselines, and of a Fréchet distance.

    python -m tests.bench_metrics [--side 256] [--images 4] [--rounds 3] [--json FILE]

Random weights; processor seconds (the least of the rounds), which other programs disturb less than
wall time, and wall time beside them. Threads of BLAS that wait count as processor time, so for the
last lines set OPENBLAS_NUM_THREADS=1 on a busy machine.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from skimage import data

from gpstoken_jax.features.convnext import ConvNeXtSmall, ConvNeXtWeights, convnext_perceptual
from gpstoken_jax.features.inception import InceptionWeights, fid_features, inception_perceptual
from gpstoken_jax.features.inception_network import InceptionV3
from gpstoken_jax.features.lpips import lpips
from gpstoken_jax.features.vgg import vgg_features, vgg_perceptual
from gpstoken_jax.metrics.baselines import bicubic_baseline, jpeg_baseline, webp_baseline
from gpstoken_jax.metrics.frechet import FeatureStatistics, frechet_distance
from gpstoken_jax.metrics.image import PIXEL_METRICS, image_metrics
from gpstoken_jax.weights.networks import load_lpips


def random_variables(network, side: int):
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: jnp.asarray(0.05 * np.abs(rng.standard_normal(s.shape, np.float32))), shapes
    )


def photos(count: int, side: int) -> np.ndarray:
    image = data.astronaut()
    starts = np.linspace(0, image.shape[0] - side, count).astype(int)
    crops = np.stack([image[i : i + side, i : i + side] for i in starts])
    return crops.astype(np.float32) / 127.5 - 1


def seconds(run: Callable, rounds: int) -> tuple[float, float]:
    """Processor and wall seconds of the cheapest round, after one that compiles."""
    jax.block_until_ready(run())
    best = []
    for _ in range(rounds):
        start = time.process_time(), time.perf_counter()
        jax.block_until_ready(run())
        best.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return min(best)


def cases(images: np.ndarray, others: np.ndarray) -> dict[str, Callable]:
    """Functions to time, each over the whole batch."""
    vgg, alex = load_lpips("vgg16"), load_lpips("alexnet")
    inception = InceptionWeights(random_variables(InceptionV3(), 299))
    convnext = ConvNeXtWeights(random_variables(ConvNeXtSmall(), 224))

    def jitted(function, *arguments):
        compiled = jax.jit(function)
        return lambda: compiled(*arguments)

    def gradient(function, weights):
        compiled = jax.jit(jax.grad(lambda x, w, y: function(w, x, y).mean()))
        return lambda: compiled(others, weights, images)

    def pixel(x, y):
        return image_metrics(x, y, metrics=PIXEL_METRICS)

    return {
        "PSNR, SSIM, MSE": jitted(image_metrics, images, others),
        "all pixel metrics": jitted(pixel, images, others),
        "LPIPS, VGG16": jitted(lpips, vgg, images, others),
        "LPIPS, AlexNet": jitted(lpips, alex, images, others),
        "Inception features (FID and sFID)": jitted(fid_features, inception, images),
        "VGG16 features": jitted(vgg_features, vgg, images),
        "gradient of LPIPS, VGG16": gradient(lpips, vgg),
        "gradient of the Inception loss": gradient(inception_perceptual, inception),
        "gradient of the ConvNeXt loss": gradient(convnext_perceptual, convnext),
        "gradient of the VGG16 loss": gradient(vgg_perceptual, vgg),
        "bicubic baseline": lambda: bicubic_baseline(images, 128 * 21),
        "JPEG baseline, 10752 bytes": lambda: jpeg_baseline(images, 10752).images,
        "WebP baseline, 10752 bytes": lambda: webp_baseline(images, 10752).images,
    }


def distance_seconds(dimensions: int) -> dict[str, float]:
    """Of gathering 4096 images and of one distance."""
    rng = np.random.default_rng(0)
    sets = [FeatureStatistics(dimensions), FeatureStatistics(dimensions)]
    features = rng.standard_normal((4096, dimensions)).astype(np.float32)
    start = time.process_time()
    for one in sets:
        for batch in features.reshape(-1, 8, dimensions):
            one.add(batch)
    first, second = (one.gaussian() for one in sets)
    gathered = time.process_time()
    frechet_distance(first, second)
    return {
        "gather, an image": (gathered - start) / 2 / len(features),
        "distance": time.process_time() - gathered,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    images = photos(options.images, options.side)
    others = np.clip(images + 0.05 * np.sin(np.arange(options.side) / 5)[:, None], -1, 1)
    others = others.astype(np.float32)
    results = {}
    for name, run in cases(images, others).items():
        cpu, wall = (value / options.images for value in seconds(run, options.rounds))
        results[name] = {"processor_seconds": cpu, "wall_seconds": wall}
        print(f"{name:36s} {cpu:8.3f} s processor {wall:8.3f} s wall, an image", flush=True)
    for dimensions in (2048, 2023, 512):
        for name, cost in distance_seconds(dimensions).items():
            results[f"{dimensions} features: {name}"] = {"processor_seconds": cost}
            print(f"{dimensions} features: {name:20s} {cost:10.5f} s processor", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
