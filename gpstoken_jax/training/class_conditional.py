"""Base of the tasks of generation: examples with a class, some of which lose it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.generation.sit import drop_labels
from gpstoken_jax.runtime.compiling import announced
from gpstoken_jax.training.state import TrainState
from gpstoken_jax.training.step import Batch, Metrics, one_copy
from gpstoken_jax.training.task import Task


def fill_in(model: ConfigDict, found: Mapping[str, int], source: str) -> None:
    """Fills what a config's ``model`` section leaves open (0) with what the data has.

    Raises:
      ValueError: if the config says otherwise; names the field and the source.
    """
    for name, value in found.items():
        if model[name] not in (0, value):
            raise ValueError(f"config.model.{name} is {model[name]}, but {source} have {value}")
    model.update(found)


def untrained_labels(labels: Int[np.ndarray, " n"], config: ConfigDict) -> tuple[int, ...]:
    """Classes that training on these labels never shows, -1 for no class.

    What the network has learnt of the others says nothing of them: they cannot be sampled.
    """
    shown = set(np.unique(labels).tolist()) | ({-1} if config.train.label_dropout else set())
    return tuple(label for label in range(-1, config.model.num_classes) if label not in shown)


def with_known_classes(rows: Mapping[str, np.ndarray], config: ConfigDict) -> dict[str, np.ndarray]:
    """The same rows; those of a class that training never shows become of no class."""
    label = rows["label"]
    return {**rows, "label": np.where(np.isin(label, config.untrained_labels), -1, label)}


class ClassConditionalTask(Task):
    """Trains a network that is told the class of an example, or that it has none.

    Attributes:
      held_out: rows by name, with ``label`` (negative for no class); None if there are none.
      eval_batch: held-out rows at a time.
      eval_repeats: how often each is tried in an evaluation.
    """

    held_out: dict[str, np.ndarray] | None = None
    eval_batch, eval_repeats = 256, 1

    def loss(
        self,
        params: Any,
        batch: Batch,
        labels: Int[Array, "b"],
        keys: Sequence[PRNGKeyArray],
        train: bool,
    ) -> Float[Array, "b"]:
        """Loss of each example.

        Args:
          params: of the network.
          batch: the examples.
          labels: 0 .. num_classes, the last for no class.
          keys: two in training; one in an evaluation, unless ``held_out_loss`` is replaced.
          train: whether it is a training.
        """
        raise NotImplementedError

    def held_out_loss(
        self,
        params: Any,
        batch: Batch,
        labels: Int[Array, "b"],
        key: PRNGKeyArray,
        rows: Int[Array, "b"],
        repeat: int,
    ) -> Float[Array, "b"]:
        """Loss of held-out examples number ``rows``, in an evaluation's repeat from 0."""
        return self.loss(params, batch, labels, [key], train=False)

    def batch_loss(
        self, params: Any, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean loss of a batch; some of its labels become that of no class."""
        label_key, *keys = jax.random.split(key, 3)
        classes, dropout = self.config.model.num_classes, self.config.train.label_dropout
        labels = drop_labels(label_key, batch["label"], classes, dropout)
        return self.loss(params, batch, labels, keys, train=True).mean(), {}

    def held_out_metrics(self) -> tuple[str, ...]:
        """Names of the metrics of `evaluate`."""
        return () if self.held_out is None else ("val_loss", "val_loss_no_class")

    def evaluate(self, state: TrainState, frozen: Any) -> dict[str, float]:
        """Mean loss of the averaged weights on held-out examples, with their class and without."""
        if self.held_out is None:
            return {}
        params, labels = one_copy(state.ema_params), self.held_out["label"]
        none = np.full_like(labels, self.config.model.num_classes)
        return {
            "val_loss": self._mean_loss(params, np.where(labels < 0, none, labels)),
            "val_loss_no_class": self._mean_loss(params, none),
        }

    @cached_property
    def _jitted_held_out_loss(self):
        loss = jax.jit(self.held_out_loss)
        return announced(loss, "the held-out loss", lambda params, batch, *_: batch)

    def _mean_loss(self, params: Any, labels: Int[np.ndarray, " n"]) -> float:
        total, count = 0.0, len(labels)
        for start in range(0, count, self.eval_batch):
            # One shape: the last rows are filled up and not counted.
            rows = np.arange(start, start + self.eval_batch).clip(max=count - 1)
            batch: Mapping[str, np.ndarray] = {k: array[rows] for k, array in self.held_out.items()}
            for repeat in range(self.eval_repeats):
                key = jax.random.fold_in(jax.random.key(repeat), start)
                losses = self._jitted_held_out_loss(
                    params, batch, labels[rows], key, rows.astype(np.float32), repeat
                )
                total += float(losses[: count - start].sum())
        return total / (count * self.eval_repeats)
