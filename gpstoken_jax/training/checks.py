"""Checks before the first step of faults that would else show after a day."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from gpstoken_jax.runtime import processes, storage
from gpstoken_jax.training.task import Task


def is_due(step: int, every: int, last: bool = False) -> bool:
    """Tells whether something that is done every so many steps, 0 for never, is done now.

    Args:
      step: the number of the step, from 1.
      every: the interval.
      last: whether it is the last step, at which everything is done that is done at all.
    """
    return every > 0 and (step % every == 0 or last)


def evaluation_interval(config: ConfigDict) -> int:
    """Steps between evaluations; those between checkpoints where the config does not say."""
    return config.get("eval", {}).get("every_steps", config.checkpoint.every_steps)


def check_evaluation(task: Task) -> bool:
    """Checks that what is to be evaluated is there, and that the best metric is one of it.

    Returns:
      Whether anything is held out.

    Raises:
      ValueError: if the split is not there, or the metric is none that an evaluation has.
    """
    config = task.config
    if not evaluation_interval(config):
        return False
    known = task.held_out_metrics()
    best = config.checkpoint.get("best_metric", "")
    if known and best and best not in known:
        raise ValueError(
            f"checkpoint.best_metric={best!r} is none of {', '.join(known)}; empty keeps no best"
        )
    if not known:
        print("nothing is held out: there is no evaluation and no best checkpoint")
    return bool(known)


def check_free_space(directory: Path, trees: Any) -> None:
    """Checks that there is room for a checkpoint.

    Raises:
      StorageError: with both figures.
    """
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
    what, remedy = "a checkpoint takes", "give another --workdir"
    processes.from_first(lambda: storage.check_free_space(directory, needed, what, remedy))
