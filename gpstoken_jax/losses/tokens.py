"""Losses of the tokens themselves. The published recipe has none; this is where one goes."""

import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

Scalar = Float[Array, ""]


def token_loss(
    tokens: Float[Array, "b l 5+c"], config: ConfigDict
) -> tuple[Scalar, dict[str, Scalar]]:
    """Computes the weighted sum of the losses of refined tokens; 0 if there are none.

    The GAN's adaptive weight leaves these terms out.

    Args:
      tokens: refined tokens.
      config: the loss section of a config.

    Returns:
      The loss and its terms by name, unweighted; every term is in the log.
    """
    terms: dict[str, Scalar] = {}
    loss = sum((config[f"{name}_weight"] * term for name, term in terms.items()), jnp.float32(0))
    return loss, terms
