"""Losses of the tokenizer. Images are in [-1, 1]; every loss is a float32 scalar."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.features import convnext, inception
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
        n = config.lpips_images or images.shape[0]
        dropout_key = key if config.lpips_dropout else None
        distances = lpips(
            frozen["lpips"],
            reconstructions[:n],
            images[:n],
            dtype=dtype,
            dropout_key=dropout_key,
        )
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
    terms = {}
    if config.inception_weight:
        terms["inception"] = inception.inception_perceptual(
            frozen["inception"],
            reconstructions,
            images,
            scaling=config.inception_scaling,
            dtype=dtype,
        ).mean()
    if config.convnext_weight:
        terms["convnext"] = convnext.convnext_perceptual(
            frozen["convnext"],
            reconstructions,
            images,
            normalisation=config.convnext_normalisation,
            dtype=dtype,
        ).mean()
    if config.vgg_weight:
        terms["vgg"] = vgg_perceptual(frozen["lpips"], reconstructions, images, dtype=dtype).mean()
    loss = sum((config[f"{name}_weight"] * term for name, term in terms.items()), jnp.float32(0))
    return loss, terms
