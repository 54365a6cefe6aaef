"""The Fréchet distance between Gaussians fitted to the features of two sets of images.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule": with Inception-v3's pool
features it is the FID (rFID between originals and reconstructions); with the spatial features of
Nash et al. 2021 ("Generating Images with Sparse Representations") the sFID. With any other network
it is neither, and is named after that network.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Array, Bool, Float

_ROWS = 512  # features gathered before the covariance is brought up to date


@dataclass(frozen=True)
class Gaussian:
    """Mean and unbiased covariance of features, in float64.

    count: how many images they come from; None if a file does not say.
    """

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    count: int | None = None


@dataclass(frozen=True)
class FeatureMoments:
    """Count, mean and scatter (summed outer products of deviations) of features, in float64.

    Merging is exact up to rounding, in whatever order and however the images were split. For d
    features it is 8 (d^2 + d) bytes however many images it stands for: 33.6 MB for the FID's 2048.
    """

    count: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]

    @classmethod
    def empty(cls, dimensions: int) -> Self:
        """Moments of no features."""
        return cls(0, np.zeros(dimensions), np.zeros((dimensions, dimensions)))

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> Self:
        """Moments of one batch. Raises ValueError for a feature that is not finite."""
        features = np.asarray(features, np.float64)
        if not np.isfinite(features).all():
            raise ValueError("features of an image are not finite; no distance is defined then")
        if not len(features):
            return cls.empty(features.shape[1])
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: Self) -> Self:
        """Moments of both parts together (Chan et al. 1979)."""
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(shift, shift) * (self.count * other.count / count)
        return type(self)(count, self.mean + shift * (other.count / count), scatter)

    def gaussian(self) -> Gaussian:
        """The fitted Gaussian. Raises ValueError for fewer than two images."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two images or more, not {self.count}")
        return Gaussian(self.mean, self.scatter / (self.count - 1), self.count)


class FeatureStatistics:
    """Gathers features batch by batch; what it knows so far is `moments()`.

    Rows are kept and merged a few hundred at a time: a covariance of 2048 features is too large to
    be touched for every batch.
    """

    def __init__(self, dimensions: int):
        self._moments = FeatureMoments.empty(dimensions)
        self._rows: list[np.ndarray] = []

    def add(
        self, features: Float[Array, "*n d"] | np.ndarray, mask: Bool[Array, "*n"] | None = None
    ) -> None:
        """Adds features of images; where `mask` is false (padding) they do not count."""
        features = np.asarray(features)
        rows = features.reshape(-1, features.shape[-1])
        self._rows.append(rows if mask is None else rows[np.asarray(mask, bool).ravel()])
        if sum(map(len, self._rows)) >= _ROWS:
            self._flush()

    def merge(self, other: FeatureMoments) -> None:
        """Adds what was gathered elsewhere: by another process, or before an interruption."""
        self._moments = self._moments.merge(other)

    def moments(self) -> FeatureMoments:
        """The moments of all features so far."""
        self._flush()
        return self._moments

    def gaussian(self) -> Gaussian:
        """The Gaussian fitted to all features so far."""
        return self.moments().gaussian()

    def _flush(self) -> None:
        if self._rows:
            self._moments = self._moments.merge(FeatureMoments.of(np.concatenate(self._rows)))
            self._rows = []


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^1/2); never negative, complex or NaN.

    The trace of the square root is that of the symmetric (S1^1/2 S2 S1^1/2)^1/2, which is the sum
    of the singular values of S1^1/2 S2^1/2. The two roots come from eigenvalue decompositions, and
    nothing is squared before it is rooted, so covariances of any rank keep about 12 digits.
    Raises ValueError when the two have other numbers of features or a value is not finite.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"Gaussians of {first.mean.size} and {second.mean.size} features cannot be compared; "
            "they come from different networks or layers"
        )
    if not all(np.isfinite(x).all() for g in (first, second) for x in (g.mean, g.covariance)):
        raise ValueError("a mean or covariance is not finite")
    roots = [_root(gaussian.covariance) for gaussian in (first, second)]
    overlap = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    spread = sum(np.square(root).sum() for root in roots) - 2 * overlap
    return float(max(np.square(first.mean - second.mean).sum() + spread, 0.0))


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """R with R R^T = covariance, without the directions that rounding alone gives a spread."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    tolerance = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    kept = values > tolerance
    return vectors[:, kept] * np.sqrt(values[kept])


def few_samples_warning(*gaussians: Gaussian) -> str | None:
    """A sentence for people when there are fewer images than features; None if all is well."""
    counts = [g.count for g in gaussians if g.count is not None and g.count <= g.mean.size]
    if not counts:
        return None
    dimensions = gaussians[0].mean.size
    return (
        f"a Fréchet distance of {dimensions} features from {min(counts)} images is far too large: "
        f"their covariance does not have full rank below {dimensions + 1} images, and published "
        "figures use 50,000; compare it only with figures from as many images"
    )
