"""Initial weights as PyTorch draws them, which is how the published training started (SPEC 7).

PyTorch's convolutions and linear layers start uniform in +-fan_in ** -0.5, weights and biases:
a third of the variance of Flax's, and biases that are not zero.
"""

import math
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PRNGKeyArray

Params = Any
_ATTENTION = ("qkv", "attention_out")
_KERNEL_OF = {"bias": "kernel", "position_bias": "position_kernel"}


def published_init(params: Params, key: PRNGKeyArray) -> Params:
    """Draws the weights of a ``GPSToken`` again, but for those that Flax draws the same way.

    Attention's input projections are Xavier uniform, and its biases zero; norms are the identity,
    the learned query is normal, and the head that moves Gaussians is zero.

    Args:
      params: the tokenizer's, ``{"params": ...}``, as ``GPSToken.init`` makes them.
      key: decides them.
    """
    flat = flatten_dict(params["params"])
    keys = jax.random.split(key, len(flat))
    drawn = {path: _draw(flat, path, k) for path, k in zip(flat, keys, strict=True)}
    return {"params": unflatten_dict(drawn)}


def _draw(flat: dict[tuple[str, ...], Array], path: tuple[str, ...], key: PRNGKeyArray) -> Array:
    value, (module, name) = flat[path], path[-2:]
    kernel = flat.get((*path[:-1], _KERNEL_OF.get(name, name)))
    is_weight = name.endswith("kernel")
    if module == "geometry_head" or (module in _ATTENTION and not is_weight):
        return value
    if kernel is None or not (is_weight or name in _KERNEL_OF):
        return value
    *inputs, outputs = kernel.shape[1:] if "blocks" in path else kernel.shape  # blocks are stacked
    fan_in = math.prod(inputs)
    limit = math.sqrt(6 / (fan_in + outputs)) if module == "qkv" else fan_in**-0.5
    return jax.random.uniform(key, value.shape, value.dtype, -limit, limit)
