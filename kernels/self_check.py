"""Trust no kernel unseen: its first use on a kind of device is compared with plain XLA.

Kernels are compiled by other means than the rest of JAX and tested on other machines than the
user's. One small case, forward and backward, tells whether this one works here.
"""

import functools
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gpstoken_jax.kernels import xla

SIZE, TOKENS, CHANNELS = (24, 20), 100, 20
TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}  # of the norm; bfloat16 has eight bits


def fault(module: ModuleType, name: str, platform: str, features_dtype: DTypeLike) -> str | None:
    """Reason why `module`'s kernels must not be used on the default device, or None; asked once.

    Warns, naming device, JAX version and error, when they must not.
    """
    dtype = jnp.dtype(features_dtype).name
    return _fault(module, name, platform, dtype) if dtype in TOLERANCE else None


@functools.cache
def _fault(module, name, platform, dtype) -> str | None:
    # In a thread of its own, because a trace under way (jit, pmap, shard_map) belongs to its
    # thread.
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(_compare, module, dtype).result()
    if found is None:
        return None
    where = f"{jax.devices()[0].device_kind} ({platform}), JAX {jax.__version__}"
    found = f"its check against xla failed on {where}, {dtype} features: {found}"
    warnings.warn(f"kernels.splat will do without {name!r}: {found}", RuntimeWarning, stacklevel=2)
    return found


def _compare(module, dtype: str) -> str | None:
    arguments = _case(dtype)
    try:
        actual = _value_and_gradients(module.splat, *arguments)
    except Exception as error:  # whatever a compiler or driver may raise
        return f"{type(error).__name__}: {str(error)[:500]}"
    expected = _value_and_gradients(xla.splat, *arguments)
    names = ("map", "geometry gradient", "features gradient")
    for what, a, b in zip(names, actual, expected, strict=True):
        difference = np.linalg.norm(a - b) / np.linalg.norm(b)
        if not difference < TOLERANCE[dtype]:  # a NaN is no pass
            return f"the {what} differs by {difference:.1e} of its norm"
    return None


def _case(dtype: str):
    """Several tiles and blocks, odd sizes, tokens on and off the map."""
    rng = np.random.default_rng(0)
    shape = (2, TOKENS)
    ranges = (0.02, 0.5), (0.02, 0.5), (-0.95, 0.95), (-1.2, 1.2), (-1.2, 1.2)
    geometry = np.stack([rng.uniform(*r, shape) for r in ranges], axis=-1)
    features = rng.normal(size=(*shape, CHANNELS))
    cotangent = rng.normal(size=(2, *SIZE, CHANNELS))
    as_float = lambda a: jnp.asarray(a, jnp.float32)  # noqa: E731
    return as_float(geometry), jnp.asarray(features, dtype), as_float(cotangent)


def _value_and_gradients(splat, geometry, features, cotangent) -> list[np.ndarray]:
    @jax.jit
    def run(geometry, features, cotangent):
        image, pullback = jax.vjp(lambda g, f: splat(g, f, SIZE, 3.0), geometry, features)
        return image, *pullback(cotangent)

    return [np.asarray(a, np.float64) for a in run(geometry, features, cotangent)]
