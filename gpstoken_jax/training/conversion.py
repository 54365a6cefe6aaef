"""Published weights become a run's directory, and a run's directory becomes published weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
import numpy as np
from ml_collections import ConfigDict

from gpstoken_jax.runtime.checkpoint import CheckpointError, Checkpoints, latest_step, load_tree
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config, task_name, write_config
from gpstoken_jax.training.optimizer import create_optimizer, learning_rate, with_moments
from gpstoken_jax.training.state import TrainState, to_trees
from gpstoken_jax.training.tokenizer import TokenizerTask
from gpstoken_jax.weights.discriminator import (
    PublishedDiscriminator,
    discriminator_tables,
    find_discriminator,
)
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import write_tensors
from gpstoken_jax.weights.optimizer_state import Moments, optimizer_files, read_moments
from gpstoken_jax.weights.published import published_table
from gpstoken_jax.weights.sources import Copy, Source, find_source
from gpstoken_jax.weights.table import WeightTable

Choice = Literal["both", "ema", "model"]


@dataclass(frozen=True)
class Conversion:
    """Report of a conversion.

    Attributes:
      read: which copies of the network, and what else of its training, were read, in words.
      used: how many tensors of a copy became parameters.
      unused: names of the tensors that were left out, each with the reason.
      other_files: files that were left out, each with the reason.
      num_parameters: values that the model has.
      num_unused: values that a published file holds beside them.
      written: what was written.
      config: the whole config of the model.
      source_step: training step of the weights, as far as the release's folder name tells.
    """

    read: tuple[str, ...]
    used: int
    unused: Mapping[str, str]
    other_files: Mapping[Path, str]
    num_parameters: int
    num_unused: int
    written: Path
    config: ConfigDict
    source_step: int | None = None

    def __str__(self) -> str:
        """Lines for a terminal."""
        lines = [f"read:       {name}" for name in self.read]
        if self.source_step is not None:
            lines.append(f"trained:    {self.source_step:,} steps, by the name of the folder")
        lines.append(f"used:       {self.used} tensors, each once")
        lines += [f"unused:     {key} ({reason})" for key, reason in self.unused.items()]
        lines += [f"left out:   {path} ({reason})" for path, reason in self.other_files.items()]
        filled = f"{self.num_parameters:,}, every one filled ({self.num_unused:,} more unused)"
        return "\n".join([*lines, f"parameters: {filled}", f"written:    {self.written}"])


def import_weights(
    source: str | Path,
    config: ConfigDict | None,
    root: str | Path,
    *,
    task: str = "tokenizer",
    weights: Choice = "both",
) -> Conversion:
    """Makes a run's directory, as training leaves it, of published weights.

    Every program loads it. Training can go on from it, at step 0; with the discriminator and the
    moments of the optimizers of a training checkpoint, as far as they are there and fit.

    Args:
      source: what ``find_source`` takes.
      config: the whole config of the model that the weights are of; None finds it out.
      root: the directory to make.
      task: ``"tokenizer"`` or ``"sit"``, if there is no config.
      weights: which copies become ``params`` and ``ema_params``: each its own (``"both"``; one
        that is missing is taken from the other), or all from one of them.

    Raises:
      WeightsError: if the weights are not those of the config, or the chosen ones are not there.
      CheckpointError: if the directory has checkpoints already.
    """
    run = RunDirectory(Path(root))
    if run.checkpoints.is_dir() and any(run.checkpoints.iterdir()):
        raise CheckpointError(f"{run.root} has checkpoints already: give another --output")
    if config is not None:
        task = task_name(config)
    found = find_source(source, task, config=config)
    copies = _choose(found, weights)
    params = ema_params = found.read(copies[0])
    if copies[1] is not copies[0]:
        ema_params = found.read(copies[1])
    discriminator = None
    if task == "tokenizer":
        discriminator = find_discriminator(found.other_files, found.config)
    moments, left_out = _find_moments(found.path, _trained_by_adam(found, weights, discriminator))
    with Checkpoints(run.checkpoints, keep=found.config.checkpoint.keep) as checkpoints:
        trees = _fresh_trees(found.config, params, ema_params, discriminator, moments)
        checkpoints.save(0, trees, {"data": None, "train_seconds": 0.0})
    write_config(run, found.config)
    read = dict.fromkeys(copy.name for copy in copies)
    if discriminator:
        read[f"{discriminator.path} (the discriminator)"] = None
    for name, of in moments.items():
        read[f"{of.path} (Adam's moments of {name}, {of.count:,} updates)"] = None
    others = set(found.other_files) - {discriminator and discriminator.path}
    return Conversion(
        read=tuple(read),
        used=len(found.table.used),
        unused=found.ignored,
        other_files=dict.fromkeys(sorted(others), "another network") | left_out,
        num_parameters=found.table.num_parameters,
        num_unused=sum(map(math.prod, found.table.unused.values())),
        written=run.root,
        config=found.config,
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
      WeightsError: if nothing of its kind was published.
    """
    run, path = RunDirectory(Path(root)), Path(path)
    config = read_config(run)
    table = published_table(config)
    step = latest_step(run.checkpoints) if step is None else step
    params = load_tree(run.checkpoints, weights, table.shapes, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, table.to_torch(jax.device_get(params)), step=step, weights=weights)
    return Conversion(
        read=(f"{root}, step {step}, {weights}",),
        used=len(table.used),
        unused=dict.fromkeys(table.unused, "used by nothing; written as zeros"),
        other_files={},
        num_parameters=table.num_parameters,
        num_unused=sum(map(math.prod, table.unused.values())),
        written=path,
        config=config,
    )


