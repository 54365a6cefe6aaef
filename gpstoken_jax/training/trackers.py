"""Experiment trackers that a run can log to besides its own files: Weights & Biases and MLflow.

Nothing here may hold up or stop a training: each tracker works in a thread of its own, off a queue;
what it cannot take is counted. A resumed run goes on with the run that its tracker knows.
"""

import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from absl import logging
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from gpstoken_jax.runtime.files import write_file
from gpstoken_jax.runtime.run_directory import RunDirectory

PROJECT = "gpstoken"
_WAITING = 1000  # entries that a slow tracker may be behind
_LAST_SECONDS = 300.0  # for what is left at the end, such as a checkpoint on its way


class Tracker(Protocol):
    """All that a run tells a tracker; any of it may raise anything."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a value, finite, a name."""

    def image(self, step: int, path: Path) -> None:
        """Logs a picture file."""

    def checkpoint(self, run: RunDirectory, step: int) -> None:
        """Keeps a checkpoint, with its config: a run's directory, as every program reads it."""

    def close(self) -> None:
        """Says that the run has ended, or stops here."""


class _Wandb:
    """Weights & Biases: offline in the run's directory unless ``WANDB_MODE`` says otherwise."""

    def __init__(self, run: RunDirectory, config: ConfigDict):
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=_run_id(run.root / "wandb", _new_wandb_id),
            resume="allow",
            dir=str(run.root),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=config.to_dict(),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def image(self, step: int, path: Path) -> None:
        self._run.log({"samples": self._wandb.Image(str(path))}, step=step)

    def checkpoint(self, run: RunDirectory, step: int) -> None:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", run.name)[:100]  # what an artifact may be called
        artifact = self._wandb.Artifact(f"{name}-checkpoint", "model")
        artifact.add_file(str(run.config))
        artifact.add_dir(str(run.checkpoints / str(step)), f"{run.checkpoints.name}/{step}")
        self._run.log_artifact(artifact)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """MLflow: a database in the run's directory unless ``MLFLOW_TRACKING_URI`` names another."""

    def __init__(self, run: RunDirectory, config: ConfigDict):
        from mlflow import MlflowClient, entities

        self._metric, own = entities.Metric, run.root.absolute() / "mlflow"
        own.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(uri or f"sqlite:///{own / 'mlflow.db'}")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = None if uri else (own / "artifacts").as_uri()
        identity = experiment.experiment_id if experiment else None
        identity = identity or self._client.create_experiment(name, artifact_location=place)

        def create() -> str:
            created = self._client.create_run(identity, run_name=run.name).info.run_id
            fields = flatten_dict(config.to_dict(), sep=".").items()
            params = [entities.Param(name, str(value)[:500]) for name, value in fields]
            for start in range(0, len(params), 100):  # as many as a call may have
                self._client.log_batch(created, params=params[start : start + 100])
            return created

        self._run = _run_id(own, create)
        self._client.update_run(self._run, status="RUNNING")
        self._client.log_dict(self._run, config.to_dict(), "config.json")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def image(self, step: int, path: Path) -> None:
        self._client.log_artifact(self._run, str(path), "samples")

    def checkpoint(self, run: RunDirectory, step: int) -> None:
        place = f"checkpoint/{run.checkpoints.name}/{step}"
        self._client.log_artifact(self._run, str(run.config), "checkpoint")
        self._client.log_artifacts(self._run, str(run.checkpoints / str(step)), place)

    def close(self) -> None:
        self._client.set_terminated(self._run)


TRACKERS: dict[str, Callable[[RunDirectory, ConfigDict], Tracker]] = {
    "wandb": _Wandb,
    "mlflow": _Mlflow,
}


class Queued:
    """A tracker behind a queue: its calls return at once, and never raise.

    Attributes:
      lost: calls that did not arrive.
    """

    def __init__(self, name: str, create: Callable[[], Tracker]):
        self.lost = 0
        self._name, self._create = name, create
        self._calls: queue.Queue[tuple[str, tuple] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __call__(self, method: str, *arguments: Any) -> None:
        """Calls a method of ``Tracker`` some time soon."""
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self._lose("it is too slow")

    def close(self, seconds: float = _LAST_SECONDS) -> None:
        """Waits until all has arrived, but not for ever."""
        self("close")
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._lose(f"it has not finished in {seconds:.0f} s")

    def _work(self) -> None:
        tracker = None
        try:
            tracker = self._create()
        except Exception as error:  # whatever a library, its server or the network does
            self._lose(f"{type(error).__name__}: {error}")
        while True:
            method, arguments = self._calls.get()
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:
                self._lose(f"{type(error).__name__}: {error}")
            if method == "close":
                return

    def _lose(self, reason: str) -> None:
        if not self.lost:
            logging.warning("the log goes on without %s: %s", self._name, reason)
        self.lost += 1


def _new_wandb_id() -> str:
    """A new name, or the one that an agent of a sweep has given."""
    return os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:12]


def _run_id(directory: Path, create: Callable[[], str]) -> str:
    """The run's name with a tracker, kept in a file so that a resumed run finds it again."""
    file = directory / "run_id"
    if file.is_file():
        return file.read_text().strip()
    directory.mkdir(parents=True, exist_ok=True)
    created = create()
    write_file(file, created + "\n")
    return created
