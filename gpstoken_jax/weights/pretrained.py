"""Directories of weights for ``from_pretrained``: finding and writing them.

Such a directory holds ``model.safetensors`` (tensors by the names of the published code),
``config.json`` and a model card, ``README.md``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.runtime.buckets import is_url, local
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.files import write_file, write_json
from gpstoken_jax.runtime.run_directory import (
    RunDirectory,
    fetch_run,
    load_weights,
    read_config,
    task_name,
)
from gpstoken_jax.weights.bundled import WEIGHTS, bundled_names, find_bundled
from gpstoken_jax.weights.files import write_tensors
from gpstoken_jax.weights.hub import is_repository
from gpstoken_jax.weights.sources import Task, find_source
from gpstoken_jax.weights.table import WeightTable

WEIGHT_KINDS = ("ema_params", "params")
CONFIG, CARD = "config.json", "README.md"
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def find(source: str | Path, step: int | None = None) -> Path:
    """Finds a path, a place in a bucket, or weights that ship with this package by their name.

    The name of a repository of the hub comes back as it is, for ``find_source``. Of a run in a
    bucket one checkpoint is copied, of ``step`` or the newest.

    Raises:
      CheckpointError: if it can be none of them.
    """
    if not isinstance(source, str | Path) or not str(source):
        raise CheckpointError(f"a source of weights is a path or a name; got {source!r}")
    if is_url(source):
        return fetch_run(source, step)
    path = Path(source).expanduser()
    if path.exists() or is_repository(str(source)):
        return path
    if bundled := find_bundled(source):
        return bundled
    names = ", ".join(bundled_names()) or "none"
    raise CheckpointError(
        f"there is no {source}: no path, no repository of the hub (OWNER/NAME), and none of the "
        f"bundled weights ({names})"
    )


def is_work_directory(path: Path) -> bool:
    """Tells whether a path is a work directory of ``train.py``, or lies in its checkpoints."""
    return (path / "checkpoints").is_dir() or "checkpoints" in (path.name, path.parent.name)


def split_step(path: Path, step: int | None) -> tuple[Path, int | None]:
    """Splits RUN/checkpoints/STEP into the work directory and the step; RUN stays as it is.

    Raises:
      CheckpointError: if another step is asked for as well.
    """
    if (path / "checkpoints").is_dir():
        return path, step
    if path.name == "checkpoints":
        return path.parent, step
    if not path.name.isdigit() or step not in (None, int(path.name)):
        raise CheckpointError(f"{path} is not a checkpoint of step {step}")
    return path.parents[1], int(path.name)


def peek_config(source: str | Path, task: Task) -> ConfigDict | None:
    """Reads the config of a task's run without its weights; None where only loading can tell it."""
    root = find(source)
    root = split_step(root, None)[0] if is_work_directory(root) else root
    try:
        config = read_config(RunDirectory(root))
    except CheckpointError:
        return None
    return config if task_name(config) == task and "label_names" in config else None


def load(
    source: str | Path,
    task: Task,
    create_model: Callable[[ConfigDict], Any],
    init_params: Callable[[Any, PRNGKeyArray], Any],
    step: int | None,
    weights: str,
    **where: Any,
) -> tuple[Any, Any, ConfigDict, int]:
    """Loads a model, its parameters, its config and their step; see ``Tokenizer.from_pretrained``.

    Args:
      source: a work directory, or weights for ``find_source``.
      task: of the model.
      create_model: makes the model from the ``model`` section of a config.
      init_params: makes the model's parameters from it and a key; only their shapes are asked for.
      step: which checkpoint of a work directory; the newest that can be read if None.
      weights: ``"ema_params"`` or ``"params"``.
      where: for ``find_source``.
    """
    if weights not in WEIGHT_KINDS:
        raise CheckpointError(f"weights must be one of {', '.join(WEIGHT_KINDS)}, not {weights!r}")
    root = find(source, step)
    if is_work_directory(root):
        root, step = split_step(root, step)
        config, model, params, step = load_weights(
            root, task, create_model, init_params, step=step, weights=weights
        )
        return model, params, config, step
    found = find_source(root, task, **where)
    if step not in (None, found.step):
        have = "do not say of which step they are" if found.step is None else f"are of {found.step}"
        raise CheckpointError(
            f"{source}: step {step} is asked for, and these weights {have}: leave the step away"
        )
    return create_model(found.config.model), found.load(weights), found.config, found.step or 0


def save(
    directory: str | Path,
    config: ConfigDict,
    table: WeightTable,
    params: Any,
    step: int,
    dtype: str = "float32",
) -> None:
    """Writes weights, config and a model card.

    Args:
      directory: made if it is not there; files of these three names are replaced.
      config: the whole config of the run.
      table: of the model's parameters.
      params: ``{"params": ...}``.
      step: their training step.
      dtype: on disk, a key of ``DTYPES``.

    Raises:
      ValueError: for another dtype.
      OSError: if it cannot be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    directory = local(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = table.to_torch(jax.device_get(params))
    tensors = {key: tensor.astype(DTYPES[dtype]) for key, tensor in tensors.items()}
    write_tensors(directory / WEIGHTS, tensors, step=step)
    write_json(directory / CONFIG, config.to_dict())
    if not (directory / CARD).exists():  # it may have been edited
        write_file(directory / CARD, _card(config, tensors, step, dtype))


def _card(config: ConfigDict, tensors: dict[str, np.ndarray], step: int, dtype: str) -> str:
    size = sum(tensor.size for tensor in tensors.values())
    return f"""# {task_name(config)} of gpstoken_jax

{size:,} parameters in {dtype}, training step {step}.

```python
from gpstoken_jax import Tokenizer

tokenizer = Tokenizer.from_pretrained("this directory")
```

- Data: (say what it was trained on)
- Licence:
- Metrics: (say how they were measured)
- Limits:
"""
