"""Endless batches of layouts for training, with a place that can be saved."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gpstoken_jax.data.loader import Unreadable


class LayoutBatches:
    """Shuffled epochs of rows of arrays in memory, each row mirrored or not.

    Which rows come, in which order and which of them mirrored, is decided by the seed and the
    place alone: not by the number of processes. Process p of P takes every P-th row.

    Args:
      rows: arrays [N, ...] by name.
      mirrored: the same of the images mirrored left to right; None never mirrors.
      batch_size: rows a batch in this process; may exceed N.
      seed: decides order and mirroring.
      process_index: which of the processes this is.
      process_count: how many there are.
    """

    def __init__(
        self,
        rows: Mapping[str, np.ndarray],
        mirrored: Mapping[str, np.ndarray] | None,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        self.unreadable = Unreadable()
        self._rows, self._mirrored = dict(rows), dict(mirrored or rows)
        self._count = len(next(iter(rows.values())))
        self._share = slice(process_index, None, process_count)
        self._global_batch = batch_size * process_count
        self._seed = seed
        self._position = 0
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        places = range(self._position, self._position + self._global_batch)[self._share]
        self._position += self._global_batch
        index, flip = map(np.array, zip(*map(self._at, places), strict=True))
        return {
            name: np.where(
                flip.reshape(-1, *[1] * (array.ndim - 1)), self._mirrored[name][index], array[index]
            )
            for name, array in self._rows.items()
        }

    def _at(self, place: int) -> tuple[int, bool]:
        """Which row comes at a place of the endless sequence, and whether it is mirrored."""
        epoch, place = divmod(place, self._count)
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            order = rng.permutation(self._count)
            self._epoch = epoch, order, rng.random(self._count) < 0.5
        _, order, flip = self._epoch
        return order[place], flip[place]

    def get_state(self) -> dict[str, Any]:
        """The place of the next batch, as JSON values."""
        return {"position": self._position}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where ``get_state`` was called."""
        self._position = state["position"]

    def close(self) -> None:
        """There is nothing to let go of."""
