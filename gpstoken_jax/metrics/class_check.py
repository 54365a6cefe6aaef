"""Classes of generated images, told by their neighbours among real ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class ClassCheck:
    """Verdict of a classifier that knows real images on others.

    Attributes:
      names: of the classes.
      confusion: [K, K], images by their class (rows) and the class that was found.
    """

    names: tuple[str, ...]
    confusion: Int[np.ndarray, "k k"]

    @property
    def accuracy(self) -> float:
        """Share of images whose class was found; the mean over classes that have images."""
        counts = self.confusion.sum(axis=1)
        return float((np.diag(self.confusion)[counts > 0] / counts[counts > 0]).mean())

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        return 1 / len(self.names)

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        counts = self.confusion.sum(axis=1)
        return {
            "accuracy": self.accuracy,
            "chance": self.chance,
            "images": int(counts.sum()),
            "by_class": {
                name: float(self.confusion[i, i] / counts[i])
                for i, name in enumerate(self.names)
                if counts[i]
            },
            "confusion": self.confusion.tolist(),
        }


def nearest_class(
    known: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    features: Float[np.ndarray, "m d"],
    neighbours: int = 15,
) -> Int[np.ndarray, " m"]:
    """Class by a vote of the nearest known images, by the cosine of centred features.

    Each class votes as if it had equally many images; of equal votes the lowest class wins.
    """
    centre = known.mean(axis=0)
    known, features = _unit(known - centre), _unit(features - centre)
    near = np.argsort(-(features @ known.T), axis=1, kind="stable")[:, :neighbours]
    weights = 1 / np.maximum(np.bincount(labels), 1)
    votes = np.zeros((len(features), len(weights)))
    for column in labels[near].T:
        votes[np.arange(len(features)), column] += weights[column]
    return votes.argmax(axis=1)


def check_classes(
    known: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    features: Float[np.ndarray, "m d"],
    wanted: Int[np.ndarray, " m"],
    names: tuple[str, ...],
    neighbours: int = 15,
) -> ClassCheck:
    """Finds the class of images by ``nearest_class`` and compares it with the wanted one."""
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (wanted, nearest_class(known, labels, features, neighbours)), 1)
    return ClassCheck(names, confusion)


def _unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
