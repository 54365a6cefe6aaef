"""A run's directory: config, checkpoints, metrics; written by train.py, read by every program.

config.json     the whole config
parameters.txt  name and shape of every parameter
checkpoints/    one directory a step
best/           the checkpoint of the best evaluation, as a run's directory of its own
metrics.jsonl   one JSON object a logged step, its last value a checksum of the line
tensorboard/    the same as scalars, and pictures
samples/        the pictures as files, one a step
profile/        what --profile recorded
failed_steps/   the batch of a step that stopped the run, see training/non_finite.py
lock            held by the training process
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
from absl import logging
from clu import parameter_overview
from jaxtyping import PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.runtime import buckets, checkpoint, processes
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.files import DamagedFileError, read_json, write_file, write_json
from gpstoken_jax.runtime.fingerprints import differences
from gpstoken_jax.runtime.mirror import Place, open_place

_OF_CHECKPOINT = re.compile(r"(best/)?checkpoints/\d+/")


def _below(name: str, doc: str) -> property:
    return property(lambda run: run.root / name, doc=doc)


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside a run's directory."""

    root: Path

    config = _below("config.json", "The config that the run was started with.")
    checkpoints = _below("checkpoints", "The newest checkpoints.")
    best = _below("best", "The best checkpoint, see ``checkpoint.best_metric``.")
    samples = _below("samples", "Pictures, a file a step.")
    profile = _below("profile", "Traces of ``--profile``.")
    parameters = _below("parameters.txt", "A table of the parameters.")
    metrics = _below("metrics.jsonl", "The log, a line of JSON every few steps.")
    tensorboard = _below("tensorboard", "The log, for TensorBoard.")
    failed_steps = _below("failed_steps", "Inputs of steps that were not finite.")

    @property
    def name(self) -> str:
        """The name of the directory, also where it was given as ``.``."""
        return self.root.resolve().name


def fetch_run(source: str | Path, step: int | None = None) -> Path:
    """Copies weights from a bucket: of a run one checkpoint, without its optimizer; else all.

    Args:
      source: a place in a bucket: RUN, RUN/checkpoints or RUN/checkpoints/STEP, or other weights.
      step: which checkpoint of a run; the newest if None.

    Returns:
      The copy of the same place.

    Raises:
      CheckpointError: if the run has no such checkpoint.
      OSError: if there is nothing, or the bucket cannot be reached.
    """
    url = buckets.check_url(source)
    root, inside, given = re.fullmatch(r"(.+?)(?:/(checkpoints)(?:/(\d+))?)?", url).groups("")
    run = buckets.fetch(root, partial(_one_checkpoint, int(given) if given else step))
    return run / inside / given


def _one_checkpoint(step: int | None, names: Iterable[str]) -> buckets.Choose:
    if not any(name.startswith("checkpoints/") for name in names):
        return bool
    there = whole_checkpoints(names)
    if not there or step not in (None, *there):
        listed = ", ".join(map(str, sorted(there))) or "none"
        raise CheckpointError(f"there is no checkpoint of this step (steps there: {listed})")
    path = f"checkpoints/{max(there) if step is None else step}/"
    skipped = f"{path}optimizer/"
    return lambda name: (
        name == "config.json" or (name.startswith(path) and not name.startswith(skipped))
    )


def whole_checkpoints(names: Iterable[str]) -> set[int]:
    """Steps with a manifest, which is written last, or of an early version, among a run's files."""
    last = f"{checkpoint.MANIFEST}|commit_success.txt"
    found = (re.fullmatch(rf"checkpoints/(\d+)/(?:{last})", name) for name in names)
    return {int(match[1]) for match in found if match}


def open_place_of_run(root: str | Path) -> Place:
    """Opens a run's directory, or a place in a bucket, of which what a resumed run needs is copied.

    Of several processes the first one has it.

    Raises:
      LeaseError: if another process trains in this place of a bucket.
      OSError: if the bucket cannot be reached.
    """
    place = processes.in_first(
        lambda: open_place(root, choose=_to_resume, is_part=_OF_CHECKPOINT.match)
    )
    if place is None:
        url = buckets.is_url(root) and buckets.check_url(root)
        place = Place(buckets.scratch_of(url) if url else Path(root).expanduser())
    return place


def _to_resume(names: Iterable[str]) -> buckets.Choose:
    """Leaves out checkpoints that were not written to their end, and what is only written."""
    best = [name.removeprefix("best/") for name in names if name.startswith("best/")]
    kept = {f"checkpoints/{step}" for step in whole_checkpoints(names)}
    kept |= {f"best/checkpoints/{step}" for step in whole_checkpoints(best)}

    def wanted(name: str) -> bool:
        step = re.match(r"((?:best/)?checkpoints/[^/]+)/", name)
        if step:
            return step[1] in kept
        return name.split("/", maxsplit=1)[0] not in ("tensorboard", "profile", "failed_steps")

    return wanted


def open_run(root: str | Path, config: ConfigDict) -> RunDirectory:
    """Opens a run's directory with a config that must fit what is there; prints what is new in it.

    Nothing is written: ``write_config`` does that when the training begins.

    Raises:
      CheckpointError: if the directory has a run of another model; names the first difference.
    """
    run = RunDirectory(buckets.local(root))
    processes.from_first(lambda: _check_config(run, config))
    return run


