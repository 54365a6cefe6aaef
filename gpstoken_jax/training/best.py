"""The best checkpoint of a run, kept beside the newest ones.

Its directory is a run's directory of its own: every program takes ``runs/NAME/best``.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from gpstoken_jax.runtime import processes
from gpstoken_jax.runtime.checkpoint import (
    CheckpointError,
    Checkpoints,
    latest_step,
    read_progress,
    steps,
)
from gpstoken_jax.runtime.run_directory import RunDirectory, write_config


class BestCheckpoint:
    """Keeps one checkpoint: that of the evaluation with the best figure so far.

    Attributes:
      figure: the best so far; NaN if there is none.
    """

    def __init__(self, run: RunDirectory, config: ConfigDict, *, step: int = 0):
        """Opens a run's best checkpoint.

        Args:
          run: its directory.
          config: ``config.checkpoint.best_metric`` names the figure; without, nothing is kept.
          step: where the training goes on. A best checkpoint of a later step belongs to a branch
            that the run has left, and is deleted.
        """
        self._run, self._config = run, config
        self._metric = config.checkpoint.get("best_metric", "")
        self._lowest = config.checkpoint.get("best_is_lowest", False)
        self._checkpoints, self.figure = None, math.nan
        processes.from_first(lambda: _drop_later(run.checkpoints, step))
        if self._metric:
            self._checkpoints = Checkpoints(run.checkpoints, keep=1)
            self.figure = processes.from_first(lambda: _saved_figure(run.checkpoints, self._metric))

    def consider(
        self,
        step: int,
        figures: Mapping[str, float],
        trees: Callable[[], Mapping[str, Any]],
        place: Callable[[], Mapping[str, Any]],
    ) -> bool:
        """Saves if the figure is the best; says whether it is.

        Raises:
          ValueError: if the evaluation has figures, but not this one.
        """
        if not self._metric or not figures:
            return False
        if self._metric not in figures:
            raise ValueError(
                f"checkpoint.best_metric={self._metric!r} is none of {sorted(figures)}"
            )
        figure = figures[self._metric]
        better = figure < self.figure if self._lowest else figure > self.figure
        if not math.isfinite(figure) or not (better or math.isnan(self.figure)):
            return False
        self.figure = figure
        directory = self._run.checkpoints
        if not processes.from_first(lambda: step in steps(directory)):  # since before a restart
            write_config(self._run, self._config)
            self._checkpoints.save(step, trees(), {**place(), "figures": dict(figures)})
        return True

    def close(self) -> None:
        """Waits for a write under way."""
        if self._checkpoints:
            self._checkpoints.close()


def _drop_later(directory: Path, step: int) -> None:
    for later in sorted(s for s in steps(directory) if s > step):
        print(f"dropping {directory / str(later)}: the run goes on from step {step}")
        shutil.rmtree(directory / str(later))


def _saved_figure(directory: Path, metric: str) -> float:
    if not steps(directory):
        return math.nan
    try:
        progress = read_progress(directory, latest_step(directory))
    except CheckpointError as error:
        logging.warning("%s; the next evaluation counts as the best", error)
        return math.nan
    return progress["figures"].get(metric, math.nan)
