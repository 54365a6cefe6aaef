"""`splat`: one operation, several implementations, one place that picks."""

import functools
import logging
import math
import operator

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpstoken_jax.kernels import pallas, reference, self_check, xla

# In the order of preference.
IMPLEMENTATIONS = {"pallas": pallas, "xla": xla, "reference": reference}
CHECKED = ("pallas",)  # compared with xla on first use, see `kernels.self_check`

_log = logging.getLogger(__name__)


def splat(
    geometry: Float[Array, "... l 5"],
    features: Float[Array, "... l c"],
    size: tuple[int, int],
    *,
    support: float = 3.0,
    implementation: str | None = None,
) -> Float[Array, "... h w c"]:
    """Draw Gaussian tokens on a map: at every pixel the sum over tokens of weight * feature.

    Unnormalised, without compositing or order (GPSToken, arXiv 2509.01109, section 3.1; the
    released configurations use support 3). Gradients flow to features and to all five geometry
    values; the support box itself is not differentiated. Reverse mode only, first order (but for
    "reference").

    Args:
      geometry: (sigma_x, sigma_y, rho, mu_x, mu_y) of L tokens in map coordinates, where -1 is the
        centre of the first pixel and 1 the centre of the last; sigma > 0, |rho| < 1. Finite results
        for any finite geometry: sigma is saturated to [1e-12, 1e12] and rho just inside (-1, 1). A
        token with any value that is not finite draws nothing and has gradient 0.
      features: one vector of C values a token, float32 or bfloat16, with the same leading axes.
      size: (H, W) of the map, each at least 1; a side of one pixel has its centre at coordinate 0.
      support: a token draws where |dx| <= support * sigma_x and |dy| <= support * sigma_y.
      implementation: a name from `available()`; None takes the first that can serve and logs which.

    Returns:
      The map [..., H, W, C] in the features' dtype, accumulated in float32.

    Raises:
      ValueError: shapes that do not fit, a size or support that is not positive, an unknown
        implementation.
      NotImplementedError: the named implementation cannot serve here; the message says why.
    """
    size, support = _check(geometry, features, size, support)
    name = implementation or _default(_platform(), str(features.dtype))
    function = _implementation(name, features.dtype)
    lead = features.shape[:-2]
    batch = math.prod(lead)
    if features.size == 0:
        # Nothing is drawn. A sum over no tokens would lose the tie to the inputs that gradients
        # need.
        return jnp.zeros((*lead, *size, features.shape[-1]), features.dtype)
    flat_geometry = geometry.astype(jnp.float32).reshape(batch, *geometry.shape[-2:])
    flat_features = features.reshape(batch, *features.shape[-2:])
    image = function(flat_geometry, flat_features, size, support)
    return image.reshape(*lead, *size, features.shape[-1]).astype(features.dtype)


def available() -> dict[str, str | None]:
    """Every implementation's name, with None if it can serve on this device, else why it cannot."""
    return {name: _reason(name, _platform(), jnp.float32) for name in IMPLEMENTATIONS}


def _platform() -> str:
    device = jax.config.jax_default_device
    return getattr(device, "platform", device) or jax.default_backend()


def _reason(name: str, platform: str, features_dtype) -> str | None:
    """Reason why an implementation cannot serve, or None."""
    module = IMPLEMENTATIONS[name]
    reason = module.unsupported(platform, features_dtype)
    if reason is None and name in CHECKED:
        reason = self_check.fault(module, name, platform, features_dtype)
    return reason


def _check(geometry, features, size, support) -> tuple[tuple[int, int], float]:
    if geometry.ndim < 2 or geometry.shape[-1] != 5:
        raise ValueError(f"geometry must be [..., L, 5], got {geometry.shape}")
    if geometry.shape[:-1] != features.shape[:-1]:
        raise ValueError(
            f"geometry {geometry.shape} and features {features.shape} must agree in all axes "
            "but the last"
        )
    height, width = map(operator.index, size)
    if height < 1 or width < 1:
        raise ValueError(f"size must be (H, W) with both at least 1, got {(height, width)}")
    if not (math.isfinite(support) and support > 0):
        raise ValueError(f"support must be a positive number, got {support}")
    return (height, width), float(support)


def _implementation(name: str, features_dtype):
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"unknown implementation {name!r}; there are {', '.join(IMPLEMENTATIONS)}")
    reason = _reason(name, _platform(), features_dtype)
    if reason is not None:
        raise NotImplementedError(f"implementation {name!r} cannot serve here: {reason}")
    return IMPLEMENTATIONS[name].splat


@functools.cache
def _default(platform: str, features_dtype: str) -> str:
    for name in IMPLEMENTATIONS:
        if _reason(name, platform, jnp.dtype(features_dtype)) is None:
            _log.info("kernels.splat: %s on %s for %s features", name, platform, features_dtype)
            return name
    raise NotImplementedError(f"no implementation of splat serves {features_dtype} on {platform}")
