"""Directories of weights for ``from_pretrained``: finding, reading and writing them.

Such a directory holds ``model.safetensors`` (tensors by the names of the published code),
``config.json`` and a model card, ``README.md``.
"""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from ml_collections import ConfigDict
from safetensors import safe_open
from safetensors.numpy import save as safetensors_bytes

from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.files import (
    UNSEALED,
    check_sealed_file,
    seal_bytes,
    write_file,
    write_json,
)
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config, task_name
from gpstoken_jax.weights.published_files import find_weights
from gpstoken_jax.weights.table import WeightTable

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_METADATA = "gpstoken_jax"
_BUNDLED = "pretrained"


def bundled_names() -> list[str]:
    """Lists the weights that ship with this package."""
    folder = resources.files("gpstoken_jax") / _BUNDLED
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / WEIGHTS).is_file())


def find(source: str | Path) -> Path:
    """Finds a path, or weights that ship with this package by their name.

    Raises:
      CheckpointError: if there is neither.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if str(source) in bundled_names():
        return Path(str(resources.files("gpstoken_jax") / _BUNDLED / str(source)))
    names = ", ".join(bundled_names()) or "none"
    raise CheckpointError(f"there is no {source}: neither a path nor bundled weights ({names})")


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


def load(
    root: Path,
    task: str,
    table_of: Callable[[ConfigDict], WeightTable],
    weights: str,
    config: ConfigDict | None,
) -> tuple[ConfigDict, Any, int]:
    """Reads weights that have the published names.

    Args:
      root: a file, or a directory with one.
      task: what the config must be of, e.g. ``"tokenizer"``.
      table_of: makes the table of names from the model section of a config.
      weights: ``"ema_params"`` or ``"params"``, where both are there.
      config: of the model; None reads ``config.json`` beside the weights.

    Returns:
      The config, the parameters ``{"params": ...}``, and the training step.

    Raises:
      CheckpointError: if there is no config, or one of another task.
      WeightsError: if the tensors are not those of the model.
      DamagedFileError: if a file written here was damaged.
    """
    folder = root if root.is_dir() else root.parent
    if config is None:
        config = read_config(RunDirectory(folder))
    if task_name(config) != task:
        raise CheckpointError(f"{root} holds a {task_name(config)}, not a {task}")
    table = table_of(config.model)
    found = find_weights(root, table.roots)
    averaged, last = found.averaged or found.model, found.model or found.averaged
    chosen = averaged if weights == "ema_params" else last
    check_sealed_file(chosen.path, required=False)
    tensors = {key: np.asarray(x).astype(np.float32) for key, x in chosen.load().items()}
    return config, table.from_torch(tensors), found.step or _step(chosen.path)


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
    directory = Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    tensors = table.to_torch(jax.device_get(params))
    tensors = {key: tensor.astype(DTYPES[dtype]) for key, tensor in tensors.items()}
    about = json.dumps({"seal": UNSEALED, "step": step})
    data = safetensors_bytes(tensors, {"format": "pt", _METADATA: about})
    write_file(directory / WEIGHTS, seal_bytes(data))
    write_json(directory / CONFIG, config.to_dict())
    if not (directory / CARD).exists():  # it may have been edited
        write_file(directory / CARD, _card(config, tensors, step, dtype))


def _step(path: Path) -> int:
    """The training step that ``save`` noted; 0 in files of other programs."""
    with safe_open(path, framework="np") as file:
        about = (file.metadata() or {}).get(_METADATA)
    return json.loads(about)["step"] if about else 0


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
