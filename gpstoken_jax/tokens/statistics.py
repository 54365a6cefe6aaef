"""Mean and standard deviation by channel, in parts that merge exactly enough: counts, means, M2."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviations of each channel, in float64."""

    count: int
    mean: Float[np.ndarray, " c"]
    squares: Float[np.ndarray, " c"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "*n c"]) -> Self:
        """Moments over all axes but the last."""
        values = np.asarray(values, np.float64).reshape(-1, values.shape[-1])
        mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
        return cls(len(values), mean, np.square(values - mean).sum(axis=0))

    def merge(self, other: Self) -> Self:
        """Moments of both parts together (Chan et al. 1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.square(shift) * (self.count * other.count / count)
        return type(self)(count, mean, self.squares + other.squares + between)

    @property
    def std(self) -> Float[np.ndarray, " c"]:
        """Biased standard deviation; 0 of nothing."""
        return np.sqrt(self.squares / max(self.count, 1))

    def to_json(self) -> dict[str, Any]:
        """The moments as JSON values."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Restores moments that `to_json` wrote."""
        return cls(value["count"], np.array(value["mean"]), np.array(value["squares"]))


def statistics_of_channels(moments: Moments) -> dict[str, Any]:
    """Mean and std of every channel: the geometry's deltas, then the features."""
    channels = {"geometry_delta": np.s_[:5], "features": np.s_[5:]}
    return {"num_tokens": moments.count} | {
        name: {"mean": moments.mean[part].tolist(), "std": moments.std[part].tolist()}
        for name, part in channels.items()
    }
