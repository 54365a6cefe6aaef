"""The optimizer: Adam or Muon, with optional warm-up, cosine decay and gradient clipping."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers, muon

from gpstoken_jax.training.start import frozen_leaves

NAMES = ("adam", "muon")
_UPDATE_RMS = 0.2  # of a Muon step over the learning rate: about that of Adam (arXiv 2502.16982)
_SMALLEST_SIDE = 16  # of a matrix for Muon: to orthogonalise three colours is no gain


@struct.dataclass
class LearningRate:
    """Learning rate by update: a linear rise, then the peak, or half a cosine from it to zero.

    Numbers and no constants of a program: a step that is given them is compiled once for all.

    Attributes:
      peak: the highest rate.
      climb: from the rate of the first update up to it.
      warmup: updates of the rise.
      decay: updates of the fall; infinitely many are none.
    """

    peak: Float[np.ndarray, ""]
    climb: Float[np.ndarray, ""]
    warmup: Float[np.ndarray, ""]
    decay: Float[np.ndarray, ""]

    def __call__(self, count: Int[Array, ""] | int) -> Float[Array, ""]:
        """The rate of update number ``count``, from 0."""
        rising = 1 - count / jnp.maximum(self.warmup - 1, 1)
        falling = jnp.pi * jnp.minimum(count - self.warmup, self.decay) / self.decay
        after = self.peak * (0.5 * (1 + jnp.cos(falling)))
        return jnp.where(count < self.warmup, self.peak - self.climb * rising, after)


def learning_rate(config: ConfigDict, steps: int) -> LearningRate:
    """Learning rate by step; ``config`` is the optimizer section, ``steps`` the length of the run.

    Raises:
      ValueError: for an unknown ``config.decay``.
    """
    if config.decay not in ("constant", "cosine"):
        raise ValueError(f"optimizer.decay must be 'constant' or 'cosine', not {config.decay!r}")
    peak, warmup = config.learning_rate, config.warmup_steps
    climb = peak - peak / max(warmup, 1)
    decay = math.inf if config.decay == "constant" else max(steps - warmup, 1)
    return LearningRate(*map(np.float32, (peak, climb, warmup, decay)))


def create_optimizer(
    config: ConfigDict, rate: optax.Schedule, freeze: str = ""
) -> optax.GradientTransformation:
    """Adam (no weight decay, as published) or Muon; clips the global gradient norm first if asked.

    Muon (https://kellerjordan.github.io/posts/muon) orthogonalises the steps of matrices and of
    convolutions; other parameters have Adam with Nesterov's momentum, at the same learning rate.

    Args:
      config: the optimizer section.
      rate: the learning rate by update; inside a step, one that was given to it.
      freeze: parameters with this pattern in their names have no state and no update.

    Raises:
      ValueError: for an unknown ``config.name``.
    """
    name = config.get("name", "adam")
    if name not in NAMES:
        raise ValueError(f"optimizer.name must be 'adam' or 'muon', not {name!r}")
    if name == "adam":
        optimizer = optax.adam(rate, b1=config.b1, b2=config.b2)
    else:
        optimizer = muon(
            rate,
            adam_b1=config.b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=matrix_axes,
            consistent_rms=_UPDATE_RMS,
        )
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    if not freeze:
        return optimizer

    def labels(params: Any) -> Any:
        frozen = frozen_leaves(params, freeze)
        return jax.tree.map(lambda is_frozen: "frozen" if is_frozen else "trained", frozen)

    return optax.multi_transform({"frozen": optax.set_to_zero(), "trained": optimizer}, labels)


def with_moments(opt_state: Any, count: int, first: Any, second: Any) -> Any:
    """The state of an optimizer with Adam's moments, and the number of updates they are of, given.

    The count of the learning rate's schedule stays as it is.

    Args:
      opt_state: of ``create_optimizer``, by Adam and with nothing frozen.
      count: updates that the moments are of; corrects their bias.
      first: moving averages of the gradients, as the parameters are.
      second: of their squares.
    """

    def change(state: Any) -> Any:
        if not isinstance(state, optax.ScaleByAdamState):
            return state
        return optax.ScaleByAdamState(jnp.asarray(count, state.count.dtype), first, second)

    return jax.tree.map(change, opt_state, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))


def matrix_axes(params: Any) -> Any:
    """Axes along which each kernel is a matrix; None for what is none, or a small one.

    Three axes are the stacked matrices of a scan, four the kernel of a convolution [h, w, in, out].
    """
    axes = {
        2: MuonDimensionNumbers((0,), (1,)),
        3: MuonDimensionNumbers((1,), (2,)),
        4: MuonDimensionNumbers((0, 1, 2), (3,)),
    }

    def of(path: tuple, value: Array) -> MuonDimensionNumbers | None:
        found = axes.get(value.ndim) if path[-1].key.endswith("kernel") else None
        if found is None:
            return None
        rows = math.prod(value.shape[axis] for axis in found.reduction_axis)
        columns = math.prod(value.shape[axis] for axis in found.output_axis)
        return found if min(rows, columns) >= _SMALLEST_SIDE else None

    return jax.tree_util.tree_map_with_path(of, params)
