"""The Inception Score: Salimans et al. 2016, "Improved Techniques for Training GANs".

exp of the mean divergence of each image's distribution over classes from that of all images: high
where each image is of one class and all classes occur. As in the evaluation suite of "Diffusion
Models Beat GANs", it is computed for every 5,000 images in their order, and averaged.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from jaxtyping import Float, Int

SPLIT = 5000  # images


@dataclass
class ClassScores:
    """Sums of images' class probabilities, by split, which merge exactly whoever made them.

    Attributes:
      counts: images of each split.
      probabilities: summed, [splits, classes].
      negentropies: summed p log p of each image, [splits].
      split: images a split.
    """

    counts: Int[np.ndarray, " s"] = field(default_factory=lambda: np.zeros(0, np.int64))
    probabilities: Float[np.ndarray, "s k"] = field(default_factory=lambda: np.zeros((0, 0)))
    negentropies: Float[np.ndarray, " s"] = field(default_factory=lambda: np.zeros(0))
    split: int = SPLIT

    def add(
        self, probabilities: Float[np.ndarray, "n k"], positions: Int[np.ndarray, " n"]
    ) -> None:
        """Adds images.

        Args:
          probabilities: of each class; they sum to 1.
          positions: of the images in their data set, which decide the split.

        Raises:
          ValueError: for probabilities that are not finite.
        """
        p = np.asarray(probabilities, np.float64)
        if not np.isfinite(p).all():
            raise ValueError("class probabilities of an image are not finite")
        numbers = np.asarray(positions) // self.split
        splits = int(numbers.max(initial=-1)) + 1
        sums = np.zeros((splits, p.shape[1]))
        np.add.at(sums, numbers, p)
        logs = np.log(np.where(p > 0, p, 1))
        entropies = np.bincount(numbers, (p * logs).sum(axis=1), splits)
        self.merge(type(self)(np.bincount(numbers, minlength=splits), sums, entropies, self.split))

    def merge(self, other: Self) -> None:
        """Adds what was gathered elsewhere."""
        size = max(len(self.counts), len(other.counts))
        classes = max(self.probabilities.shape[1], other.probabilities.shape[1])
        for name in ("counts", "negentropies", "probabilities"):
            total = np.zeros(
                (size, classes) if name == "probabilities" else size, getattr(other, name).dtype
            )
            for part in (getattr(self, name), getattr(other, name)):
                total[tuple(map(slice, part.shape))] += part
            setattr(self, name, total)

    def score(self) -> float:
        """The mean over the splits. Raises ValueError if there are no images."""
        some = self.counts > 0
        if not some.any():
            raise ValueError("an Inception Score needs an image")
        counts = self.counts[some]
        mean = self.probabilities[some] / counts[:, None]
        marginal = (mean * np.log(np.where(mean > 0, mean, 1))).sum(axis=1)
        return float(np.exp(self.negentropies[some] / counts - marginal).mean())