def _choose(found: Source, weights: Choice) -> tuple[Copy, Copy]:
    """The copies for ``params`` and ``ema_params``."""
    if weights == "both":
        return found.choose("params"), found.choose("ema_params")
    chosen = {"ema": found.averaged, "model": found.model}[weights]
    if chosen is None:
        there = found.choose("params").name
        raise WeightsError(f"there are no weights of the kind {weights!r}, only {there}")
    return chosen, chosen


def _trained_by_adam(
    found: Source, weights: Choice, discriminator: PublishedDiscriminator | None
) -> dict[str, WeightTable]:
    """Networks that can go on with the moments of their published training; the order is theirs."""
    config, tables = found.config, {}
    if task_name(config) != "tokenizer" or weights == "ema":  # moments are of the last weights
        return tables
    if config.optimizer.get("name", "adam") == "adam" and not config.get("freeze", ""):
        tables["the network"] = found.table
    if discriminator and config.gan.optimizer.get("name", "adam") == "adam":
        tables["the discriminator"], _ = discriminator_tables(config.gan.discriminator)
    return tables


def _find_moments(
    path: Path, tables: Mapping[str, WeightTable]
) -> tuple[dict[str, Moments], dict[Path, str]]:
    """Moments of the optimizers of some networks; and files that are of none, with the reason."""
    moments, left_out = {}, {}
    for file in optimizer_files(path):
        reasons = []
        for name in (name for name in tables if name not in moments):
            try:
                moments[name] = read_moments(file, tables[name])
                break
            except WeightsError as error:
                reason = str(error).removeprefix(f"{file} was not read: ")
                reasons.append(f"no state for {name}: {reason}")
        else:
            left_out[file] = "; ".join(reasons) or "no network here goes on with it"
    return moments, left_out


def _fresh_trees(
    config: ConfigDict,
    params: Any,
    ema_params: Any,
    discriminator: PublishedDiscriminator | None = None,
    moments: Mapping[str, Moments] = MappingProxyType({}),
) -> dict[str, Any]:
    """The trees of a checkpoint, as training starts from these weights."""

    def known(name: str, state: Any, part: Callable[[Any], Any] = lambda tree: tree) -> Any:
        """A fresh state of an optimizer, with its moments, or a part of them, if there are some."""
        if name not in moments:
            return state
        _, count, first, second = moments[name]
        return with_moments(state, count, part(first), part(second))

    if task_name(config) == "tokenizer":
        task = TokenizerTask(config)
        state = task.start_from(params, ema_params, jax.random.key(config.seed))
        state = state.replace(opt_state=known("the network", state.opt_state))
        if discriminator:
            other, opt_state = state.discriminator, state.discriminator.opt_state
            other = other.replace(
                params=discriminator.params,
                batch_stats=discriminator.batch_stats,
                opt_state=known("the discriminator", opt_state, itemgetter("params")),
            )
            state = state.replace(discriminator=other)
        return task.to_trees(state)
    # The generator's task would ask for the tokens to train on, which a conversion has no use for.
    rate = learning_rate(config.optimizer, config.train.steps)
    optimizer = create_optimizer(config.optimizer, rate)
    step = np.zeros((), np.int32)
    return to_trees(TrainState(step, params, ema_params, optimizer.init(params)))
