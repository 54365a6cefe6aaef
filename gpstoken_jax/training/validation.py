"""Reconstruction of held-out images by a tokenizer in training."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gpstoken_jax import data
from gpstoken_jax.features.lpips import LPIPSWeights
from gpstoken_jax.metrics import image as metrics
from gpstoken_jax.metrics.image import Mean
from gpstoken_jax.model.gpstoken import GPSToken
from gpstoken_jax.runtime.compiling import announced
from gpstoken_jax.runtime.processes import gather

Params = Any


class Validation:
    """PSNR, SSIM and LPIPS of held-out images, each process with its share of them.

    The images are those that ``config.data.eval_split`` names, at most ``config.eval.max_images``.
    """

    def __init__(self, model: GPSToken, config: ConfigDict, images: data.DataSet):
        self._config, self._data = config, images
        self._batches = None

        def measure(params, images, lpips_weights):
            made = model.apply(params, images, **config.partition, method="reconstruct")
            options = {"lpips_weights": lpips_weights, "rounding": config.eval.rounding}
            return metrics.image_metrics(images, made, **options)

        images = lambda params, images, lpips_weights: images  # noqa: E731
        self._measure = announced(jax.jit(measure), "the evaluation", images)

    def __call__(self, params: Params, lpips_weights: LPIPSWeights | None) -> dict[str, float]:
        """Means over the images: ``val_psnr``, ``val_ssim``, and with weights ``val_lpips``."""
        means = {}
        for batch in self._read():
            values = self._measure(params, batch["image"], lpips_weights)
            means = metrics.accumulate(means, values, batch["mask"])
        means = _over_processes(means)
        del means["mse"]
        return {f"val_{name}": mean.compute() for name, mean in means.items()}

    def _read(self) -> list[Mapping[str, np.ndarray]]:
        """The batches, all of one shape; they are read once and kept."""
        if self._batches is None:
            config = self._config
            source = self._data.open(config.data.eval_split)
            share = config.eval.batch_size * jax.process_count()
            images = min(config.eval.get("max_images", 512) or len(source), len(source))
            batches = data.eval_batches(
                source,
                config.data,
                config.model.image_size,
                config.eval.batch_size,
                jax.process_index(),
                jax.process_count(),
            )
            wanted = -(-images // share)
            self._batches = [batch for _, batch in zip(range(wanted), batches, strict=False)]
        return self._batches


def _over_processes(means: Mapping[str, Mean]) -> dict[str, Mean]:
    payload = {name: (float(mean.total), int(mean.count)) for name, mean in means.items()}
    merged = {}
    for part in gather(json.dumps(payload).encode()):
        values = {
            name: Mean(np.float64(total), np.int64(count))
            for name, (total, count) in json.loads(part).items()
        }
        merged = metrics.merge_means(merged, values)
    return merged
