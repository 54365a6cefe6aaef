"""Endless batches of rows that lie in memory or can be read at random, with a savable place."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gpstoken_jax.data.loader import Unreadable


class ShuffledBatches:
    """Shuffled epochs of numbered rows; a subclass says what a row is.

    The order is decided by the seed and the place alone, not by the number of processes: process p
    of P takes places p, p + P, ... of an endless sequence of epochs.

    Args:
      count: rows an epoch.
      batch_size: rows a batch in this process; may exceed their number.
      seed: decides the order.
      process_index: which of the processes this is.
      process_count: how many there are.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ):
        self.unreadable = Unreadable()
        self._count = count
        self._share = slice(process_index, None, process_count)
        self._global_batch = batch_size * process_count
        self._seed = seed
        self._position = 0
        self._epoch: tuple[int, tuple[np.ndarray, ...]] | None = None

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draws an epoch: for each place the row, and whatever else is random about it."""
        return (rng.permutation(self._count),)

    def read(self, *drawn: np.ndarray) -> dict[str, np.ndarray]:
        """Reads a batch, of what ``draw`` drew for its places."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        places = range(self._position, self._position + self._global_batch)[self._share]
        self._position += self._global_batch
        return self.read(*map(np.array, zip(*map(self._at, places), strict=True)))

    def _at(self, place: int) -> list[Any]:
        """The example drawn for a position of the endless sequence."""
        epoch, place = divmod(place, self._count)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self.draw(np.random.default_rng([self._seed, epoch]))
        return [column[place] for column in self._epoch[1]]

    def get_state(self) -> dict[str, Any]:
        """The place of the next batch, as JSON values."""
        return {"position": self._position}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where ``get_state`` was called."""
        self._position = state["position"]

    def close(self) -> None:
        """There is nothing to let go of."""
