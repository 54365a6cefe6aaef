"""Which network's features a Fréchet distance compares, and what the distance is then called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

ORIGINAL = "original"
FrechetState = Any


def frechet_distance(first, second) -> float:
    raise NotImplementedError


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network.

    Attributes:
      description: what it is, for the protocol.
      apply: (weights, images in [-1, 1]) to features [B, D] by set, e.g. ``{"pool": ...}``.
      weights: what ``apply`` takes.
      dimensions: D by set.
      metrics: name of the distance by set.
    """

    description: str
    apply: Callable[[Any, Float[Array, "b h w 3"]], dict[str, Float[Array, "b d"]]]
    weights: Any
    dimensions: Mapping[str, int]
    metrics: Mapping[str, str]
