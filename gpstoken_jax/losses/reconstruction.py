"""Losses of the tokenizer. Images are in [-1, 1]; every loss is a float32 scalar."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.features.convnext import convnext_perceptual
from gpstoken_jax.features.inception import inception_perceptual
from gpstoken_jax.features.lpips import lpips
from gpstoken_jax.features.vgg import vgg_perceptual

Scalar = Float[Array, ""]
Images = Float[Array, "b h w 3"]


def reconstruction_loss(
    images: Images,
    reconstructions: Images,
    frozen: Mapping[str, Any],
    config: ConfigDict,
    *,
    dtype: jnp.dtype = jnp.float32,
    key: PRNGKeyArray | None = None,
) -> tuple[Scalar, dict[str, Scalar]]:
    """Weighted sum of mean squared error and LPIPS.

    Args:
      images: the targets.
      reconstructions: what the model made of them.
      frozen: weights of the loss networks; ``"lpips"`` is needed if its weight is not 0.
      config: the loss section of a config.
      dtype: compute dtype of the loss networks; distances are float32.
      key: for ``config.lpips_dropout``.

    Returns:
      The loss and its terms by name, unweighted.
    """
    terms = {"mse": jnp.square(reconstructions.astype(jnp.float32) - images).mean()}
    loss = config.mse_weight * terms["mse"]
    if config.lpips_weight:
        pair = [x[: config.lpips_images or None] for x in (reconstructions, images)]
        dropout_key = key if config.lpips_dropout else None
        distances = lpips(frozen["lpips"], *pair, dtype=dtype, dropout_key=dropout_key)
        terms["lpips"] = distances.mean()
        loss += config.lpips_weight * terms["lpips"]
    return loss, terms


def perceptual_loss(
    images: Images,
    reconstructions: Images,
    frozen: Mapping[str, Any],
    config: ConfigDict,
    *,
    dtype: jnp.dtype = jnp.float32,
) -> tuple[Scalar, dict[str, Scalar]]:
    """Weighted sum of distances in the features of whole images; 0 if all weights are.

    Of Inception-v3 (the published recipe), ConvNeXt-small (its alternative) and VGG16. The adaptive
    weight of the GAN leaves these terms out. Arguments and results are those of
    ``reconstruction_loss``.
    """
    inception_loss = partial(inception_perceptual, scaling=config.inception_scaling)
    convnext_loss = partial(convnext_perceptual, normalisation=config.convnext_normalisation)
    terms = {
        name: distance(frozen[weights], reconstructions, images, dtype=dtype).mean()
        for name, distance, weights in (
            ("inception", inception_loss, "inception"),
            ("convnext", convnext_loss, "convnext"),
            ("vgg", vgg_perceptual, "lpips"),
        )
        if config[f"{name}_weight"]
    }
    loss = sum((config[f"{name}_weight"] * term for name, term in terms.items()), jnp.float32(0))
    return loss, terms
