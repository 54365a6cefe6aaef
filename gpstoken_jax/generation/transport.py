"""Paths from noise to data, and what a network on them predicts (SiT, arXiv 2401.08740).

At time t, from 0 (noise) to 1 (data), ``x_t = alpha(t) data + sigma(t) noise``. A network predicts
the velocity d x_t / d t, the noise, or the score (the gradient of x_t's log density); each can be
made of each. Times are scalars or one an example, ``[B]``; values are ``[B, ...]``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

Times = Float[Array, "..."]

# Noise and score cannot be learned, nor divided by, at the very ends; the published distances.
_TRAIN_MARGIN, _SAMPLE_MARGIN, _VP_TRAIN_MARGIN = 1e-3, 1e-3, 1e-5
_SDE_START = 1e-3  # the diffusion is infinite at 0
_VP_BETA = (0.1, 20.0)


class Coefficients(NamedTuple):
    """alpha and sigma of a path at a time, and their derivatives."""

    alpha: Times
    d_alpha: Times
    sigma: Times
    d_sigma: Times

    @property
    def growth(self) -> Times:
        """D log(alpha) / dt."""
        return self.d_alpha / self.alpha

    @property
    def variance_rate(self) -> Times:
        """W with velocity = growth x + w score; twice it is the diffusion of the forward SDE."""
        return self.growth * self.sigma**2 - self.sigma * self.d_sigma


def _linear(t: Times) -> Coefficients:
    return Coefficients(t, jnp.ones_like(t), 1 - t, -jnp.ones_like(t))


def _gvp(t: Times) -> Coefficients:
    """Variance-preserving trigonometric path."""
    quarter = jnp.pi / 2
    cos, sin = jnp.cos(quarter * t), jnp.sin(quarter * t)
    return Coefficients(sin, quarter * cos, cos, -quarter * sin)


def _vp(t: Times) -> Coefficients:
    """The path of score-based diffusion with a linear schedule (arXiv 2011.13456)."""
    low, high = _VP_BETA
    back = 1 - t
    log_alpha = -0.25 * back**2 * (high - low) - 0.5 * back * low
    growth = 0.5 * (back * (high - low) + low)
    alpha, sigma = jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))
    return Coefficients(alpha, alpha * growth, sigma, -(alpha**2) * growth / sigma)


PATHS: dict[str, Callable[[Times], Coefficients]] = {"linear": _linear, "gvp": _gvp, "vp": _vp}
PREDICTIONS = ("velocity", "noise", "score")
LOSS_WEIGHTS = ("none", "velocity", "likelihood")
DIFFUSIONS = ("sbdm", "constant", "sigma", "linear", "decreasing", "increasing_decreasing")


@dataclass(frozen=True)
class Transport:
    """A path and the meaning of the network's output.

    Attributes:
      path: a key of ``PATHS``.
      prediction: one of ``PREDICTIONS``.
      loss_weight: of noise and score losses by time, one of ``LOSS_WEIGHTS``: ``"velocity"`` makes
        them velocity losses, ``"likelihood"`` a bound of the likelihood.

    Raises:
      ValueError: for names that are none, or a velocity on the VP path, which is infinite at 1.
    """

    path: str = "linear"
    prediction: str = "velocity"
    loss_weight: str = "none"

    def __post_init__(self):
        for name, known in (
            ("path", tuple(PATHS)),
            ("prediction", PREDICTIONS),
            ("loss_weight", LOSS_WEIGHTS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")
        if self.prediction == "velocity" and (self.path == "vp" or self.loss_weight != "none"):
            raise ValueError("prediction='velocity' goes without path='vp' and without loss_weight")

    @classmethod
    def of(cls, config: ConfigDict) -> "Transport":
        """From the ``transport`` section of a config."""
        return cls(config.path, config.prediction, config.loss_weight)

    # ---- Times ----------------------------------------------------------------------------------

    @property
    def training_times(self) -> tuple[float, float]:
        """Range of the times to train at."""
        if self.path == "vp":
            return 0.0, 1 - _VP_TRAIN_MARGIN
        margin = 0.0 if self.prediction == "velocity" else _TRAIN_MARGIN
        return margin, 1 - margin

    @property
    def ode_times(self) -> tuple[float, float]:
        """From where to where an ODE is integrated."""
        if self.prediction == "velocity":
            return 0.0, 1.0
        return 0.0 if self.path == "vp" else _SAMPLE_MARGIN, 1 - _SAMPLE_MARGIN

    def sde_times(self, last_step: float) -> tuple[float, float]:
        """From where to where an SDE is integrated, before a last step of this size, 0 for none."""
        return _SDE_START, 1 - last_step if last_step else self.ode_times[1]

    # ---- Training -------------------------------------------------------------------------------

    def interpolate(
        self, data: Float[Array, "b *n"], noise: Float[Array, "b *n"], t: Times
    ) -> tuple[Float[Array, "b *n"], Float[Array, "b *n"]]:
        """x_t and its velocity."""
        c = self._at(t, data)
        return c.alpha * data + c.sigma * noise, c.d_alpha * data + c.d_sigma * noise

    def loss(
        self,
        output: Float[Array, "b *n"],
        data: Float[Array, "b *n"],
        noise: Float[Array, "b *n"],
        t: Float[Array, " b"],
    ) -> Float[Array, " b"]:
        """Weighted mean squared error of the network's output at x_t, by example."""
        c = self._at(t, data)
        if self.prediction == "velocity":
            error = output - (c.d_alpha * data + c.d_sigma * noise)
        elif self.prediction == "noise":
            error = output - noise
        else:
            error = c.sigma * output + noise
        squares = jnp.square(error) * self._loss_weight(c)
        return squares.mean(axis=tuple(range(1, data.ndim)))

    def example_loss(
        self,
        predict: Callable[..., Float[Array, "b *n"]],
        data: Float[Array, "b *n"],
        noise: Float[Array, "b *n"],
        t: Float[Array, " b"],
        *conditions: Any,
    ) -> Float[Array, " b"]:
        """Loss of each example at a time of its own; ``predict`` takes x_t, t and conditions."""
        x, _ = self.interpolate(data, noise, t)
        return self.loss(predict(x, t, *conditions), data, noise, t)

    def _loss_weight(self, c: Coefficients) -> Times | float:
        if self.loss_weight == "velocity":
            return (c.variance_rate / c.sigma) ** 2
        return c.variance_rate / c.sigma**2 if self.loss_weight == "likelihood" else 1.0

    # ---- Sampling -------------------------------------------------------------------------------

    def velocity(
        self, output: Float[Array, "b *n"], x: Float[Array, "b *n"], t: Times
    ) -> Float[Array, "b *n"]:
        """The velocity of x that an output stands for: the drift of the probability-flow ODE."""
        if self.prediction == "velocity":
            return output
        c = self._at(t, x)
        return c.growth * x + c.variance_rate * self.score(output, x, t)

    def score(
        self, output: Float[Array, "b *n"], x: Float[Array, "b *n"], t: Times
    ) -> Float[Array, "b *n"]:
        """The score of x that an output stands for."""
        c = self._at(t, x)
        if self.prediction == "score":
            return output
        if self.prediction == "noise":
            return -output / c.sigma
        pace = c.alpha / c.d_alpha
        return (pace * output - x) / (c.sigma**2 - pace * c.d_sigma * c.sigma)

    def denoised(
        self, output: Float[Array, "b *n"], x: Float[Array, "b *n"], t: Times
    ) -> Float[Array, "b *n"]:
        """The mean of the data given x (Tweedie's formula)."""
        c = self._at(t, x)
        return (x + c.sigma**2 * self.score(output, x, t)) / c.alpha

    def diffusion(self, t: Times, form: str = "sbdm", norm: float = 1.0) -> Times:
        """Noise that an SDE adds at a time, and the share of the score in its drift.

        Every form leaves the distributions at all times as they are. ``norm`` scales it.

        Raises:
          ValueError: for a form that is none of ``DIFFUSIONS``.
        """
        c = PATHS[self.path](t)
        forms = {
            "sbdm": lambda: norm * c.variance_rate,  # that of the forward process
            "constant": lambda: jnp.full_like(t, norm),
            "sigma": lambda: norm * c.sigma,
            "linear": lambda: norm * (1 - t),
            "decreasing": lambda: 0.25 * (norm * jnp.cos(jnp.pi * t) + 1) ** 2,
            "increasing_decreasing": lambda: norm * jnp.sin(jnp.pi * t) ** 2,
        }
        if form not in forms:
            raise ValueError(f"diffusion must be one of {DIFFUSIONS}, not {form!r}")
        return forms[form]()

    def _at(self, t: Times, x: Float[Array, "b *n"]) -> Coefficients:
        """The path's coefficients, to be multiplied with x."""
        t = jnp.asarray(t, x.dtype)
        return PATHS[self.path](t.reshape(t.shape + (1,) * (x.ndim - 1)) if t.ndim else t)
