"""`vmap` for functions that already take a batch: fold the new axis into the first one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def fold_vmap(function: Callable[..., Array | tuple[Array, ...]]) -> Callable:
    """Make `vmap` of a function of [B, ...] arrays one call with a larger B.

    Loops whose trip counts depend on the data, and GPU kernels, batch badly or not at all under
    JAX's own rule.
    """
    folded = jax.custom_batching.custom_vmap(function)

    @folded.def_vmap
    def rule(axis_size, in_batched, *arguments):
        arguments = [
            a if batched else jnp.broadcast_to(a, (axis_size, *a.shape))
            for a, batched in zip(arguments, in_batched, strict=True)
        ]
        batch = arguments[0].shape[1]
        outputs = folded(*(a.reshape(axis_size * batch, *a.shape[2:]) for a in arguments))
        unfold = lambda a: a.reshape(axis_size, batch, *a.shape[1:])  # noqa: E731
        return jax.tree.map(unfold, outputs), jax.tree.map(lambda _: True, outputs)

    def tied(*arguments):
        # Under shard_map a kernel's output does not know that it varies over the mesh as the inputs
        # do. Their sum with a zero that varies does; compiled, nothing is left of it.
        zero = sum(jnp.zeros_like(a, shape=(), dtype=jnp.float32) for a in arguments)
        return jax.tree.map(lambda output: output + zero.astype(output.dtype), folded(*arguments))

    return tied
