"""Exponential moving average of the parameters, with the warm-up of the published runs."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

Params = Any


def ema_decay(call: Int[Array, ""], config: ConfigDict) -> Float[Array, ""]:
    """Weight of the old average in update number ``call`` (from 0), as ema_pytorch 0.6 has it.

    Copies until ``update_after``, then decays with ``1 - (1 + n) ** -power``, n being the calls
    since, up to ``decay``; acts on every ``update_every``-th call. 0 copies, 1 changes nothing.
    With ``power`` 0 there is no warm-up: it decays with ``decay`` from the first call on.
    """
    if not config.power:
        return jnp.where(call % config.update_every == 0, config.decay, 1.0)
    since = jnp.maximum(call - config.update_after, 0).astype(jnp.float32)
    decay = jnp.clip(1 - (1 + since) ** -config.power, 0.0, config.decay)
    # The first update after the copies starts from a copy: its decay is applied to equal values.
    first = call <= config.update_after + config.update_every
    decay = jnp.where(first, 0.0, decay)
    return jnp.where(call % config.update_every == 0, decay, 1.0)


def update_ema(ema_params: Params, params: Params, decay: Float[Array, ""]) -> Params:
    """``decay * ema_params + (1 - decay) * params``, leaf by leaf."""
    return jax.tree.map(lambda ema, p: ema + (1 - decay) * (p - ema), ema_params, params)
