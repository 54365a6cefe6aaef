"""Endless batches of tokens for training, with a place that can be saved."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpstoken_jax.data.loader import Unreadable
from gpstoken_jax.tokens.dataset import TokenDataset

ROWS = ("geometry", "initial_geometry", "features", "label")


class TokenBatches:
    """Shuffled epochs of some images of a directory of tokens.

    The order is decided by the seed and the place alone, not by the number of processes: process p
    of P takes places p, p + P, ... of an endless sequence of epochs.

    Args:
      tokens: the directory.
      indices: which of its images.
      batch_size: images a batch in this process; may exceed their number.
      seed: decides the order.
      process_index: which of the processes this is.
      process_count: how many there are.
      cache_mb: tokens up to this size are read once and kept; others when they are needed.
    """

    def __init__(
        self,
        tokens: TokenDataset,
        indices: Sequence[int],
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        cache_mb: float = 1024,
    ):
        self.unreadable = Unreadable()
        self._tokens, self._indices = tokens, np.asarray(indices)
        self._share = slice(process_index, None, process_count)
        self._global_batch = batch_size * process_count
        self._seed = seed
        self._position = 0
        self._epoch: tuple[int, np.ndarray] | None = None
        self._kept = read_rows(tokens, self._indices) if _size_mb(tokens) <= cache_mb else None

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        places = range(self._position, self._position + self._global_batch)[self._share]
        self._position += self._global_batch
        numbers = np.array([self._at(place) for place in places])
        if self._kept is not None:
            return {name: rows[numbers] for name, rows in self._kept.items()}
        return read_rows(self._tokens, self._indices[numbers])

    def _at(self, place: int) -> int:
        """Which of the images comes at a place of the endless sequence."""
        epoch, place = divmod(place, len(self._indices))
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._epoch = epoch, rng.permutation(len(self._indices))
        return self._epoch[1][place]

    def get_state(self) -> dict[str, Any]:
        """The place of the next batch, as JSON values."""
        return {"position": self._position}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where ``get_state`` was called."""
        self._position = state["position"]

    def close(self) -> None:
        """There is nothing to let go of."""


def read_rows(tokens: TokenDataset, indices: Sequence[int]) -> dict[str, np.ndarray]:
    """Geometry, initial geometry, features and label of some images, in that order."""
    examples = [tokens[int(index)] for index in indices]
    return {name: np.stack([getattr(example, name) for example in examples]) for name in ROWS}


def _size_mb(tokens: TokenDataset) -> float:
    values = 0 if not len(tokens) else tokens[0].tokens.size + tokens[0].initial_geometry.size
    return len(tokens) * values * 4 / 2**20
