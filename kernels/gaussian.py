"""Mathematics of every implementation: pixel coordinates, Gaussian weights and their gradients.

A token is a Gaussian with geometry (sigma_x, sigma_y, rho, mu_x, mu_y) and a feature vector. With
u = (x - mu_x) / sigma_x, v = (y - mu_y) / sigma_y, a = u - rho v, b = v - rho u and o = 1 - rho^2,

    weight = exp(-(u^2 - 2 rho u v + v^2) / (2 o)) = exp(-(a^2 / o + v^2) / 2)

inside the support box |x - mu_x| <= s sigma_x, |y - mu_y| <= s sigma_y, and 0 outside. The second
form is used because it does not cancel when |rho| is close to 1. The map is the sum over tokens of
weight * feature (GPSToken, arXiv 2509.01109, section 3.1, without the density constant, as the
published weights expect).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

MIN_SIGMA = 1e-12
MAX_SIGMA = 1e12
MAX_RHO = 1.0 - 2.0**-24  # the largest float32 below 1, so that 1 - rho^2 is never 0
# A token that draws nothing: however large the support, its box does not reach the map.
INERT = np.array([1.0, 1.0, 0.0, 1e30, 1e30], np.float32)


def pixel_coordinates(count: int) -> np.ndarray:
    """Centres of `count` pixels, float32: -1 is the first, +1 the last; one pixel alone sits at 0.

    The published implementation divides by zero for one pixel; the middle of [-1, 1] is what
    symmetry asks.
    """
    if count == 1:
        return np.zeros(1, np.float32)
    return (2.0 * np.arange(count) / (count - 1) - 1.0).astype(np.float32)


def well_posed(geometry: Float[Array, "... 5"]) -> Float[Array, "... 5"]:
    """Geometry that is finite to work with: sigma in [1e-12, 1e12] and |rho| < 1.

    Values already in range pass unchanged with their gradient; those outside are saturated, with
    gradient 0. A token with any value that is not finite becomes one that draws nothing, and gets
    no gradient: it must not reach the others.
    """
    finite = jnp.isfinite(geometry).all(axis=-1, keepdims=True)
    sigma_x, sigma_y, rho, mu_x, mu_y = jnp.moveaxis(jnp.where(finite, geometry, INERT), -1, 0)
    return jnp.stack(
        [
            _saturate(sigma_x, MIN_SIGMA, MAX_SIGMA),
            _saturate(sigma_y, MIN_SIGMA, MAX_SIGMA),
            _saturate(rho, -MAX_RHO, MAX_RHO),
            mu_x,
            mu_y,
        ],
        axis=-1,
    )


def _saturate(value: Array, low: float, high: float) -> Array:
    # jnp.clip would halve the gradient of a value that sits exactly on a bound.
    return jnp.where(value < low, low, jnp.where(value > high, high, value))


def local_weights(
    geometry: Float[Array, "... t 5"],
    x: Float[Array, "... p"],
    y: Float[Array, "... p"],
    support: float,
) -> tuple[Array, Array, Array]:
    """Local coordinates u, v and weights of t tokens at p pixels; each [..., t, p].

    u, v and the weight are 0 outside the support box, so nothing there can overflow.
    """
    sigma_x, sigma_y, rho, mu_x, mu_y = (geometry[..., i, None] for i in range(5))
    d_x, d_y = x[..., None, :] - mu_x, y[..., None, :] - mu_y
    inside = (jnp.abs(d_x) <= support * sigma_x) & (jnp.abs(d_y) <= support * sigma_y)
    u = jnp.where(inside, d_x, 0.0) * (1.0 / sigma_x)
    v = jnp.where(inside, d_y, 0.0) * (1.0 / sigma_y)
    a = u - rho * v
    exponent = a * a * (0.5 / ((1.0 - rho) * (1.0 + rho))) + 0.5 * v * v
    return u, v, jnp.where(inside, jnp.exp(-exponent), 0.0)


def moments(rho: Array, u: Array, v: Array, w: Array) -> tuple[Array, ...]:
    """The five summands of the geometry gradient; w = weight * d loss / d weight."""
    a, b = u - rho * v, v - rho * u
    w_a, w_b = w * a, w * b
    return w_a * u, w_b * v, w_a * b, w_a, w_b


def geometry_gradient(
    geometry: Float[Array, "... 5"], sums: Sequence[Float[Array, "..."]]
) -> Float[Array, "... 5"]:
    """Gradient of the geometry from the sums over pixels of `moments`."""
    sigma_x, sigma_y, rho = (geometry[..., i] for i in range(3))
    inverse_o = 1.0 / ((1.0 - rho) * (1.0 + rho))
    w_au, w_bv, w_ab, w_a, w_b = (s * inverse_o for s in sums)
    gradient = [w_au / sigma_x, w_bv / sigma_y, w_ab * inverse_o, w_a / sigma_x, w_b / sigma_y]
    return jnp.stack(gradient, axis=-1)
