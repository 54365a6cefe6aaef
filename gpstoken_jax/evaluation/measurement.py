"""What a cell has measured so far: a state that merges exactly, and how large it is.

Per-image numbers are kept in columns of float64 (8 bytes a number), not as objects, so that 50,000
images take tens of megabytes. Of features only sums are kept, whose size does not depend on the
number of images.
"""

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from gpstoken_jax.evaluation.evaluator import BatchResult
from gpstoken_jax.metrics.frechet import FeatureStatistics

Columns = dict[str, array]


@dataclass
class Measurement:
    """A mergeable state of one cell's results.

    Attributes:
      names, positions: of the images, as and where their data set has them.
      metrics: columns by method, then by metric.
      values: columns of further numbers of the evaluated method.
      features: Gaussian statistics by feature set, then by method or ``"original"``.
    """

    names: list[str] = field(default_factory=list)
    positions: array = field(default_factory=lambda: array("q"))
    metrics: dict[str, Columns] = field(default_factory=dict)
    values: Columns = field(default_factory=dict)
    features: dict[str, dict[str, FeatureStatistics]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, batch: BatchResult) -> None:
        """Adds the images of a batch."""
        self.names += batch.names
        self.positions.extend(batch.positions.tolist())
        for method, numbers in batch.metrics.items():
            _extend(self.metrics.setdefault(method, {}), numbers)
        _extend(self.values, batch.values)
        for name, of in batch.features.items():
            states = self.features.setdefault(name, {})
            for method, features in of.items():
                if method not in states:
                    states[method] = FeatureStatistics(features.shape[-1])
                states[method].add(features)

    def merge(self, other: Self) -> Self:
        """The state of both parts' images, in the order of their data set.

        Raises:
          ValueError: if the two hold different methods, metrics or features.
        """
        if not self.names or not other.names:
            return self if self.names else other
        merged = type(self)(
            self.names + other.names,
            self.positions + other.positions,
            _merge(self.metrics, other.metrics, "metrics"),
            _merge(self.values, other.values, "values"),
            _merge(self.features, other.features, "features"),
        )
        return merged._in_order()

    def _in_order(self) -> Self:
        order = np.argsort(np.frombuffer(self.positions, np.int64), kind="stable").tolist()

        def ordered(column):
            return array(column.typecode, [column[i] for i in order])

        return type(self)(
            [self.names[i] for i in order],
            ordered(self.positions),
            {
                method: {name: ordered(column) for name, column in columns.items()}
                for method, columns in self.metrics.items()
            },
            {name: ordered(column) for name, column in self.values.items()},
            self.features,
        )

    def means(self) -> dict[str, dict[str, float]]:
        """Mean of every column, by method; the exact sum rounded once, so in any order the same."""
        return {
            method: {name: math.fsum(column) / len(column) for name, column in columns.items()}
            for method, columns in self.metrics.items()
        }

    def images(self) -> Iterator[dict]:
        """What is written of every image, one at a time."""
        for i, name in enumerate(self.names):
            metrics = {
                method: {metric: column[i] for metric, column in columns.items()}
                for method, columns in self.metrics.items()
            }
            yield {"name": name, **metrics, **{key: value[i] for key, value in self.values.items()}}

    def sizes(self) -> dict[str, int]:
        """Bytes that the state takes: of all images' numbers and names, and of the statistics."""
        columns = [self.positions, *self.values.values()]
        columns += [column for one in self.metrics.values() for column in one.values()]
        moments = [one.moments() for of in self.features.values() for one in of.values()]
        return {
            "per_image": sum(column.itemsize * len(column) for column in columns)
            + sum(len(name) + 57 for name in self.names),  # what Python adds to a string's text
            "statistics": sum(one.mean.nbytes + one.scatter.nbytes for one in moments),
        }


def _extend(columns: Columns, numbers: Mapping[str, np.ndarray]) -> None:
    for name, values in numbers.items():
        columns.setdefault(name, array("d")).extend(np.asarray(values, np.float64).tolist())


def _merge(first, second, what: str):
    """Two trees of one structure: columns end to end, statistics of both."""
    if isinstance(first, array):
        return first + second
    if isinstance(first, FeatureStatistics):
        both = FeatureStatistics(first.moments().mean.size)
        for part in (first, second):
            both.merge(part.moments())
        return both
    if first.keys() != second.keys():
        raise ValueError(f"cannot merge {what} {sorted(first)} with {sorted(second)}")
    return {key: _merge(one, second[key], what) for key, one in first.items()}
