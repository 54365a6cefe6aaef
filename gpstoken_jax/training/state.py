"""State that a training run carries from step to step."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray, PyTree
from ml_collections import ConfigDict

from gpstoken_jax.training.ema import ema_decay, update_ema
from gpstoken_jax.training.start import keep_frozen

Params = Any


@struct.dataclass
class TrainState:
    """Everything that a step reads and writes; the same on every device.

    Attributes:
      step: number of steps done.
      params: parameters of the model.
      ema_params: their moving average, which evaluation uses.
      opt_state: state of the optimizer.
    """

    step: Int[Array, ""]
    params: Params
    ema_params: Params
    opt_state: optax.OptState


@struct.dataclass
class DiscriminatorState:
    """The GAN's other network.

    Attributes:
      params: its parameters.
      batch_stats: running statistics of its batch norms; empty if it has none.
      opt_state: state of its optimizer.
    """

    params: Params
    batch_stats: Params
    opt_state: optax.OptState


@struct.dataclass
class TokenizerState(TrainState):
    """A tokenizer's training.

    Attributes:
      discriminator: None for a training without a GAN.
    """

    discriminator: DiscriminatorState | None = None


def create_state(
    init_params: Callable[[PRNGKeyArray], Params],
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
) -> TrainState:
    """A fresh state of the parameters that ``init_params`` draws."""

    def create(key: PRNGKeyArray) -> TrainState:
        params = init_params(key)
        ema_params = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, ema_params, optimizer.init(params))

    # It runs once: optimised on a CPU, it takes half a minute to compile; like this, two seconds.
    return jax.jit(create, compiler_options={"xla_backend_optimization_level": "0"})(key)


def apply_gradients(
    state: TrainState,
    grads: Params,
    optimizer: optax.GradientTransformation,
    ema: ConfigDict,
    call: Int[Array, ""],
    frozen: PyTree[bool] | None = None,
) -> TrainState:
    """The state after one optimizer update and one EMA call; its step is not counted on.

    ``call`` is the number of the update for the EMA, from 0; parameters that are ``frozen``, and
    their average, keep their bits.
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = keep_frozen(state.params, optax.apply_updates(state.params, updates), frozen)
    ema_params = update_ema(state.ema_params, params, ema_decay(call, ema))
    return state.replace(
        params=params,
        ema_params=keep_frozen(state.ema_params, ema_params, frozen),
        opt_state=opt_state,
    )


def to_trees(state: TrainState) -> dict[str, Any]:
    """The trees of a checkpoint; evaluation reads one of the first two alone."""
    optimizer = {"step": state.step, "opt_state": state.opt_state}
    return {"params": state.params, "ema_params": state.ema_params, "optimizer": optimizer}


def from_trees(trees: Mapping[str, Any]) -> TrainState:
    """The inverse of ``to_trees``."""
    return TrainState(params=trees["params"], ema_params=trees["ema_params"], **trees["optimizer"])
