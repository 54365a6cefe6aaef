"""Measures what methods make of images, batch by batch, on all devices of this process."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gpstoken_jax.evaluation.features import ORIGINAL, ApplyNetwork, FeatureNetwork
from gpstoken_jax.features.lpips import lpips
from gpstoken_jax.features.weights import LPIPSWeights
from gpstoken_jax.metrics.image import Rounding, image_metrics, to_unit_range
from gpstoken_jax.partition.focus import local_psnr


@dataclass(frozen=True)
class Reconstruction:
    """What a method made of a batch, [devices, images, ...].

    Attributes:
      images: in [-1, 1].
      tokens: what a tokenizer shows of its way: ``initial``, ``refined``, ``feature_map``; {} for
        other methods.
      values: further numbers of every image, by name; a baseline's stand beside its metrics.
    """

    images: Float[Array, "d b h w 3"]
    tokens: Mapping[str, Array]
    values: Mapping[str, Float[Array, "d b"]]


class Methods(Protocol):
    """Reconstructs a batch in several ways; the first is the one that is evaluated."""

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Reconstruction]: ...


@dataclass(frozen=True)
class Outcome:
    """What a method made of one image.

    Attributes:
      reconstruction: in [-1, 1].
      metrics: of it; with a focus also ``psnr_inside`` and ``psnr_outside`` it.
      tokens: ``initial`` and ``refined`` geometry [L, 5] in coordinates of the whole image and the
        ``feature_map`` that they draw; {} for methods without tokens.
    """

    reconstruction: Float[np.ndarray, "h w 3"]
    metrics: dict[str, float]
    tokens: dict[str, np.ndarray]


@dataclass(frozen=True)
class ImageResult:
    """What evaluation knows of one image, which is in [-1, 1]."""

    name: str
    image: Float[np.ndarray, "h w 3"]
    outcomes: dict[str, Outcome]


@dataclass(frozen=True)
class BatchResult:
    """What evaluation knows of a batch: numbers on the host, pictures on the devices.

    Attributes:
      names, positions: of the images that were read, as and where their source has them.
      metrics: by method, then by name, one number an image.
      values: further numbers of the first method, one an image.
      features: by feature set, then by method or ``ORIGINAL``, [images, dimensions].
    """

    names: list[str]
    positions: Int[np.ndarray, " n"]
    metrics: dict[str, dict[str, Float[np.ndarray, " n"]]]
    values: dict[str, Float[np.ndarray, " n"]]
    features: dict[str, dict[str, Float[np.ndarray, "n d"]]]
    _rows: np.ndarray
    _images: Float[np.ndarray, "d b h w 3"]
    _reconstructions: dict[str, Reconstruction]

    def image(self, i: int) -> ImageResult:
        """Everything of one image; only now its pictures come from the devices."""
        device, row = divmod(int(self._rows[i]), self._images.shape[1])

        def pick(tree):
            return jax.tree.map(lambda x: np.asarray(x[device, row]), tree)

        outcomes = {
            method: Outcome(
                pick(made.images),
                {name: float(values[i]) for name, values in self.metrics[method].items()},
                pick(dict(made.tokens)),
            )
            for method, made in self._reconstructions.items()
        }
        return ImageResult(self.names[i], self._images[device, row], outcomes)


class Evaluator:
    """Reconstructs and measures batches of images.

    Args:
      methods: what reconstructs them.
      lpips_weights: None leaves LPIPS out.
      rounding: how a reconstruction becomes 8-bit values, see ``metrics.to_unit_range``.
      inside: a focus [H, W], inside and outside of which PSNR is measured too.
      network: whose features are collected, of images and reconstructions; None for none.
      compared: False if images have no originals: then only features are collected.
    """

    def __init__(
        self,
        methods: Methods,
        *,
        lpips_weights: LPIPSWeights | None,
        rounding: Rounding,
        inside: Bool[np.ndarray, "h w"] | None = None,
        network: FeatureNetwork | None = None,
        compared: bool = True,
    ):
        self._methods = methods
        self._lpips = lpips_weights
        self._inside = inside
        self._network = network.weights if network else None
        if self._network is lpips_weights:
            self._network = None  # one set of weights: its features are computed once for both
        apply = network.apply if network else None
        self._measure = _measure_on_devices(rounding, apply, compared)

    def __call__(self, batches: Iterable[dict]) -> Iterator[BatchResult]:
        """Results of every batch, of the images whose ``mask`` is set."""
        for batch in batches:
            yield self._batch(batch)

    def _batch(self, batch: Mapping[str, Any]) -> BatchResult:
        rows = np.flatnonzero(batch["mask"])
        images = shard(batch["image"])
        made = self._methods(batch | {"image": images})
        reconstructions = {method: one.images for method, one in made.items()}
        metrics, features = self._measure(
            images, reconstructions, self._lpips, self._inside, self._network
        )
        first, *others = made
        for method in others:
            metrics[method] = metrics[method] | dict(made[method].values)

        def on_host(tree):
            flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[rows], tree)
            return jax.tree.map(np.asarray, flat)

        return BatchResult(
            names=[batch["name"][i] for i in rows],
            positions=batch["position"][rows],
            metrics={method: on_host(metrics[method]) for method in made},  # trees get sorted
            values=on_host(dict(made[first].values)),
            features={name: on_host(of) for name, of in features.items()},
            _rows=rows,
            _images=images,
            _reconstructions=made,
        )


def shard(images: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "d n h w 3"]:
    """A batch as [devices, images, ...]; repeats the last image to fill up all devices."""
    devices = jax.local_device_count()
    padded = np.pad(images, [(0, -len(images) % devices), *[(0, 0)] * 3], mode="edge")
    return padded.reshape(devices, -1, *padded.shape[1:])


def on_devices(function, in_axes):
    """``function`` on the devices of this process alone: processes have their own images."""
    return jax.pmap(function, in_axes=in_axes, devices=jax.local_devices())


@lru_cache
def _measure_on_devices(rounding: Rounding, apply: ApplyNetwork | None, compared: bool):
    """One compiled function serves all cells whose images have one size.

    All methods are in it, and networks get one and the same array, so that the compiler sees what
    there is in common and computes an image's VGG16 features once, for LPIPS and for distances.
    """

    def as_file(images, rounding):
        return 2 * to_unit_range(images, rounding) - 1

    def measure(images, reconstructions, lpips_weights, inside, network_weights):
        weights = lpips_weights if network_weights is None else network_weights
        originals = as_file(images, "none")
        metrics, features = {}, {}
        if apply and compared:
            features[ORIGINAL] = apply(weights, originals)
        for method, others in reconstructions.items():
            made = as_file(others, rounding)
            metrics[method] = image_metrics(images, others, rounding=rounding) if compared else {}
            if compared and lpips_weights is not None:
                metrics[method]["lpips"] = lpips(lpips_weights, made, originals)
            if inside is not None:
                near, far = local_psnr(images, others, inside, rounding)
                metrics[method] |= {"psnr_inside": near, "psnr_outside": far}
            if apply:
                features[method] = apply(weights, made)
        sets = next(iter(features.values()), {})
        by_set = {name: {method: one[name] for method, one in features.items()} for name in sets}
        return metrics, by_set

    return on_devices(measure, (0, 0, None, None, None))
