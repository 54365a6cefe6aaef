"""From noise to data along a transport: ODE and SDE integrators.

Each takes ``predict(x, t)``, the (guided) network at one time for a batch, and evaluates it once
where drift and score are of the same point; the release evaluates it for each.
Steps are counted as in the release: ``steps`` times on a grid, the last step's among them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gpstoken_jax.generation.guidance import Guidance, Predict
from gpstoken_jax.generation.transport import DIFFUSIONS, Transport

# Normal noise [B, L, C] by number: 0 is where sampling starts, the others are those of SDE steps.
Noise = Callable[[Int[Array, ""] | int], Float[Array, "b l c"]]

LAST_STEPS = ("mean", "tweedie", "euler", "none")


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method: nodes, rows of weights of earlier slopes, final weights."""

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


TABLEAUS = {
    "ode_euler": Tableau((0.0,), ((),), (1.0,)),
    "ode_midpoint": Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "ode_heun": Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    # The 3/8 rule, which torchdiffeq calls rk4.
    "ode_rk4": Tableau(
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    ),
}
METHODS = (*TABLEAUS, "ode_dopri5", "sde_euler", "sde_heun")


@dataclass(frozen=True)
class Sampler:
    """Settings of sampling.

    Attributes:
      method: one of ``METHODS``; ``ode_dopri5`` chooses its steps itself, for each image.
      steps: times on the grid.
      last_step: of an SDE, one of ``LAST_STEPS``: where the noise has to end.
      last_step_size: how long before 1 it is taken.
      diffusion: of an SDE, see ``Transport.diffusion``.
      diffusion_norm: its scale.
      rtol: relative tolerance of dopri5.
      atol: absolute tolerance of dopri5.

    Raises:
      ValueError: for an unknown name or too few steps.
    """

    method: str = "sde_euler"
    steps: int = 250
    last_step: str = "mean"
    last_step_size: float = 0.04
    diffusion: str = "sbdm"
    diffusion_norm: float = 1.0
    rtol: float = 1e-3
    atol: float = 1e-6

    def __post_init__(self):
        for name, known in (
            ("method", METHODS),
            ("last_step", LAST_STEPS),
            ("diffusion", DIFFUSIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        if not hasattr(self.steps, "__index__") or self.steps < 2:
            raise ValueError(f"sampling takes at least 2 steps, a whole number, not {self.steps!r}")

    @property
    def is_sde(self) -> bool:
        """True for the stochastic methods."""
        return self.method.startswith("sde")

    def grid(self, transport: Transport) -> Float[np.ndarray, " n"]:
        """The times of the steps, float32; an SDE's last step is taken at the last of them."""
        ends = transport.ode_times
        if self.is_sde:
            ends = transport.sde_times(0.0 if self.last_step == "none" else self.last_step_size)
        return np.linspace(*ends, self.steps, dtype=np.float32)

    def evaluation_times(self, transport: Transport) -> Float[np.ndarray, " n"]:
        """Times at which the network is evaluated for an image, one evaluation each.

        Raises:
          ValueError: for dopri5, which finds its times out.
        """
        if self.method == "ode_dopri5":
            raise ValueError("ode_dopri5 has no times of its own")
        times = self.grid(transport)
        starts, dt = times[:-1, None], np.diff(times)[:, None]
        if self.is_sde:
            nodes = (0.0, 1.0) if self.method == "sde_heun" else (0.0,)
            dt = dt[0]
        else:
            nodes = TABLEAUS[self.method].nodes
        inner = (starts + np.array(nodes, np.float32) * dt).reshape(-1)
        return np.append(inner, times[-1]) if self.is_sde and self.last_step != "none" else inner


def evaluations(sampler: Sampler, transport: Transport, guidance: Guidance) -> int:
    """Evaluations of the network for one image, conditional and null counted each.

    Raises:
      ValueError: for dopri5; ``adaptive.sample_dopri5`` counts.
    """
    return guidance.rows(sampler.evaluation_times(transport))


def image_noise(keys: PRNGKeyArray, shape: tuple[int, ...]) -> Noise:
    """Noise of images with keys of their own, [B]: the same in whichever batch they are made."""

    def noise(number: Int[Array, ""] | int) -> Float[Array, "b *shape"]:
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), shape))(keys)

    return noise


