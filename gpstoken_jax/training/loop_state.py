"""State of a run beside its arrays: the JSON part of a checkpoint."""

from collections.abc import Mapping
from typing import Any

from gpstoken_jax.runtime import processes
from gpstoken_jax.training.non_finite import SkippedSteps
from gpstoken_jax.training.step_timer import StepTimer
from gpstoken_jax.training.task import Batches


def get_loop_state(
    batches: Batches, timer: StepTimer, skipped: SkippedSteps, latest: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON part of a checkpoint, of all processes together; to be called in each.

    latest: the last value of each metric: with two networks that take turns, a line of the log has
      some from the step before.
    """
    data = batches.get_state()
    data["unreadable_count"] = processes.total(batches.unreadable.count)
    return {
        "data": data,
        "train_seconds": timer.train_seconds,
        "skipped": skipped.get_state(),
        "metrics": {name: float(value) for name, value in latest.items()},
    }


def restore_loop_state(
    state: Mapping[str, Any], batches: Batches, timer: StepTimer, skipped: SkippedSteps
) -> dict[str, float]:
    """Goes on from `get_loop_state`; returns the latest metrics. Converted weights have no data."""
    if state["data"]:
        data = dict(state["data"])
        if not processes.is_primary_process():  # process 0 counts for those before
            data |= {"unreadable_count": 0, "unreadable": {}}
        batches.set_state(data)
    timer.train_seconds = state["train_seconds"]
    if "skipped" in state:
        skipped.set_state(state["skipped"])
    return dict(state.get("metrics", {}))
