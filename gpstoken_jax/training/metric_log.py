"""Metrics as JSON lines for scripts, as TensorBoard events, pictures and trackers for people.

A log must never stop a training. What cannot be written, as on a full disk, is counted; the first
time there is a warning, and at the end it is said what the log lacks.
"""

import contextlib
import io
import math
import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from gpstoken_jax.runtime import processes
from gpstoken_jax.runtime.files import write_file
from gpstoken_jax.runtime.json_lines import CHECKSUM, read_line, seal_line
from gpstoken_jax.runtime.run_directory import RunDirectory
from gpstoken_jax.training.trackers import TRACKERS, Queued

TO = "tensorboard,jsonl"
# What a line tells of the machine and the moment; all else is the same in every run of a config.
MEASURED = frozenset(
    {"seconds", "images_per_second", "seconds_per_step", "train_seconds", "eta_seconds"}
    | {"data_wait", "device_wait", "tflops", "mfu", "host_memory_gb", "device_memory_gb"}
    | {CHECKSUM}
)


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of a metrics.jsonl; those that are not what was written are named and left out.

    Raises:
      OSError: if it cannot be read.
    """
    return [values for _, values in _whole_lines(path)]


def read_curves(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of every figure of a metrics.jsonl; those not finite are left out.

    Raises:
      OSError: if it cannot be read.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for values in read_metrics(path):
        for name, value in values.items():
            if value is not None:
                points.setdefault(name, []).append((values["step"], value))
    return {name: tuple(np.array(pairs).T) for name, pairs in points.items()}


class MetricLog:
    """Appends to a run's metrics.jsonl, TensorBoard events, and to trackers.

    A run that resumes at an earlier step than it had logged continues there: later lines and
    pictures, which it will write again, are dropped. Of several processes only the first writes.

    Attributes:
      lacks: how often each part could not be written.
    """

    def __init__(self, run: RunDirectory, *, step: int, config: ConfigDict | None = None):
        """Opens what ``config.log.to`` names, at the step where the training goes on."""
        to = config.log.get("to", TO) if config else TO
        self._to = {name.strip() for name in to.split(",")}
        self.lacks: dict[str, int] = {}
        self._run = run
        self._trackers: dict[str, Queued] = {}
        self._lines: _Lines | None = None
        self._events: _Events | None = None
        self._writes = processes.is_primary_process()
        if not self._writes:
            return
        with self._part("metrics.jsonl"):
            self._lines = _Lines(run.metrics, step) if "jsonl" in self._to else None
        with self._part("tensorboard"):
            self._events = _Events(run.tensorboard, step) if "tensorboard" in self._to else None
        self._trackers = {
            name: Queued(name, partial(create, run, config))
            for name, create in TRACKERS.items()
            if name in self._to
        }
        with self._part("samples"):
            _drop_pictures_after(run.samples, step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs one value a name; in JSON, which has no others, null if it is not finite."""
        if not self._writes:
            return
        values = {name: float(value) for name, value in values.items()}
        line = {name: v if math.isfinite(v) else None for name, v in values.items()}
        finite = {name: value for name, value in line.items() if value is not None}
        if "jsonl" in self._to:
            with self._part("metrics.jsonl"):
                _there(self._lines).append({"step": step, **line})
        if "tensorboard" in self._to:
            with self._part("tensorboard"):
                for name, value in finite.items():
                    _there(self._events).add(step, summary.scalar(name, value))
        self._tell("scalars", step, finite)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a uint8 picture [H, W, 3] to the run's samples/STEP.png and to what shows it."""
        if not self._writes:
            return
        with self._part("samples"):
            self._run.samples.mkdir(exist_ok=True)
            png, path = io.BytesIO(), self._run.samples / f"{step}.png"
            Image.fromarray(image).save(png, "PNG")
            write_file(path, png.getvalue())
            self._tell("image", step, path)
        if "tensorboard" in self._to:
            with self._part("tensorboard"):
                _there(self._events).add(step, summary.image(name, image, dataformats="HWC"))

    def checkpoint(self, step: int) -> None:
        """Gives trackers the run's checkpoint of a step, which is written."""
        self._tell("checkpoint", self._run, step)

    def close(self) -> None:
        """Closes the files and says what is missing."""
        if self._events is not None:
            with self._part("tensorboard"):
                self._events.close()
        if self._trackers:
            print(f"handing over to {' and '.join(self._trackers)}", flush=True)
        for name, tracker in self._trackers.items():
            tracker.close()
            self.lacks |= {name: tracker.lost} if tracker.lost else {}
        for part, count in self.lacks.items():
            logging.warning("the log lacks %d entries of %s that were not written", count, part)

    def _tell(self, method: str, *arguments: Any) -> None:
        for tracker in self._trackers.values():
            tracker(method, *arguments)

    @contextlib.contextmanager
    def _part(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if name not in self.lacks:
                logging.warning("the log goes on without %s: %s", name, error)
            self.lacks[name] = self.lacks.get(name, 0) + 1


def _there(part):
    if part is None:
        raise OSError("it could not be opened")
    return part


class _Lines:
    """A file of JSON objects, one a line, each whole or not there."""

    def __init__(self, path: Path, step: int):
        with contextlib.suppress(FileNotFoundError):
            kept = [line for line, values in _whole_lines(path) if values["step"] <= step]
            data = b"".join(line + b"\n" for line in kept)
            if path.stat().st_size != len(data):
                write_file(path, data)
        self._path = path
        path.open("ab").close()

    def append(self, values: Mapping[str, float | None]) -> None:
        line = seal_line(values)
        with self._path.open("ab", buffering=0) as file:
            start = os.fstat(file.fileno()).st_size
            if file.write(line) != len(line):
                file.truncate(start)  # half a line is worse than none
                raise OSError("the disk is full")


class _Events:
    """TensorBoard events, written by this thread.

    tensorboardX's own thread waits for ever for a queue that is no longer emptied when its file
    cannot be written.

    After an error a new file is begun, as the end of the old one may not be readable.
    """

    def __init__(self, directory: Path, step: int):
        self._directory, self._writer, self._files = directory, None, 0
        if step:  # later steps of an earlier process are void
            log = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=step + 1, session_log=log))

    def add(self, step: int, values: summary.Summary) -> None:
        """Writes values of a step."""
        self._write(Event(wall_time=time.time(), step=step, summary=values))

    def close(self) -> None:
        """Closes the file; everything was written before."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, event: Event) -> None:
        try:
            if self._writer is None:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._files += 1
                suffix = f".{os.getpid()}.{self._files}"  # the name has whole seconds only
                self._writer = EventsWriter(str(self._directory / "events"), suffix)
            self._writer.write_event(event)
            self._writer.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self.close()
            self._writer = None
            raise


def _drop_pictures_after(directory: Path, step: int) -> None:
    if not directory.is_dir():
        return
    for path in sorted(directory.glob("*.png")):
        if path.stem.isdecimal() and int(path.stem) > step:
            print(f"dropping {path}: the run goes on from step {step}")
            path.unlink()


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, float | None]]]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        values = read_line(line, required=False) if number < len(lines) else None
        if values is not None and values.get("step") is not None:
            yield line, values
        elif line:  # perhaps half of one, of a killed process
            logging.warning("%s is damaged: line %d of it is left out", path, number)
