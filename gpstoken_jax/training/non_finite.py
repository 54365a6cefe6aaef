"""Steps whose loss or gradient is not finite: skipped on the device, counted on the host.

The decision is taken inside the step, from values that are already averaged over all devices, so
that all of them take the same; nobody waits for it. The host looks at each step a little later.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float

from gpstoken_jax.runtime import processes

Metrics = Mapping[str, Float[Array, ""]]
LAG = 2  # steps between a step and the look at it; so many batches are kept


class NonFiniteError(FloatingPointError):
    """Too many steps in a row had a loss or gradient that is not finite."""


def update_if_finite(
    update: Callable[[Any, Any], Any], state: Any, grads: Any, metrics: Metrics
) -> tuple[Any, dict[str, Any]]:
    """Inside a step: updates the state if all metrics are finite, else only counts the step.

    A branch, as a choice between two whole states would keep both in memory.

    Args:
      update: from the state and the gradients to the next state, without a word to other devices.
      state: a ``flax.struct.dataclass`` with ``step``.
      grads: what ``update`` takes.
      metrics: the step's scalars, the same on all devices. They must hold the loss and the norm of
        every gradient: a gradient with a value that is not finite has no finite norm.

    Returns:
      The state, a step later, and the metrics with ``skipped``, 0 or 1.
    """
    finite = jnp.isfinite(jnp.stack([jnp.float32(value) for value in metrics.values()])).all()
    new = jax.lax.cond(finite, update, lambda state, _: state, state, grads)
    return new.replace(step=state.step + 1), {**metrics, "skipped": 1.0 - finite}


class SkippedSteps:
    """Counts the skipped steps of a run, ``LAG`` steps behind, and stops it after many in a row.

    Attributes:
      count: steps skipped so far.
      in_a_row: those just before the last step that was looked at.
    """

    def __init__(self, limit: int, directory: Path):
        """``limit`` in a row stop the run; the last batch is then saved in ``directory``."""
        self._limit = limit
        self._directory = directory
        self._waiting = deque()
        self.count = 0
        self.in_a_row = 0

    def follow(self, step: int, batch: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        """Takes note of a step just begun, and looks at an earlier one.

        Raises:
          NonFiniteError: with the step, the terms that were not finite and where the batch is.
        """
        self._waiting.append((step, batch, metrics))
        if len(self._waiting) > LAG:
            self._look(*self._waiting.popleft())

    def catch_up(self) -> None:
        """Looks at all steps so far; waits for the device. Raises as ``follow``."""
        while self._waiting:
            self._look(*self._waiting.popleft())

    def get_state(self) -> dict[str, int]:
        """Part of the checkpoint."""
        return {"count": self.count, "in_a_row": self.in_a_row}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Restores counts of `get_state`."""
        self.count, self.in_a_row = state["count"], state["in_a_row"]

    def _look(self, step: int, batch: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        if not float(metrics["skipped"]):
            self.in_a_row = 0
            return
        self.count += 1
        self.in_a_row += 1
        values = {name: float(value) for name, value in metrics.items() if name != "skipped"}
        terms = [f"{k} is {v}" for k, v in values.items() if not math.isfinite(v)]
        logging.warning("step %d is skipped: %s", step, ", ".join(terms))
        if self.in_a_row >= self._limit:
            path = self._save(step, batch, values)
            raise NonFiniteError(
                f"{self.in_a_row} steps in a row were not finite; in step {step} "
                f"{', '.join(terms)}; its batch is in {path}"
            )

    def _save(self, step: int, batch: Mapping[str, np.ndarray], values: dict) -> Path:
        """The batch of this process, as it went into the step, and the metrics."""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{step}_process_{jax.process_index()}.npz"
        np.savez_compressed(path, **batch)
        if processes.is_primary_process():
            values = {name: str(value) for name, value in values.items()}
            (self._directory / f"{step}.json").write_text(json.dumps(values, indent=2) + "\n")
        return path
