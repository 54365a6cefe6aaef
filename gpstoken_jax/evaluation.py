"""Evaluation of a tokenizer: reconstructions and their metrics, batch by batch, on all devices."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from gpstoken_jax.baselines import bicubic_baseline
from gpstoken_jax.focus import focus_mask, local_psnr, strength_to_bias
from gpstoken_jax.high_resolution import decode_images, encode_images
from gpstoken_jax.metrics import Rounding, image_metrics
from gpstoken_jax.perceptual.weights import LPIPSWeights
from gpstoken_jax.run_directory import Tokenizer


@dataclass(frozen=True)
class Outcome:
    """What the model made of one image; geometry [L, 5] in coordinates of the whole image.

    Attributes:
      reconstruction: in [-1, 1].
      initial, refined: Gaussians before and after the encoder.
      feature_map: what the tokens draw.
      floored_std: see ``high_resolution.Decoded``.
      metrics: of the reconstruction; with a focus also ``psnr_inside`` and ``psnr_outside`` it.
    """

    reconstruction: Float[np.ndarray, "h w 3"]
    initial: Float[np.ndarray, "l 5"]
    refined: Float[np.ndarray, "l 5"]
    feature_map: Float[np.ndarray, "m n c"]
    floored_std: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class ImageResult:
    """What evaluation knows of one image; pictures in [-1, 1].

    Attributes:
      name: of the image, as its data set has it.
      model: what the model made of it.
      unfocused: the same without the focus; None if there is none.
      baseline, baseline_metrics: of the baseline with the same number of stored values.
    """

    name: str
    image: Float[np.ndarray, "h w 3"]
    model: Outcome
    unfocused: Outcome | None
    baseline: Float[np.ndarray, "h w 3"]
    baseline_metrics: dict[str, float]


class Evaluator:
    """Reconstructs and measures batches of images.

    Args:
      tokenizer: the model and its weights.
      num_tokens: tokens an image, or a tile of it; any number that the partition allows.
      lpips_weights: None leaves LPIPS out.
      rounding: how a reconstruction becomes 8-bit values, see ``metrics.to_unit_range``.
      tiles: (rows, columns) of tiles that the images have.
      high_resolution: how several tiles are decoded, ``"merged"`` or ``"tiles"``.
      focus: strength [H, W] that moves tokens in every image, see ``focus``; images are
        reconstructed with and without it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        num_tokens: int,
        *,
        lpips_weights: LPIPSWeights | None,
        rounding: Rounding,
        tiles: tuple[int, int] = (1, 1),
        high_resolution: str = "merged",
        focus: Float[np.ndarray, "h w"] | None = None,
    ):
        self._devices = jax.local_device_count()
        self._params = tokenizer.params
        self._lpips = lpips_weights
        values_per_token = 5 + tokenizer.config.model.feature_channels
        self.values_per_image = tiles[0] * tiles[1] * num_tokens * values_per_token
        model, partition = tokenizer.model, tokenizer.config.partition.copy_and_resolve_references()
        partition.num_tokens = num_tokens
        inside = None if focus is None else focus_mask(focus)
        self._bias = None if focus is None else strength_to_bias(focus, partition.weight)[None]

        def reconstruct(params, images, bias):
            initial, tokens = encode_images(model, params, images, bias=bias, **partition)
            decoded = decode_images(model, params, tokens, tiles, way=high_resolution)
            return {
                "reconstruction": decoded.images,
                "initial": initial,
                "refined": tokens[..., :5],
                "feature_map": model.apply(params, tokens, tiles, method="render"),
                "floored_std": decoded.floored_std,
            }

        def measure(images, others, weights):
            metrics = image_metrics(images, others, lpips_weights=weights, rounding=rounding)
            if inside is not None:
                near, far = local_psnr(images, others, inside, rounding)
                metrics |= {"psnr_inside": near, "psnr_outside": far}
            return metrics

        self._reconstruct = jax.pmap(reconstruct, in_axes=(None, 0, None))
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
        results = {
            "image": sharded,
            "model": self._outcome(sharded, self._bias),
            "baseline": baseline,
            "baseline_metrics": self._measure(sharded, baseline, self._lpips),
        }
        if self._bias is not None:
            results["unfocused"] = self._outcome(sharded, np.zeros_like(self._bias))
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), results)

    def _outcome(self, sharded: np.ndarray, bias: np.ndarray | None) -> dict:
        outcome = self._reconstruct(self._params, sharded, bias)
        metrics = self._measure(sharded, outcome["reconstruction"], self._lpips)
        return outcome | {"metrics": metrics}

    def _shard(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(self._devices, -1, *images.shape[1:])


def _pick(results: dict, i: int, name: str) -> ImageResult:
    """One image of a batch; numbers become plain ones."""
    one = jax.tree.map(lambda x: x[i] if x[i].ndim else float(x[i]), results)
    outcomes = {key: Outcome(**one[key]) for key in ("model", "unfocused") if key in one}
    return ImageResult(name=name, **({"unfocused": None} | one | outcomes))
