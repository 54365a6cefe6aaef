"""The moving average against the schedule of the published runs."""

import jax
import jax.numpy as jnp
import numpy as np

from gpstoken_jax.configs import common
from gpstoken_jax.training.ema import ema_decay, update_ema


def test_is_the_published_schedule(golden_dir):
    """The release counts one call an update; ours hands over the step before it is raised."""
    golden = np.load(golden_dir / "ema_schedule.npz")
    config = common.get_config().ema

    def call(ema, inputs):
        number, param = inputs
        ema = update_ema(ema, param, ema_decay(number, config))
        return ema, ema

    numbers = jnp.arange(len(golden["param"]))
    _, averages = jax.lax.scan(call, jnp.float32(0), (numbers, golden["param"]))
    np.testing.assert_allclose(averages, golden["ema"], rtol=2e-5, atol=2e-6)


def test_cap_and_interval_are_of_the_config():
    config = common.get_config().ema
    config.update(decay=0.5, update_every=1, update_after=0)
    assert ema_decay(jnp.int32(10_000), config) == 0.5
    config.update_every = 7
    decays = [float(ema_decay(jnp.int32(k), config)) for k in range(1000, 1007)]
    assert sum(decay < 1 for decay in decays) == 1


def test_power_0_has_no_warm_up():
    """As SiT's authors: the first average is of the initial weights and the first update's."""
    config = common.get_config().ema
    config.update(power=0, update_every=1, update_after=0)
    for call in (0, 1, 2, 1_000_000):
        assert ema_decay(jnp.int32(call), config) == np.float32(0.9999)
    config.update_every = 10
    decays = [float(ema_decay(jnp.int32(k), config)) for k in range(10)]
    assert decays == [np.float32(0.9999), *[1.0] * 9]
