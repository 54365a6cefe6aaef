"""Metrics as JSON lines for scripts, as TensorBoard events and pictures for people."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from gpstoken_jax.runtime import processes
from gpstoken_jax.runtime.run_directory import RunDirectory

# What a line tells of the machine and the moment; all else is the same in every run of a config.
MEASURED = frozenset(
    {"seconds", "images_per_second", "seconds_per_step", "train_seconds", "eta_seconds"}
    | {"data_wait", "device_wait", "tflops", "mfu", "host_memory_gb", "device_memory_gb"}
)


class MetricLog:
    """Appends to a run's metrics.jsonl and TensorBoard events.

    A run that resumes at an earlier step than it had logged continues there: later lines, which it
    will write again, are dropped. Of several processes only the first writes.
    """

    def __init__(self, run: RunDirectory, *, step: int):
        self._lines = self._events = None
        if not processes.is_first():
            return
        self._samples = run.samples
        _drop_lines_after(run.metrics, step)
        self._lines = run.metrics.open("a")
        self._events = SummaryWriter(str(run.tensorboard), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one value a name; in JSON, which has no others, null if it is not finite."""
        if self._lines is None:
            return
        values = {name: float(value) for name, value in values.items()}
        line = {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._lines.write(json.dumps({"step": step, **line}) + "\n")
        self._lines.flush()
        for name, value in line.items():
            if value is not None:
                self._events.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a uint8 picture [H, W, 3] to TensorBoard and to the run's samples/STEP.png."""
        if self._events is None:
            return
        self._samples.mkdir(exist_ok=True)
        Image.fromarray(image).save(self._samples / f"{step}.png")
        self._events.add_image(name, image, step, dataformats="HWC")
        self._events.flush()

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._events.close()


def _drop_lines_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    os.replace(temporary, path)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # the half-written line of a killed process
