"""Networks whose features are compared by Fréchet distances, and the names of the distances."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from gpstoken_jax.features.inception import fid_features
from gpstoken_jax.features.lpips import LPIPSWeights
from gpstoken_jax.features.vgg import vgg_features
from gpstoken_jax.metrics.frechet import Gaussian
from gpstoken_jax.weights.networks import load_inception, load_lpips
from gpstoken_jax.weights.statistics import StatisticsError, load_statistics

ORIGINAL = "original"
CLASSES = "classes"  # of a network's outputs: probabilities, for the Inception Score
ApplyNetwork = Callable[[Any, Float[Array, "b h w 3"]], Mapping[str, Float[Array, "b d"]]]


class FeatureNetwork(NamedTuple):
    """A frozen network.

    Attributes:
      description: for the protocol.
      sets: the names of its features, as ``weights.statistics`` has them; of the first, precision
        and recall are taken.
      apply: (weights, images in [-1, 1]) to features [B, D] by set.
      weights: first argument of ``apply``.
    """

    description: str
    sets: tuple[str, ...]
    apply: ApplyNetwork
    weights: Any


def distance_name(feature_set: str, *, to_originals: bool) -> str:
    """Name of a Fréchet distance: to the images' own originals, or to a reference."""
    if feature_set in ("fid", "sfid"):
        return f"r{feature_set}" if to_originals else feature_set
    return feature_set if to_originals else f"{feature_set}_reference"


def cover_names(feature_set: str) -> tuple[str, str]:
    """Names of precision and recall in the features of a network."""
    ending = "" if feature_set == "fid" else "_vgg16"
    return f"precision{ending}", f"recall{ending}"


def inception_network(path: str | Path) -> FeatureNetwork:
    """Inception-v3 in its FID version; raises what ``load_inception`` raises."""
    text = f"Inception-v3 in its FID version, from {path}"
    return FeatureNetwork(text, ("fid", "sfid"), fid_features, load_inception(path))


def vgg16_network(weights: LPIPSWeights | None = None) -> FeatureNetwork:
    """VGG16, whose weights come with LPIPS; the distance in its features is no FID.

    Args:
      weights: if they are loaded already; sharing them saves half of the work.

    Raises:
      FileNotFoundError: what ``load_lpips`` raises.
    """
    text = "mean features of VGG16's last layer (no FID)"
    return FeatureNetwork(text, ("frechet_vgg16",), _vgg16_features, weights or load_lpips("vgg16"))


def load_reference(path: str | Path, network: FeatureNetwork) -> dict[str, Gaussian]:
    """Statistics that this or another program saved, by feature set.

    Files of many programs have those of the FID alone; then there is no sFID.

    Raises:
      FileNotFoundError, ValueError: no such file, or none of this network's statistics in it.
    """
    first, *others = network.sets
    reference = {first: load_statistics(path, first)}
    for name in others:
        with contextlib.suppress(StatisticsError):
            reference[name] = load_statistics(path, name)
    return reference


def _vgg16_features(weights: LPIPSWeights, images: Float[Array, "b h w 3"]) -> Mapping[str, Array]:
    return {"frechet_vgg16": vgg_features(weights, images)}
