"""Endless batches of layouts for training, with a place that can be saved."""

from collections.abc import Mapping

import numpy as np

from gpstoken_jax.data.shuffled import ShuffledBatches


class LayoutBatches(ShuffledBatches):
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
        count = len(next(iter(rows.values())))
        super().__init__(count, batch_size, seed, process_index, process_count)
        self._rows, self._mirrored = dict(rows), dict(mirrored or rows)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draws an order, and which rows are mirrored."""
        return rng.permutation(self._count), rng.random(self._count) < 0.5

    def read(self, index: np.ndarray, flip: np.ndarray) -> dict[str, np.ndarray]:
        """The rows at ``index`` [B], mirrored where ``flip`` [B] says so."""
        return {
            name: np.where(
                flip.reshape(-1, *[1] * (array.ndim - 1)), self._mirrored[name][index], array[index]
            )
            for name, array in self._rows.items()
        }
