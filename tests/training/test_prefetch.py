"""Batches one ahead: their place is that of the one in use."""

import jax
import numpy as np
import pytest

from gpstoken_jax.training.prefetch import DevicePrefetcher
from gpstoken_jax.training.step_timer import StepTimer


class _Numbers:
    """Batches [n, n], from 1; reading the fourth fails."""

    def __init__(self):
        self.position = 0
        self.unreadable = self

    @property
    def count(self):
        return 10 * self.position

    def __next__(self):
        if self.position == 3:
            raise OSError("the disk is gone")
        self.position += 1
        return {"x": np.full((2,), self.position)}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


@pytest.fixture
def prefetcher():
    return DevicePrefetcher(_Numbers(), StepTimer(total_steps=10, batch_size=2))


def _value(batch):
    return int(batch["x"][0, 0])


def test_the_place_is_that_of_the_batch_taken(prefetcher):
    assert _value(next(prefetcher)) == 1
    prefetcher.fetch()
    assert prefetcher.get_state() == {"position": 1} and prefetcher.unreadable.count == 10
    assert _value(next(prefetcher)) == 2
    assert prefetcher.get_state() == {"position": 2} and prefetcher.unreadable.count == 20


def test_an_error_comes_when_its_batch_is_taken(prefetcher):
    for _ in range(2):
        next(prefetcher)
    prefetcher.fetch()
    assert _value(next(prefetcher)) == 3
    prefetcher.fetch()
    assert prefetcher.get_state() == {"position": 3}
    with pytest.raises(OSError, match="the disk is gone"):
        next(prefetcher)


def test_going_to_a_place_drops_what_was_ahead(prefetcher):
    next(prefetcher)
    prefetcher.fetch()
    prefetcher.set_state({"position": 0})
    assert _value(next(prefetcher)) == 1


def test_batches_are_on_the_devices(prefetcher):
    batch = next(prefetcher)["x"]
    assert isinstance(batch, jax.Array)
    assert batch.shape == (jax.local_device_count(), 2 // jax.local_device_count())
