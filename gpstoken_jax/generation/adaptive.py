"""The probability-flow ODE by dopri5, which chooses its steps itself: diffrax."""

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gpstoken_jax.generation.guidance import Predict
from gpstoken_jax.generation.samplers import Sampler
from gpstoken_jax.generation.transport import Transport

_MAX_STEPS = 4096


def sample_dopri5(
    predict: Predict, transport: Transport, sampler: Sampler, x: Float[Array, "b l c"]
) -> tuple[Float[Array, "b l c"], Int[Array, ""]]:
    """Integrates from noise x to data; can be traced, and mapped over images.

    One controller serves what is given: give one image at a time (``jax.vmap``), else an image
    hangs on the others of its batch, as in the release.

    Returns:
      The data, not a number where ``_MAX_STEPS`` were not enough; and how often ``predict`` was
      evaluated.
    """
    start, end = transport.ode_times

    def field(t, x, _):
        return transport.velocity(predict(x, t), x, t)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri5(),
        start,
        end,
        None,
        x,
        stepsize_controller=diffrax.PIDController(rtol=sampler.rtol, atol=sampler.atol),
        max_steps=_MAX_STEPS,
        throw=False,
    )
    count = 6 * solution.stats["num_steps"] + 1  # a step's seventh slope is the next one's first
    done = solution.result == diffrax.RESULTS.successful
    return jnp.where(done, solution.ys[-1], jnp.nan), count
