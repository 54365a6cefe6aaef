"""One training step as a pure function of one device, and how it runs on all of them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from gpstoken_jax.layout import partition_images
from gpstoken_jax.losses import reconstruction_loss
from gpstoken_jax.model import GPSToken
from gpstoken_jax.training.ema import ema_decay, update_ema
from gpstoken_jax.training.optimizer import create_optimizer
from gpstoken_jax.training.state import TrainState

AXIS = "data"
Metrics = dict[str, Float[Array, ""]]


def make_train_step(model: GPSToken, config: ConfigDict):
    """The step over all local devices (and, through ``pmean``, all hosts).

    Returns:
      ``step(state, images [devices, b, H, W, 3], frozen) -> (state, metrics)``; the state and
      the frozen loss networks are the same on all devices, metrics are means over them. The
      given state's memory is reused: do not use it again.
    """
    optimizer = create_optimizer(config.optimizer, config.train.steps)
    step = partial(train_step, model=model, optimizer=optimizer, config=config)
    return jax.pmap(
        step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=0
    )


def train_step(
    state: TrainState,
    images: Float[Array, "b h w 3"],
    frozen: Mapping[str, Any],
    *,
    model: GPSToken,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> tuple[TrainState, Metrics]:
    """Gradient of the loss on this device's images, averaged over devices, and its update."""
    geometry, boxes = partition_images(images, **config.partition)

    def loss_fn(params):
        reconstructions = model.apply(params, images, geometry, boxes)
        return reconstruction_loss(images, reconstructions, frozen, config.loss)

    (loss, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = jax.lax.pmean((grads, {"loss": loss, **terms}), AXIS)
    metrics["grad_norm"] = optax.global_norm(grads)
    return apply_gradients(state, grads, optimizer, config.ema), metrics


def apply_gradients(
    state: TrainState, grads: Any, optimizer: optax.GradientTransformation, ema: ConfigDict
) -> TrainState:
    """The state after one optimizer update and one EMA call."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(
        step=state.step + 1,
        params=params,
        ema_params=update_ema(state.ema_params, params, ema_decay(state.step, ema)),
        opt_state=opt_state,
    )


def replicate(tree: Any) -> Any:
    """Puts a tree where the step leaves its state, so that its second call compiles nothing."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def shard(batch: Float[Array, "n ..."], devices: int) -> Float[Array, "devices n/devices ..."]:
    """Splits a batch over devices.

    Raises:
      ValueError: if it does not divide evenly.
    """
    if batch.shape[0] % devices:
        raise ValueError(f"a batch of {batch.shape[0]} does not divide over {devices} devices")
    return batch.reshape(devices, -1, *batch.shape[1:])
