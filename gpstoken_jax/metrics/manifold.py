"""Precision and recall of generated images, in the features of a network.

Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models":
a set of images covers all that is as near to one of its features as that one's k-th neighbour in
the set. Precision is the share of generated features that the real ones cover, recall the share of
real features that the generated ones cover.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

NEIGHBOURS = 3
_ROWS = 1024  # of a block of distances


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1."""

    precision: float
    recall: float


def precision_recall(
    real: Float[np.ndarray, "n d"], made: Float[np.ndarray, "m d"], neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """Measures precision and recall; distances in float32, N x M of them, a block at a time.

    Raises:
      ValueError: for sets of no more images than neighbours, of other numbers of features, or with
        features that are not finite.
    """
    if real.shape[1] != made.shape[1]:
        raise ValueError(f"{real.shape[1]} and {made.shape[1]} features cannot be compared")
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(
            f"precision and recall with {neighbours} neighbours need more images than that; there "
            f"are {len(real)} and {len(made)}"
        )
    if not (np.isfinite(real).all() and np.isfinite(made).all()):
        raise ValueError("features of an image are not finite; no distance is defined then")
    centre = real.mean(axis=0, dtype=np.float64)  # near the origin, squares lose fewer digits
    real, made = ((x - centre).astype(np.float32) for x in (real, made))
    return PrecisionRecall(
        precision=float(_covered(made, real, _radii(real, neighbours)).mean()),
        recall=float(_covered(real, made, _radii(made, neighbours)).mean()),
    )


def _radii(features: Float[np.ndarray, "n d"], neighbours: int) -> Float[np.ndarray, " n"]:
    """Squared distance of each feature to its k-th neighbour, itself not counted."""

    def nearest(rows: Float[Array, "r d"], columns: Float[Array, "n d"]) -> Float[Array, " r"]:
        distances = _squared_distances(rows, columns)
        return -jax.lax.top_k(-distances, neighbours + 1)[0][:, -1]

    return _by_rows(jax.jit(nearest), features, features)


def _covered(
    features: Float[np.ndarray, "n d"],
    centres: Float[np.ndarray, "m d"],
    radii: Float[np.ndarray, " m"],
) -> Bool[np.ndarray, " n"]:
    """Tells which features are within the radius of a centre."""

    @jax.jit
    def inside(rows: Float[Array, "r d"], columns: Float[Array, "m d"]) -> Bool[Array, " r"]:
        return (_squared_distances(rows, columns) <= radii).any(axis=1)

    return _by_rows(inside, features, centres)


def _squared_distances(a: Float[Array, "r d"], b: Float[Array, "m d"]) -> Float[Array, "r m"]:
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squares = (jnp.square(x).sum(axis=1) for x in (a, b))
    return jnp.maximum(jnp.add.outer(*squares) - 2 * product, 0)


def _by_rows(
    function: Callable[[Any, Any], Array], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """A function of blocks of rows, all of one shape, and all columns; results put together."""
    size = min(_ROWS, len(rows))
    columns = jnp.asarray(columns)
    parts = []
    for start in range(0, len(rows), size):
        start = min(start, len(rows) - size)  # the last block overlaps the one before
        parts.append((start, np.asarray(function(rows[start : start + size], columns))))
    result = np.zeros(len(rows), parts[0][1].dtype)
    for start, values in parts:
        result[start : start + size] = values
    return result
