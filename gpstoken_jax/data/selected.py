"""Batches of some images of a source, for measuring."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpstoken_jax import data
from gpstoken_jax.data.loader import Unreadable
from gpstoken_jax.data.pairs import check_batch


class SourceBatches:
    """Batches of some images of a source; a batch's ``position`` is that in the source."""

    def __init__(
        self,
        source: data.ImageSource,
        reading: Any,
        size: tuple[int, int],
        batch_size: int,
        positions: Sequence[int],
    ):
        self._positions, self._size = positions, size
        self._batches = data.eval_batches(data.Subset(source, positions), reading, size, batch_size)

    @property
    def unreadable(self) -> Unreadable:
        """Images that could not be read so far."""
        return self._batches.unreadable

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._batches:
            places = [self._positions[i] if i >= 0 else -1 for i in batch["position"].tolist()]
            yield batch | {"position": np.array(places, np.int64)}


class SampleBatches(SourceBatches):
    """The same of images that stand for themselves, as ``given``.

    Iterating raises ValueError at one that cannot be read, as it would be missing, and unless
    ``cut`` is set at one of another size, which is not brought to the others' then.
    """

    def __init__(self, *arguments: Any, cut: bool = False):
        """See ``SourceBatches``."""
        super().__init__(*arguments)
        self._cut = cut

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in super().__iter__():
            size = None if self._cut else self._size
            check_batch(batch, self.unreadable, size, "the first: generated images have one")
            yield batch | {"given": batch["image"]}
