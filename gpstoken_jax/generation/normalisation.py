"""Between tokens and what the generator sees: values of mean 0 and standard deviation 1."""

from dataclasses import dataclass
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

AnyArray = TypeVar("AnyArray", np.ndarray, Array)

_SMALLEST_STD = 1e-6  # a channel that never changes is left alone
_EDGE = 1e-5  # Gaussians end this far from the ends of their range, as published


@dataclass(frozen=True)
class Normalisation:
    """Mean and std of ``(geometry - initial geometry, features)``, by channel."""

    mean: Float[np.ndarray, " 5+c"]
    std: Float[np.ndarray, " 5+c"]

    @classmethod
    def of(cls, config: ConfigDict) -> "Normalisation":
        """From the ``statistics`` section of a config.

        Raises:
          ValueError: if it is empty.
        """
        mean, std = (np.array(config[name], np.float32) for name in ("mean", "std"))
        if not mean.size or mean.shape != std.shape:
            raise ValueError("the config has no statistics of tokens: config.statistics is empty")
        return cls(mean, np.where(std < _SMALLEST_STD, np.float32(1), std))

    def normalise(
        self,
        geometry: Float[AnyArray, "*b l 5"],
        initial_geometry: Float[AnyArray, "*b l 5"],
        features: Float[AnyArray, "*b l c"],
    ) -> Float[AnyArray, "*b l 5+c"]:
        """Targets of the generator, given the initial geometry."""
        delta = (geometry - initial_geometry - self.mean[:5]) / self.std[:5]
        texture = (features - self.mean[5:]) / self.std[5:]
        numpy = np if isinstance(geometry, np.ndarray) else jnp
        return numpy.concatenate([delta, texture], axis=-1)

    def denormalise(
        self, x: Float[np.ndarray, "*b l 5+c"], initial_geometry: Float[np.ndarray, "*b l 5"]
    ) -> Float[np.ndarray, "*b l 5+c"]:
        """Tokens for the decoder; sigma and rho are kept inside their range, mu is not."""
        tokens = x * self.std + self.mean
        geometry = tokens[..., :5] + initial_geometry
        geometry[..., :2] = geometry[..., :2].clip(_EDGE, 1 - _EDGE)
        geometry[..., 2] = geometry[..., 2].clip(_EDGE - 1, 1 - _EDGE)
        return np.concatenate([geometry, tokens[..., 5:]], axis=-1)
