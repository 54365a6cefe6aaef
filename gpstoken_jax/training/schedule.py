"""Schedule of the updates of each network.

``"together"``: from the GAN's start on, both networks in every step. ``"alternate"``, as published:
then odd steps (counted from 0) update the discriminator and even ones the autoencoder.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int
from ml_collections import ConfigDict

from gpstoken_jax.training.gradients import AUTOENCODER, BOTH, DISCRIMINATOR, WITHOUT_GAN, Update


def gan_start(config: ConfigDict) -> int:
    """Steps done before the discriminator's first update; the run's length if there is none.

    The release's autoencoder hears the discriminator at ``start_step`` already, before its first
    update (QUIRK of the release); here, never before.

    Raises:
      ValueError: for an unknown schedule.
    """
    start, steps = config.gan.start_step, config.train.steps
    if config.train.schedule not in ("together", "alternate"):
        raise ValueError(
            f"train.schedule must be 'together' or 'alternate', not {config.train.schedule!r}"
        )
    if not config.gan.weight:
        return steps
    if config.train.schedule == "alternate":
        start += 1 if start % 2 == 0 else 2  # the first odd step after it
    return min(start, steps)


def update_after(done: int, config: ConfigDict) -> Update:
    """Update of the step that comes when ``done`` steps are done."""
    if done < gan_start(config):
        return WITHOUT_GAN
    if config.train.schedule == "together":
        return BOTH
    return DISCRIMINATOR if done % 2 else AUTOENCODER


def autoencoder_updates(done: Int[Array, ""] | int, config: ConfigDict) -> Int[Array, ""]:
    """Counts updates of the autoencoder in the first ``done`` steps; its EMA counts these."""
    if config.train.schedule == "together":
        return jnp.asarray(done)
    start = gan_start(config)
    return jnp.where(done < start, done, start + (done - start) // 2)