def sample(
    predict: Predict,
    transport: Transport,
    sampler: Sampler,
    noise: Noise,
    *,
    trajectory: bool = False,
) -> Float[Array, "b l c"] | Float[Array, "n b l c"]:
    """Integrates from ``noise(0)`` to data with a method of fixed steps; can be traced.

    Args:
      predict: the guided network.
      transport: what its output means.
      sampler: the method; not dopri5, see ``adaptive``.
      noise: by number.
      trajectory: return the state at every time of the grid and, of an SDE, after the last step.
    """
    times = jnp.asarray(sampler.grid(transport))
    x = noise(0)
    if not sampler.is_sde:
        step = _ode_step(predict, transport, TABLEAUS[sampler.method])
        x, states = jax.lax.scan(_kept(step, trajectory), x, (times[:-1], jnp.diff(times)))
        return jnp.concatenate([noise(0)[None], states]) if trajectory else x
    step = _sde_step(predict, transport, sampler, noise, times[1] - times[0])
    numbers = jnp.arange(1, sampler.steps)
    x, states = jax.lax.scan(_kept(step, trajectory), x, (times[:-1], numbers))
    end = _last_step(predict, transport, sampler, x, times[-1])
    return jnp.concatenate([noise(0)[None], states, end[None]]) if trajectory else end


def _kept(step: Callable, trajectory: bool) -> Callable:
    """A step in the form of ``lax.scan``; keeps the states if there is someone to look at them."""

    def scanned(x, at):
        x = step(x, *at)
        return x, (x if trajectory else None)

    return scanned


def _ode_step(predict: Predict, transport: Transport, tableau: Tableau) -> Callable:
    def step(x, t, dt):
        slopes = []
        for node, row in zip(tableau.nodes, tableau.rows, strict=True):
            inner = x + dt * _weighted(row, slopes) if row else x
            at = t + node * dt
            slopes.append(transport.velocity(predict(inner, at), inner, at))
        return x + dt * _weighted(tableau.weights, slopes)

    return step


def _weighted(weights: tuple[float, ...], slopes: list[Array]) -> Array:
    used = [(weight, slope) for weight, slope in zip(weights, slopes, strict=True) if weight]
    total = used[0][0] * used[0][1]
    for weight, slope in used[1:]:
        total = total + weight * slope
    return total


def _sde_step(
    predict: Predict, transport: Transport, sampler: Sampler, noise: Noise, dt: Float[Array, ""]
) -> Callable:
    """A step of Euler-Maruyama, or of Heun after the noise is added."""

    def kick(x, t, number):
        spread = jnp.sqrt(2 * transport.diffusion(t, sampler.diffusion, sampler.diffusion_norm))
        return x + spread * jnp.sqrt(dt) * noise(number)

    def euler(x, t, number):
        return kick(x + _sde_drift(predict, transport, sampler, x, t) * dt, t, number)

    def heun(x, t, number):
        x = kick(x, t, number)
        first = _sde_drift(predict, transport, sampler, x, t)
        second = _sde_drift(predict, transport, sampler, x + dt * first, t + dt)
        return x + 0.5 * dt * (first + second)

    return heun if sampler.method == "sde_heun" else euler


def _sde_drift(
    predict: Predict, transport: Transport, sampler: Sampler, x: Array, t: Array
) -> Array:
    """Velocity plus the diffusion's share of the score, both of one evaluation."""
    output = predict(x, t)
    share = transport.diffusion(t, sampler.diffusion, sampler.diffusion_norm)
    return transport.velocity(output, x, t) + share * transport.score(output, x, t)


def _last_step(
    predict: Predict, transport: Transport, sampler: Sampler, x: Array, t: Array
) -> Array:
    """The end of an SDE: no noise after it."""
    if sampler.last_step == "none":
        return x
    if sampler.last_step == "mean":
        return x + _sde_drift(predict, transport, sampler, x, t) * sampler.last_step_size
    output = predict(x, t)
    if sampler.last_step == "tweedie":
        return transport.denoised(output, x, t)
    return x + transport.velocity(output, x, t) * sampler.last_step_size
