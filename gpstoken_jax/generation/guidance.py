"""Classifier-free guidance in an interval of time (arXiv 2207.12598, 2404.07724)."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num
from ml_collections import ConfigDict

# (x [B, L, C], times [B], labels [B], cond [B, L, E] or None) -> prediction [B, L, C]
Network = Callable[..., Float[Array, "b l c"]]
# (x [B, L, C], time, a scalar) -> prediction [B, L, C]
Predict = Callable[[Float[Array, "b l c"], Float[Array, ""]], Float[Array, "b l c"]]


@dataclass(frozen=True)
class Guidance:
    """``null + scale (conditional - null)`` for times of low <= t <= high, elsewhere conditional.

    The release evaluates the network for the null class at all times; outside the interval nothing
    that is kept depends on it, so here it is not evaluated: the same samples for less.

    Attributes:
      scale: 1 is no guidance.
      low: where the interval begins; 0 is noise.
      high: where it ends; 1 is data.

    Raises:
      ValueError: for anything but finite numbers.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        for value in (self.scale, self.low, self.high):
            if not (isinstance(value, Real) and np.isfinite(value)):
                raise ValueError(
                    f"guidance takes a scale and times that are numbers, not {value!r}"
                )

    @classmethod
    def of(cls, config: ConfigDict) -> Self:
        """Reads the ``sample`` section of a run; no guidance where the run never saw no class."""
        sample = config.sample
        scale = 1.0 if -1 in config.get("untrained_labels", ()) else sample.guidance_scale
        return cls(scale, *sample.get("guidance_interval", ()))

    @property
    def active(self) -> bool:
        """True if there is guidance at any time."""
        return self.scale != 1.0 and self.low <= self.high

    def applies(self, t: Num[Array, "..."] | np.ndarray) -> Array | np.ndarray:
        """True if there is guidance at a float32 time; both ends belong to the interval."""
        return (t >= np.float32(self.low)) & (t <= np.float32(self.high))

    def rows(self, times: np.ndarray) -> int:
        """Evaluations of the network for one image, at these times."""
        return len(times) + (int(self.applies(times).sum()) if self.active else 0)

    def predictor(
        self,
        network: Network,
        labels: Int[Array, " b"],
        null_label: int,
        cond: Float[Array, "b l e"] | None = None,
        *,
        times_differ: bool = False,
    ) -> Predict:
        """Makes the guided prediction for these labels, a function for samplers.

        Args:
          network: see above.
          labels: of each image, ``null_label`` for none.
          null_label: the class of no class.
          cond: given with every token.
          times_differ: for use under ``jax.vmap`` over images with times of their own. No branch
            can be taken for all then: both classes are evaluated at all times.
        """

        def plain(x, t):
            return network(x, jnp.full(len(x), t), labels, cond)

        def doubled(x, t):
            both = network(
                jnp.concatenate([x, x]),
                jnp.full(2 * len(x), t),
                jnp.concatenate([labels, jnp.full_like(labels, null_label)]),
                None if cond is None else jnp.concatenate([cond, cond]),
            )
            conditional, null = jnp.split(both, 2)
            scale = jnp.where(self.applies(t), self.scale, 1.0) if times_differ else self.scale
            return null + scale * (conditional - null)

        def guided(x, t):
            return jax.lax.cond(self.applies(t), doubled, plain, x, t)

        if not self.active:
            return plain
        return doubled if times_differ else guided
