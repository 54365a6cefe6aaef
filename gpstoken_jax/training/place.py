"""State of a run beside its arrays: the JSON part of a checkpoint."""

from collections.abc import Mapping
from typing import Any

from gpstoken_jax.runtime import processes
from gpstoken_jax.training.chronometer import Chronometer
from gpstoken_jax.training.non_finite import SkippedSteps
from gpstoken_jax.training.task import Batches


def get_place(
    batches: Batches, chronometer: Chronometer, skipped: SkippedSteps, latest: Mapping[str, Any]
) -> dict[str, Any]:
    """The place of all processes together; to be called in each.

    latest: the last value of each metric: with two networks that take turns, a line of the log has
      some from the step before.
    """
    data = batches.get_state()
    data["unreadable_count"] = processes.total(batches.unreadable.count)
    return {
        "data": data,
        "train_seconds": chronometer.train_seconds,
        "skipped": skipped.get_state(),
        "metrics": {name: float(value) for name, value in latest.items()},
    }


def set_place(
    place: Mapping[str, Any], batches: Batches, chronometer: Chronometer, skipped: SkippedSteps
) -> dict[str, float]:
    """Goes there and returns the latest metrics. Converted weights have no place in the data."""
    if place["data"]:
        data = dict(place["data"])
        if not processes.is_first():  # process 0 counts for those before
            data |= {"unreadable_count": 0, "unreadable": {}}
        batches.set_state(data)
    chronometer.train_seconds = place["train_seconds"]
    if "skipped" in place:
        skipped.set_state(place["skipped"])
    return dict(place.get("metrics", {}))
