"""A profile of a few steps, for TensorBoard or XProf."""

from pathlib import Path
from typing import Any

import jax

AFTER, STEPS = 5, 5  # steps left out, in which programs are compiled; steps recorded


class Profile:
    """Records the steps ``AFTER`` to ``AFTER + STEPS`` after a start."""

    def __init__(self, directory: Path | None, first_step: int):
        """Nothing is recorded if ``directory`` is None."""
        self._directory = directory
        self._start, self._stop = first_step + AFTER, first_step + AFTER + STEPS
        self._recording = False

    def follow(self, step: int, outputs: Any) -> None:
        """To be called when a step has begun, with anything that it returns."""
        if self._directory is None:
            return
        if step == self._start:
            jax.block_until_ready(outputs)
            jax.profiler.start_trace(str(self._directory))
            self._recording = True
        elif step == self._stop:
            jax.block_until_ready(outputs)
            self.close()
            print(f"profile of steps {self._start + 1} to {step}: {self._directory}", flush=True)

    def close(self) -> None:
        """Writes what was recorded, if the run ends before its time."""
        if self._recording:
            jax.profiler.stop_trace()
            self._recording = False
