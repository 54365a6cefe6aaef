"""Schedule of the updates of each network.

``"together"``: from the GAN's start on, both networks in every step. ``"alternate"``, as published:
the autoencoder hears the discriminator from the start on, the first step or two before that one was
ever updated (a quirk of the release); after the start, odd steps (counted from 0) update the
discriminator and even ones the autoencoder.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from gpstoken_jax.training.gradients import AUTOENCODER, BOTH, DISCRIMINATOR, WITHOUT_GAN, Update


def gan_start(config: ConfigDict) -> int:
    """Steps done before the first with a GAN; the run's length if there is none.

    Raises:
      ValueError: for an unknown schedule.
    """
    if config.train.schedule not in ("together", "alternate"):
        raise ValueError(
            f"train.schedule must be 'together' or 'alternate', not {config.train.schedule!r}"
        )
    steps = config.train.steps
    return min(config.gan.start_step, steps) if config.gan.weight else steps


def update_after(done: int, config: ConfigDict) -> Update:
    """Update of the step that comes when ``done`` steps are done."""
    start = gan_start(config)
    if done < start:
        return WITHOUT_GAN
    if config.train.schedule == "together":
        return BOTH
    return DISCRIMINATOR if done > start and done % 2 else AUTOENCODER


def autoencoder_updates(
    done: Int[Array, ""] | int, config: ConfigDict, start: Int[Array, ""] | None = None
) -> Int[Array, ""]:
    """Counts updates of the autoencoder in the first ``done`` steps; its EMA counts these.

    start: ``gan_start``, for a step that was given it.
    """
    if config.train.schedule == "together":
        return jnp.asarray(done)
    start = gan_start(config) if start is None else start
    discriminators = done // 2 - (start + 1) // 2  # odd steps after the start, of those done
    return done - jnp.where(done > start, discriminators, 0)
