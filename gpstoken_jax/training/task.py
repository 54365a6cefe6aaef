"""Interface between train.py and each kind of model.

train.py is one story for all of them: open the batches, create a state, step, log, save. What
depends on the kind of model is a ``Task``.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from gpstoken_jax.runtime.run_directory import task_name
from gpstoken_jax.training import state as states
from gpstoken_jax.training.non_finite import update_if_finite
from gpstoken_jax.training.optimizer import create_optimizer, learning_rate
from gpstoken_jax.training.start import (
    Start,
    frozen_at_random,
    frozen_leaves,
    start_from,
    stop_gradients,
)
from gpstoken_jax.training.state import TrainState
from gpstoken_jax.training.step import AXIS, Batch, Metrics, Step, step_key
from gpstoken_jax.weights import pretrained

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

    def close(self) -> None:
        """Stops reading ahead."""


class Task:
    """One kind of model to train, with Adam and a moving average of its parameters.

    A task has at least ``open_batches``, ``init_params`` and ``batch_loss``.

    Attributes:
      config: the whole config.
      schedule: what steps are told of it, in their frozen arrays: the learning rate of each
        network. No constant of the program, so that another rate or length compiles nothing.
      on_screen: metrics of the progress line; all are in metrics.jsonl.
      factory: makes the network of a config's ``model`` section, and draws its parameters from it
        and a key.
      after_training: what to do next; ``{workdir}`` stands for the run's directory.
    """

    on_screen = ("loss",)
    after_training = ""
    factory: tuple[Callable[[ConfigDict], Any], Callable[[Any, PRNGKeyArray], Any]]

    def __init__(self, config: ConfigDict):
        self.config = config
        self.schedule = {"learning_rate": learning_rate(config.optimizer, self.num_updates())}

    # ---- What a task has to say ------------------------------------------------------------------

    def open_batches(self) -> Batches:
        """This process's share of the training data.

        Raises:
          ValueError: if there is none, or the config is wrong.
        """
        raise NotImplementedError

    def init_params(self, key: PRNGKeyArray) -> Any:
        """Random parameters of the model, the same on every process."""
        raise NotImplementedError

    def batch_loss(
        self, params: Any, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Metrics]:
        """Loss of one device's share of a batch, and other scalars to log.

        The key is another one in every step, and the same in a resumed run.
        """
        raise NotImplementedError

    # ---- What a task may say ---------------------------------------------------------------------

    def describe_data(self) -> Any:
        """Values that have to be the same in all processes, as JSON."""
        return None

    def load_frozen(self) -> dict[str, Any]:
        """Arrays that steps only read: ``schedule``, and the weights of loss networks by name."""
        return {"schedule": self.schedule}

    def held_out_metrics(self) -> tuple[str, ...]:
        """Names the figures of ``evaluate``; nothing if nothing is held out.

        Raises:
          ValueError: if held-out data is asked for that is not there.
        """
        return ()

    def evaluate(self, state: TrainState, frozen: Any) -> dict[str, float]:
        """Figures on held-out data by name, e.g. ``val_psnr``; empty if there is none."""
        return {}

    def preview(self, state: TrainState) -> UInt8[np.ndarray, "h w 3"] | None:
        """A picture of what the model does, or None."""
        return None

    # ---- State and step: for a task with more than one network to replace ------------------------

    def num_updates(self) -> int:
        """Calls of the optimizer in the whole run; its schedule is as long."""
        return self.config.train.steps

    def optimizer(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """The optimizer of the model's parameters, with a learning rate by update."""
        return create_optimizer(self.config.optimizer, rate, self.freeze)

    def create_state(self, key: PRNGKeyArray) -> TrainState:
        """A fresh state, the same on every process."""
        return states.create_state(
            self.init_params, self.optimizer(self.schedule["learning_rate"]), key
        )

    @property
    def freeze(self) -> str:
        """The pattern of the parameters that do not learn; empty if all do."""
        return self.config.get("freeze", "")

    @cached_property
    def is_frozen(self) -> Any | None:
        """A tree of bools over the parameters: True for those that do not learn. None if all do.

        Raises:
          ValueError: for a pattern that is none, or that freezes nothing or everything.
        """
        if not self.freeze:
            return None
        shapes = jax.eval_shape(self.init_params, jax.random.key(0))
        return frozen_leaves(shapes, self.freeze)

    def start(self, state: TrainState) -> tuple[TrainState, Start | None]:
        """Replaces parameters of a fresh state by those of ``config.init.source``, if it is set.

        Warns of parameters that are frozen and have no values of anybody's.

        Raises:
          ValueError: if there are no such weights, or none that fit.
        """
        init, start = self.config.get("init", ConfigDict()), None
        if init.get("source"):
            task = task_name(self.config)
            _, params, *_ = pretrained.load(init.source, task, *self.factory, None, "ema_params")
            start = start_from(state.params, params, init.include, init.exclude)
        loaded = start.loaded if start else ()
        if warning := frozen_at_random(state.params, self.is_frozen, loaded):
            logging.warning("%s", warning)
        if start is None:
            return state, None
        ema_params = jax.tree.map(jnp.copy, start.params)
        return state.replace(params=start.params, ema_params=ema_params), start

    def to_trees(self, state: TrainState) -> dict[str, Any]:
        """The state as the named trees of a checkpoint; one is ``params``, one ``ema_params``."""
        return states.to_trees(state)

    def from_trees(self, trees: Mapping[str, Any]) -> TrainState:
        """The inverse of ``to_trees``."""
        return states.from_trees(trees)

    def step_at(self, step: int) -> Step:
        """The pure function of step number ``step``, from 1: ``train_step`` or one like it.

        Each that is returned is compiled once, when its first step comes.
        """
        return self.train_step

    def train_step(
        self, state: TrainState, batch: Batch, frozen: Any
    ) -> tuple[TrainState, Metrics]:
        """A step on one device's share of the batch: pure, and averaged over ``step.AXIS``.

        The metrics are scalars. One is ``loss``; a step may leave out what it does not compute.
        """
        key = step_key(self.config.seed, state.step)

        def batch_loss(params: Any, *rest: Any) -> tuple[Float[Array, ""], Metrics]:
            return self.batch_loss(stop_gradients(params, self.is_frozen), *rest)

        loss_and_grads = jax.value_and_grad(batch_loss, has_aux=True)
        (loss, metrics), grads = loss_and_grads(state.params, batch, key)
        grads, metrics = jax.lax.pmean((grads, {"loss": loss, **metrics}), AXIS)
        metrics["grad_norm"] = optax.tree.norm(grads)
        optimizer = self.optimizer(frozen["schedule"]["learning_rate"])

        def update(state: TrainState, grads: Any) -> TrainState:
            return states.apply_gradients(
                state, grads, optimizer, self.config.ema, state.step, self.is_frozen
            )

        return update_if_finite(update, state, grads, metrics)


def create_task(config: ConfigDict) -> Task:
    """The task that ``config.task`` names.

    Raises:
      ValueError: if there is none of that name.
    """
    name = task_name(config)
    if name not in MODULES:
        raise ValueError(f"config.task must be one of {sorted(MODULES)}, not {name!r}")
    return importlib.import_module(MODULES[name]).create_task(config)
