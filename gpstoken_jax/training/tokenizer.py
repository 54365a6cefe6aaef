"""The task of training a tokenizer: images in, the same images out."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from gpstoken_jax import data
from gpstoken_jax.layout import partition_images
from gpstoken_jax.losses import reconstruction_loss
from gpstoken_jax.model import GPSToken, init_params
from gpstoken_jax.perceptual.weights import load_lpips
from gpstoken_jax.training import state as states
from gpstoken_jax.training.optimizer import create_optimizer
from gpstoken_jax.training.preview import Preview
from gpstoken_jax.training.state import TrainState
from gpstoken_jax.training.step import AXIS
from gpstoken_jax.training.task import Batch, Metrics, Task


class TokenizerTask(Task):
    """Trains ``GPSToken`` to reconstruct images."""

    after_training = "evaluate: python eval.py --checkpoint={workdir}"

    def __init__(self, config: ConfigDict):
        self.config = config
        self.model = GPSToken(config.model)
        self._optimizer = create_optimizer(config.optimizer, config.train.steps)
        self._preview = Preview(self.model, config)

    def open_batches(self) -> data.TrainBatches:
        return open_images(self.config)

    def create_state(self, key: PRNGKeyArray) -> TrainState:
        return states.create_state(partial(init_params, self.model), self._optimizer, key)

    def to_trees(self, state: TrainState) -> dict[str, Any]:
        return states.to_trees(state)

    def from_trees(self, trees: Mapping[str, Any]) -> TrainState:
        return states.from_trees(trees)

    def load_frozen(self) -> dict[str, Any]:
        return {"lpips": load_lpips()} if self.config.loss.lpips_weight else {}

    def train_step(
        self, state: TrainState, batch: Batch, frozen: Mapping[str, Any]
    ) -> tuple[TrainState, Metrics]:
        images = batch["image"]
        geometry, boxes = partition_images(images, **self.config.partition)

        def loss_fn(params):
            reconstructions = self.model.apply(params, images, geometry, boxes)
            return reconstruction_loss(images, reconstructions, frozen, self.config.loss)

        (loss, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        grads, metrics = jax.lax.pmean((grads, {"loss": loss, **terms}), AXIS)
        metrics["grad_norm"] = optax.global_norm(grads)
        state = states.apply_gradients(state, grads, self._optimizer, self.config.ema)
        return state, metrics

    def preview(self, state: TrainState) -> UInt8[np.ndarray, "h w 3"]:
        return self._preview(state)


def create_task(config: ConfigDict) -> TokenizerTask:
    """The task of a config."""
    return TokenizerTask(config)


def open_images(config: ConfigDict) -> data.TrainBatches:
    """This process's share of the training images.

    Raises:
      ValueError: if the batch does not divide over the devices, or there are no images.
    """
    if config.train.batch_size % jax.device_count():
        raise ValueError(
            f"train.batch_size={config.train.batch_size} does not divide over "
            f"{jax.device_count()} devices"
        )
    source = data.open_source(config.data, config.data.train_split)
    print(source.description)
    return data.train_batches(
        source,
        config.data,
        config.model.image_size,
        config.train.batch_size // jax.process_count(),
        config.seed,
        jax.process_index(),
        jax.process_count(),
    )
