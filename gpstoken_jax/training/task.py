"""What can be trained: the interface between train.py and each kind of model.

train.py is one story for all of them: open the batches, create a state, step, log, save. What
depends on the kind of model is a ``Task``.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from gpstoken_jax.runtime.run_directory import task_name

Batch = Mapping[str, Any]  # name to array [B, ...]
Metrics = dict[str, Float[Array, ""]]
Step = Callable[..., tuple[Any, Metrics]]

# Each module has ``create_task(config) -> Task``. It is imported when it is asked for.
MODULES = {
    "tokenizer": "gpstoken_jax.training.tokenizer",
    "layout_sit": "gpstoken_jax.training.layout",
    "layout_tree": "gpstoken_jax.training.layout",
    "sit": "gpstoken_jax.training.sit",
}


class Batches(Protocol):
    """Endless batches, this process's share, with a place that can be saved and restored."""

    unreadable: Any  # .count: examples that could not be read so far

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> dict[str, Any]:
        """The place of the next batch, as JSON values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a place that ``get_state`` gave."""

    def close(self) -> None: ...


class State(Protocol):
    """Everything that a step reads and writes: a ``flax.struct.dataclass`` with at least these."""

    step: Int[Array, ""]  # steps done
    params: Any
    ema_params: Any
    opt_state: Any


class Task(Protocol):
    """One kind of model to train. Derive from it: some methods have a default.

    Randomness of a step: ``step.step_key(config.seed, state.step)``, the same in a resumed run.
    """

    config: ConfigDict
    on_screen = ("loss",)  # metrics of the progress line; all are in metrics.jsonl
    after_training = ""  # what to do next; ``{workdir}`` stands for the run's directory

    def open_batches(self) -> Batches:
        """This process's share of the training data.

        Raises:
          ValueError: if the batch does not divide over the devices, or the config is wrong.
        """

    def describe_data(self) -> Any:
        """What has to be the same in all processes, as JSON values."""
        return None

    def create_state(self, key: PRNGKeyArray) -> State:
        """A fresh state, the same on every process."""

    def to_trees(self, state: State) -> dict[str, Any]:
        """The state as the named trees of a checkpoint; one is ``params``, one ``ema_params``."""

    def from_trees(self, trees: Mapping[str, Any]) -> State:
        """The inverse of ``to_trees``."""

    def load_frozen(self) -> Any:
        """Arrays that steps only read, such as the weights of loss networks."""
        return {}

    def train_step(self, state: State, batch: Batch, frozen: Any) -> tuple[State, Metrics]:
        """A step on one device's share of the batch: pure, and averaged over ``step.AXIS``.

        The metrics are scalars. One is ``loss``; a step may leave out what it does not compute.
        """

    def step_at(self, step: int) -> Step:
        """The pure function of step number ``step``, from 1: ``train_step`` or one like it.

        Each that is returned is compiled once, when its first step comes.
        """
        return self.train_step

    def held_out_metrics(self) -> tuple[str, ...]:
        """Names the figures of ``evaluate``; nothing if nothing is held out.

        Raises:
          ValueError: if held-out data is asked for that is not there.
        """
        return ()

    def evaluate(self, state: State, frozen: Any) -> dict[str, float]:
        """Figures on held-out data by name, e.g. ``val_psnr``; empty if there is none."""
        return {}

    def preview(self, state: State) -> UInt8[np.ndarray, "h w 3"] | None:
        """A picture of what the model does, or None."""
        return None


def create_task(config: ConfigDict) -> Task:
    """The task that ``config.task`` names.

    Raises:
      ValueError: if there is none of that name.
    """
    name = task_name(config)
    if name not in MODULES:
        raise ValueError(f"config.task must be one of {sorted(MODULES)}, not {name!r}")
    return importlib.import_module(MODULES[name]).create_task(config)
