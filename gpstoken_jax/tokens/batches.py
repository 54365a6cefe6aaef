"""Endless batches of tokens for training, with a place that can be saved."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from gpstoken_jax.data.shuffled import ShuffledBatches
from gpstoken_jax.tokens.dataset import TokenDataset

ROWS = ("geometry", "initial_geometry", "features", "label")


class TokenBatches(ShuffledBatches):
    """Shuffled epochs of some images of a directory of tokens.

    Args:
      tokens: the directory.
      indices: [N] which of its entries; or [N, K], of each K entries one is drawn in each epoch:
        an image or its mirror image.
      batch_size: images a batch in this process; may exceed their number.
      seed: decides the order.
      process_index: which of the processes this is.
      process_count: how many there are.
      cache_mb: tokens up to this size are read once and kept; others when they are needed.
    """

    def __init__(
        self,
        tokens: TokenDataset,
        indices: Sequence[int] | Int[np.ndarray, "n k"],
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        cache_mb: float = 1024,
    ):
        tokens.check_initial_geometry()
        super().__init__(len(indices), batch_size, seed, process_index, process_count)
        self._tokens, self._indices = tokens, np.asarray(indices).reshape(len(indices), -1)
        self._kept = None
        if _size_mb(tokens) <= cache_mb:
            self._kept = read_rows(tokens, self._indices.ravel())

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The order of an epoch, and which of the entries of each image."""
        order = rng.permutation(self._count)
        return order, rng.integers(self._indices.shape[1], size=self._count)

    def read(self, numbers: np.ndarray, choices: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of the chosen entries of the images of these numbers."""
        if self._kept is not None:
            places = numbers * self._indices.shape[1] + choices
            return {name: rows[places] for name, rows in self._kept.items()}
        return read_rows(self._tokens, self._indices[numbers, choices])


def read_rows(tokens: TokenDataset, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """Geometry, initial geometry, features and label of some images, in that order."""
    tokens.check_initial_geometry()
    examples = [tokens[int(index)] for index in indices]
    return {name: np.stack([getattr(example, name) for example in examples]) for name in ROWS}


def _size_mb(tokens: TokenDataset) -> float:
    values = 0 if not len(tokens) else tokens[0].tokens.size + tokens[0].initial_geometry.size
    return len(tokens) * values * 4 / 2**20