def _check_config(run: RunDirectory, config: ConfigDict) -> None:
    if not checkpoint.steps(run.checkpoints):
        return
    old = read_config(run)
    _check_same_model(run, old, config)
    if (
        "untrained_labels" in old and "untrained_labels" in config
    ):  # what it has seen once, it knows
        still = [label for label in config.untrained_labels if label in old.untrained_labels]
        config.untrained_labels = tuple(still)
    if "init" in old and config.get("init", old.init) != old.init:
        print(f"{run.root} has begun already: config.init.source is not looked at, and stays")
        config.init = old.init
    for difference in differences(old.to_dict(), config.to_dict(), "config"):
        print(difference)


@contextlib.contextmanager
def lock_run(run: RunDirectory) -> Iterator[None]:
    """Keeps other training processes out, from before anything is written.

    Makes the directory if it is not there; if nothing is written into it, as by a start that is
    refused, it is removed again. The lock goes with the process, however it ends. Where the file
    system has no locks, there is a warning. Of several processes, the first one does all of it.

    Raises:
      CheckpointError: if another process trains in this directory.
      OSError: if it cannot be made, or not be written to.
    """
    undo = processes.in_first(lambda: _lock(run.root))
    try:
        yield
    finally:
        if undo:
            undo()


def _lock(root: Path) -> Callable[[], None]:
    """Locks a directory; the result unlocks it."""
    made = [path for path in (root, *root.parents) if not path.exists()]
    path = root / "lock"
    is_new = not path.exists()
    root.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise CheckpointError(
            f"another process is training in {root}: wait for it, or use another --workdir"
        ) from error
    except OSError as error:
        logging.warning("%s is not locked against other processes: %s", root, error)

    def undo() -> None:
        with file, contextlib.suppress(OSError):
            if is_new and os.listdir(root) == [path.name]:
                path.unlink()
                for directory in made:
                    directory.rmdir()

    return undo


def write_config(run: RunDirectory, config: ConfigDict) -> None:
    """Writes config.json, whole or not at all; in the first of several processes."""
    if not processes.is_primary_process():
        return
    write_json(run.config, config.to_dict())


def write_parameters(run: RunDirectory, params: Any) -> None:
    """Writes parameters.txt: a table of every parameter, and how many values there are.

    By the names that ``init.include`` and ``freeze`` know, without the collection ``params``.
    """
    if processes.is_primary_process():
        params = params["params"] if set(params) == {"params"} else params
        write_file(run.parameters, parameter_overview.get_parameter_overview(params) + "\n")


def read_config(run: RunDirectory) -> ConfigDict:
    """Reads config.json.

    Raises:
      CheckpointError: if it is missing or damaged.
    """
    try:
        values = read_json(run.config)
    except (OSError, DamagedFileError) as error:
        raise CheckpointError(f"{run.root} has no readable config.json: {error}") from error
    return ConfigDict(_with_tuples(values))


def task_name(config: ConfigDict) -> str:
    """Names the task of a config; configs written before there was a choice train a tokenizer."""
    return config.get("task", "tokenizer")


def load_weights(
    root: str | Path,
    task: str,
    create_model: Callable[[ConfigDict], Any],
    init_params: Callable[[Any, PRNGKeyArray], Any],
    *,
    step: int | None = None,
    weights: str = "ema_params",
) -> tuple[ConfigDict, Any, Any, int]:
    """The config, the model, its parameters and their step, of a run of one task.

    Args:
      root: the run's directory.
      task: the ``config.task`` that the run must have.
      create_model: makes the model from the ``model`` section of a config.
      init_params: makes the model's parameters from it and a key; only their shapes are asked for.
      step: which checkpoint; the newest that can be read if None.
      weights: ``"ema_params"`` or ``"params"``.

    Raises:
      CheckpointError: if something is missing or does not fit together; says what.
    """
    run = RunDirectory(Path(root))
    config = read_config(run)
    if task_name(config) != task:
        raise CheckpointError(f"{run.root} is a run of task {task_name(config)!r}, not {task!r}")
    model = create_model(config.model)
    template = _shapes(create_model, init_params, json.dumps(config.model.to_dict()))
    step, params = checkpoint.load_newest_tree(run.checkpoints, weights, template, step)
    return config, model, params, step


@lru_cache(maxsize=32)
def _shapes(create_model: Callable[..., Any], init_params: Callable[..., Any], model: str) -> Any:
    """Shapes of a model's parameters, traced once: many checkpoints have the same model."""
    made = create_model(ConfigDict(_with_tuples(json.loads(model))))
    return jax.eval_shape(partial(init_params, made), jax.random.key(0))


def _with_tuples(value: Any) -> Any:
    """JSON has no tuples; configs have nothing else."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


# Fields that runs of earlier versions lack, with the value that means the same.
_AS_BEFORE = (("condition", "roi"), ("refine", True), ("isotropic", False))


def _check_same_model(run: RunDirectory, old: ConfigDict, new: ConfigDict) -> None:
    found = itertools.chain(
        differences(task_name(old), task_name(new), "task"),
        differences(*(_network(config.model.to_dict()) for config in (old, new)), "model"),
        differences(*(_section(config, "statistics") for config in (old, new)), "statistics"),
        differences(old.get("freeze", ""), new.get("freeze", ""), "freeze"),
    )
    if difference := next(found, None):
        raise CheckpointError(
            f"{run.root} has a run of another model: {difference}. "
            "Use that config, or another --workdir."
        )


def _network(model: dict[str, Any]) -> dict[str, Any]:
    """The fields of a model that its weights depend on, not how it is computed or was begun."""
    return {
        key: _network(value) if isinstance(value, dict) else value
        for key, value in model.items()
        if key not in ("dtype", "remat", "init") and (key, value) not in _AS_BEFORE
    }


def _section(config: ConfigDict, name: str) -> dict[str, Any]:
    return config[name].to_dict() if name in config else {}
