"""Batches on the devices: the next one is fetched and sent while the devices work on this one."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from gpstoken_jax.training.step import AXIS, Batch, shard
from gpstoken_jax.training.step_timer import StepTimer
from gpstoken_jax.training.task import Batches


@dataclass(frozen=True)
class _Unreadable:
    count: int


class DevicePrefetcher:
    """``Batches`` in the form that a step takes, one ahead.

    ``get_state`` and ``unreadable`` are of the last batch that was taken, not of the one ahead.
    """

    def __init__(self, batches: Batches, timer: StepTimer):
        self._batches = batches
        self._timer = timer
        self._ahead: Batch | Exception | None = None
        self._note_place()
        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def __iter__(self) -> "DevicePrefetcher":
        return self

    def __next__(self) -> Batch:
        """The next batch, [devices, b, ...]; raises what reading it raised."""
        if self._ahead is None:
            self.fetch()
        batch, self._ahead = self._ahead, None
        if isinstance(batch, Exception):
            raise batch
        self._note_place()
        return batch

    def fetch(self) -> None:
        """Reads the next batch and sends it; an error is kept for the one who takes it."""
        if self._ahead is not None:
            return
        try:
            with self._timer.waiting("data"):
                batch = shard(next(self._batches), jax.local_device_count())
                self._ahead = jax.device_put(batch, self._sharding)
        except Exception as error:
            self._ahead = error

    def get_state(self) -> dict[str, Any]:
        """Position of the next batch, as JSON values."""
        return dict(self._place)

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a position of `get_state`."""
        self._ahead = None
        self._batches.set_state(state)
        self._note_place()

    def _note_place(self) -> None:
        self._place = self._batches.get_state()
        self.unreadable = _Unreadable(self._batches.unreadable.count)

    def close(self) -> None:
        """Stops reading."""
        self._batches.close()
