"""Published weights become a run's directory, and a run's directory becomes published weights."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save

from gpstoken_jax.runtime.checkpoint import CheckpointError, Checkpoints, latest_step, load_tree
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config, task_name, write_config
from gpstoken_jax.training.optimizer import create_optimizer
from gpstoken_jax.training.state import TrainState, to_trees
from gpstoken_jax.training.tokenizer import TokenizerTask
from gpstoken_jax.weights import sit_table as sit_weights
from gpstoken_jax.weights import tokenizer_table as torch_weights
from gpstoken_jax.weights.published_files import Copy, ReleaseWeights, find_weights
from gpstoken_jax.weights.table import WeightsError, WeightTable

Choice = Literal["both", "ema", "model"]

_TABLES = {
    "tokenizer": torch_weights.weight_table,
    "sit": sit_weights.weight_table,
}


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
      read: which copies of the network were read, in words.
      used: how many tensors of a copy became parameters.
      unused: names of the tensors that were left out, each with the reason.
      other_files: files of other networks, which were not read.
      num_parameters: values that the model has.
      num_unused: values that a published file holds beside them.
      written: what was written.
      source_step: training step of the weights, as far as the release's folder name tells.
    """

    read: tuple[str, ...]
    used: int
    unused: Mapping[str, str]
    other_files: tuple[Path, ...]
    num_parameters: int
    num_unused: int
    written: Path
    source_step: int | None = None


def import_weights(
    source: str | Path, config: ConfigDict, root: str | Path, *, weights: Choice = "both"
) -> Conversion:
    """Makes a run's directory, as training leaves it, of published weights.

    Every program loads it. Training can go on from it: at step 0, with a fresh optimizer.

    Args:
      source: a safetensors file, or a folder of a training checkpoint.
      config: the whole config of the model that the weights are of.
      root: the directory to make.
      weights: which copies become ``params`` and ``ema_params``: each its own (``"both"``; one
        that is missing is taken from the other), or all from one of them.

    Raises:
      WeightsError: if the weights are not those of the config, or the chosen ones are not there.
      CheckpointError: if the directory has checkpoints already.
    """
    run = RunDirectory(Path(root))
    if run.checkpoints.is_dir() and any(run.checkpoints.iterdir()):
        raise CheckpointError(f"{run.root} has checkpoints already: give another --output")
    table = release_table(config)
    found = find_weights(source, table.roots)
    params_from, ema_from = _choose(found, weights)
    for copy in {params_from.name: params_from, ema_from.name: ema_from}.values():
        _check(copy, table)
    params = table.from_torch(params_from.load())
    ema_params = params if ema_from is params_from else table.from_torch(ema_from.load())
    _save(run, config, params, ema_params)
    return Conversion(
        read=tuple(dict.fromkeys([params_from.name, ema_from.name])),
        used=len(table.used),
        unused=_unused(found, (params_from, ema_from), table),
        other_files=found.other_files,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        num_unused=_num_unused(table),
        written=run.root,
        source_step=found.step,
    )


def export_weights(
    root: str | Path, path: str | Path, *, step: int | None = None, weights: str = "ema_params"
) -> Conversion:
    """Writes a run's weights as a safetensors file with the release's names.

    Args:
      root: the run's directory.
      path: the file to write, whole or not at all.
      step: which checkpoint; the newest if None.
      weights: ``"ema_params"`` or ``"params"``.

    Raises:
      CheckpointError: if the run cannot be read.
    """
    run, path = RunDirectory(Path(root)), Path(path)
    table = release_table(read_config(run))
    step = latest_step(run.checkpoints) if step is None else step
    params = load_tree(run.checkpoints, weights, {"params": table.shapes}, step)
    tensors = table.to_torch(jax.device_get(params))
    # Loaders of PyTorch weights ask for this field; the others say where the file comes from.
    metadata = {"format": "pt", "gpstoken_jax_step": str(step), "weights": weights}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(save(tensors, metadata))  # save_file() makes it private to the user
    os.replace(temporary, path)
    return Conversion(
        read=(f"{root}, step {step}, {weights}",),
        used=len(table.used),
        unused=dict.fromkeys(table.unused, "used by nothing; written as zeros"),
        other_files=(),
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        num_unused=_num_unused(table),
        written=path,
    )


def release_table(config: ConfigDict) -> WeightTable:
    """The published tensors of the network that a whole config describes.

    Raises:
      WeightsError: if nothing of the kind was published.
    """
    task = task_name(config)
    if task not in _TABLES:
        raise WeightsError(f"there are no published weights for task={task!r}")
    if task == "sit" and not config.model.num_tokens:
        raise WeightsError(
            "the config leaves the network's sizes to the tokens it is trained on; for the "
            "published weights give --config=configs/sit_xl.py:published"
        )
    return _TABLES[task](config.model)


def _choose(found: ReleaseWeights, weights: Choice) -> tuple[Copy, Copy]:
    if weights == "both":
        return found.model or found.averaged, found.averaged or found.model
    chosen = {"ema": found.averaged, "model": found.model}[weights]
    if chosen is None:
        there = (found.model or found.averaged).name
        raise WeightsError(f"there are no weights of the kind {weights!r}, only {there}")
    return chosen, chosen


def _check(copy: Copy, table: WeightTable) -> None:
    try:
        table.check(copy.tensors)
    except WeightsError as error:
        raise WeightsError(f"{copy.name}: {error}") from error


def _unused(found: ReleaseWeights, read: tuple[Copy, Copy], table: WeightTable) -> dict[str, str]:
    unused = dict(found.left)
    for copy in {copy.name: copy for copy in read}.values():
        for key in table.unused:
            if key in copy.tensors:
                unused[copy.prefix + key] = "in every published checkpoint, used by nothing"
    return unused


def _num_unused(table: WeightTable) -> int:
    return sum(math.prod(spec.shape) for spec in table.unused.values())


def _save(run: RunDirectory, config: ConfigDict, params: Any, ema_params: Any) -> None:
    trees = _fresh_trees(config, params, ema_params)
    checkpoints = Checkpoints(run.checkpoints, keep=config.checkpoint.keep)
    checkpoints.save(0, trees, {"data": None, "train_seconds": 0.0})
    checkpoints.close()
    write_config(run, config)


def _fresh_trees(config: ConfigDict, params: Any, ema_params: Any) -> dict[str, Any]:
    """The trees of a checkpoint, as training starts from these weights."""
    if task_name(config) == "tokenizer":
        task = TokenizerTask(config)
        return task.to_trees(task.start_from(params, ema_params, jax.random.key(config.seed)))
    # The generator's task would ask for the tokens to train on, which a conversion has no use for.
    optimizer = create_optimizer(config.optimizer, config.train.steps)
    step = np.zeros((), np.int32)
    return to_trees(TrainState(step, params, ema_params, optimizer.init(params)))
