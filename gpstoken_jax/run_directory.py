"""A run's directory: config, checkpoints, metrics; written by train.py, read by every program.

config.json     the whole config
checkpoints/    one directory a step
metrics.jsonl   one JSON object a logged step
tensorboard/    the same as scalars, and pictures
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from gpstoken_jax import checkpoint
from gpstoken_jax.checkpoint import CheckpointError
from gpstoken_jax.model import GPSToken, init_params


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside a run's directory."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"


@dataclass(frozen=True)
class Tokenizer:
    """A model with its weights, as a checkpoint has them.

    Attributes:
      model: the Flax module.
      params: what its methods take, ``{"params": ...}``.
      config: the whole config of the run.
      step: training step of the weights.
    """

    model: GPSToken
    params: Any
    config: ConfigDict
    step: int


def open_run(root: str | Path, config: ConfigDict) -> RunDirectory:
    """Makes a run's directory, or opens it again with a config that fits.

    Raises:
      CheckpointError: if the directory has a run of another model; names the first difference.
    """
    run = RunDirectory(Path(root))
    run.root.mkdir(parents=True, exist_ok=True)
    if run.config.exists():
        _check_same_model(run, read_config(run), config)
    write_config(run, config)
    return run


def write_config(run: RunDirectory, config: ConfigDict) -> None:
    """Writes config.json, whole or not at all."""
    temporary = run.config.with_suffix(".tmp")
    temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    os.replace(temporary, run.config)


def read_config(run: RunDirectory) -> ConfigDict:
    """Reads config.json.

    Raises:
      CheckpointError: if it is missing or not JSON.
    """
    try:
        values = json.loads(run.config.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{run.root} has no readable config.json: {error}") from error
    return ConfigDict(_with_tuples(values))


def task_name(config: ConfigDict) -> str:
    """What a config trains; configs written before there was a choice train a tokenizer."""
    return config.get("task", "tokenizer")


def load_tokenizer(
    root: str | Path, *, step: int | None = None, weights: str = "ema_params"
) -> Tokenizer:
    """Loads a trained (or converted) tokenizer.

    Args:
      root: the run's directory.
      step: which checkpoint; the newest if None.
      weights: ``"ema_params"`` or ``"params"``.

    Raises:
      CheckpointError: if something is missing or does not fit together; says what.
    """
    run = RunDirectory(Path(root))
    config = read_config(run)
    if task_name(config) != "tokenizer":
        raise CheckpointError(f"{run.root} has no tokenizer but a run of task={config.task!r}")
    model = GPSToken(config.model)
    template = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    step = checkpoint.latest_step(run.checkpoints) if step is None else step
    params = checkpoint.load_tree(run.checkpoints, weights, template, step)
    return Tokenizer(model, params, config, step)


def _with_tuples(value: Any) -> Any:
    """JSON has no tuples; configs have nothing else."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _check_same_model(run: RunDirectory, old: ConfigDict, new: ConfigDict) -> None:
    difference = _first_difference(task_name(old), task_name(new), "task")
    difference = difference or _first_difference(old.model.to_dict(), new.model.to_dict(), "model")
    if difference:
        raise CheckpointError(
            f"{run.root} has a run of another model: {difference}. "
            "Use that config, or another --workdir."
        )


def _first_difference(old: Any, new: Any, name: str) -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        parts = (
            _first_difference(old.get(key), new.get(key), f"{name}.{key}")
            for key in sorted(old.keys() | new.keys())
        )
        return next(filter(None, parts), None)
    return None if old == new else f"{name} was {old} and is now {new}"
