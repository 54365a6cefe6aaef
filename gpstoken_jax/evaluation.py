"""Evaluation of a tokenizer: reconstructions and their metrics, batch by batch, on all devices."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from gpstoken_jax.baselines import bicubic_baseline
from gpstoken_jax.layout import partition_images
from gpstoken_jax.metrics import Rounding, image_metrics
from gpstoken_jax.perceptual.weights import LPIPSWeights
from gpstoken_jax.run_directory import Tokenizer


@dataclass(frozen=True)
class ImageResult:
    """What evaluation knows of one image; pictures in [-1, 1], geometry [L, 5].

    Attributes:
      name: of the image, as its data set has it.
      metrics: of the model's reconstruction.
      baseline_metrics: of the baseline with the same number of stored values.
    """

    name: str
    image: Float[np.ndarray, "h w 3"]
    reconstruction: Float[np.ndarray, "h w 3"]
    baseline: Float[np.ndarray, "h w 3"]
    initial: Float[np.ndarray, "l 5"]
    refined: Float[np.ndarray, "l 5"]
    metrics: dict[str, float]
    baseline_metrics: dict[str, float]


class Evaluator:
    """Reconstructs and measures batches of images.

    Args:
      tokenizer: the model and its weights.
      num_tokens: tokens an image; any number that the partition allows.
      lpips_weights: None leaves LPIPS out.
      rounding: how a reconstruction becomes 8-bit values, see ``metrics.to_unit_range``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        num_tokens: int,
        *,
        lpips_weights: LPIPSWeights | None,
        rounding: Rounding,
    ):
        self._devices = jax.local_device_count()
        self._params = tokenizer.params
        self._lpips = lpips_weights
        self.values_per_image = num_tokens * (5 + tokenizer.config.model.feature_channels)
        model, partition = tokenizer.model, tokenizer.config.partition.copy_and_resolve_references()
        partition.num_tokens = num_tokens

        def reconstruct(params, images):
            geometry, boxes = partition_images(images, **partition)
            tokens = model.apply(params, images, geometry, boxes, method="encode")
            return {
                "reconstruction": model.apply(params, tokens, method="decode"),
                "initial": geometry,
                "refined": tokens[..., :5],
            }

        def measure(images, others, weights):
            return image_metrics(images, others, lpips_weights=weights, rounding=rounding)

        self._reconstruct = jax.pmap(reconstruct, in_axes=(None, 0))
        self._measure = jax.pmap(measure, in_axes=(0, 0, None))

    def __call__(self, batches: Iterable[dict]) -> Iterator[ImageResult]:
        """Results of every image whose ``mask`` is set, in order."""
        for batch in batches:
            results = self._batch(batch["image"])
            for i in np.flatnonzero(batch["mask"]):
                yield _pick(results, i, batch["name"][i])

    def _batch(self, images: Float[np.ndarray, "b h w 3"]) -> dict:
        """Everything of a batch, [B, ...] on the host; a batch fills up all devices."""
        padded = np.pad(images, [(0, -len(images) % self._devices), *[(0, 0)] * 3], mode="edge")
        baseline = self._shard(bicubic_baseline(padded, self.values_per_image))
        sharded = self._shard(padded)
        outputs = self._reconstruct(self._params, sharded)
        outputs["metrics"] = self._measure(sharded, outputs["reconstruction"], self._lpips)
        outputs["baseline_metrics"] = self._measure(sharded, baseline, self._lpips)
        outputs |= {"image": sharded, "baseline": baseline}
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), outputs)

    def _shard(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(self._devices, -1, *images.shape[1:])


def _pick(results: dict, i: int, name: str) -> ImageResult:
    fields = {key: value for key, value in results.items() if not key.endswith("metrics")}
    metrics = {
        key: {metric: float(values[i]) for metric, values in results[key].items()}
        for key in ("metrics", "baseline_metrics")
    }
    return ImageResult(name=name, **{key: value[i] for key, value in fields.items()}, **metrics)
