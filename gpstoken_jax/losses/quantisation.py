"""Tokens in levels during training, so that the weights get used to them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def round_straight_through(tokens: Float[Array, "b l d"], bits: int) -> Float[Array, "b l d"]:
    """Rounds every channel to 2^bits levels between its extremes in the batch, as ``TokenCodec``.

    The gradient passes as if nothing were rounded (Bengio et al. 2013, arXiv 1308.3432).

    Args:
      tokens: of a batch.
      bits: of a value; 0 rounds nothing.
    """
    if not bits:
        return tokens
    low, high = tokens.min((0, 1)), tokens.max((0, 1))
    step = (high - low) / (2**bits - 1)
    step = jnp.where(step > 0, step, 1)
    rounded = low + jnp.round((tokens - low) / step) * step
    return tokens + jax.lax.stop_gradient(rounded - tokens)
