"""Gradients of the tokenizer's losses, with and without the GAN, from one forward pass.

The autoencoder runs once. Each loss gives a gradient with respect to the reconstructions; their
weighted sum goes back through the autoencoder once. The discriminator sees the same
reconstructions, and its one forward pass on them serves its own loss and the autoencoder's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.losses.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from gpstoken_jax.losses.reconstruction import perceptual_loss, reconstruction_loss
from gpstoken_jax.losses.tokens import token_loss
from gpstoken_jax.training.state import DiscriminatorState
from gpstoken_jax.training.step import Batch, Metrics

Params = Any
Images = Float[Array, "b h w 3"]
Tokens = Float[Array, "b l 5+c"]


@dataclass(frozen=True)
class Update:
    """Networks that a step updates.

    Attributes:
      autoencoder: the autoencoder.
      discriminator: the discriminator.
      adversarial: the autoencoder's loss has the discriminator's adversarial in it.
    """

    autoencoder: bool
    discriminator: bool
    adversarial: bool

    @property
    def uses_discriminator(self) -> bool:
        """True if the step evaluates the discriminator."""
        return self.discriminator or self.adversarial


WITHOUT_GAN = Update(autoencoder=True, discriminator=False, adversarial=False)
BOTH = Update(autoencoder=True, discriminator=True, adversarial=True)
AUTOENCODER = Update(autoencoder=True, discriminator=False, adversarial=True)
DISCRIMINATOR = Update(autoencoder=False, discriminator=True, adversarial=False)


@struct.dataclass
class Gradients:
    """Gradients of the networks that are updated (None for the other), and what was measured.

    Attributes:
      autoencoder: of its parameters.
      discriminator: of its parameters.
      batch_stats: the discriminator's running statistics after the batch.
      metrics: loss terms by name.
    """

    autoencoder: Params | None
    discriminator: Params | None
    batch_stats: Params | None
    metrics: Metrics


@dataclass(frozen=True)
class TokenizerLoss:
    """The losses of a tokenizer's training.

    Attributes:
      config: the whole config; of it ``loss``, ``gan`` and ``model.dtype``.
      discriminator: the GAN's other network; None if there is no GAN.
      axis_name: gradients that decide the adaptive weight are means over the devices along it.
      last_layer: picks the kernel of the autoencoder's last layer out of its parameters.
    """

    config: ConfigDict
    discriminator: PatchDiscriminator | None
    axis_name: str | None
    last_layer: Callable[[Params], Array]

    def gradients(
        self,
        update: Update,
        autoencode: Callable[[Params], tuple[Images, Tokens]],
        params: Params,
        discriminator: DiscriminatorState | None,
        images: Images,
        frozen: Mapping[str, Any],
        key: PRNGKeyArray,
    ) -> Gradients:
        """Gradients of one batch on one device, not yet averaged over devices.

        Args:
          update: what the step updates; nothing else is computed.
          autoencode: reconstructions and tokens as a function of the autoencoder's parameters.
          params: these parameters.
          discriminator: the other network; None if the step has no use for it.
          images: the targets.
          frozen: weights of the loss networks.
          key: for losses with chance in them.
        """
        if update.autoencoder:
            (reconstructions, tokens), pull_back = jax.vjp(autoencode, params)
        else:
            reconstructions, tokens = autoencode(params)
        grads, metrics = Gradients(None, None, None, {}), {}
        if update.uses_discriminator:
            adversarial = self._adversarial(update, discriminator, images, reconstructions)
            grads = grads.replace(
                discriminator=adversarial.grads, batch_stats=adversarial.batch_stats
            )
            metrics |= adversarial.metrics
        if update.autoencoder:
            terms = self._terms(images, reconstructions, tokens, frozen, key)
            metrics |= terms.metrics
            cotangent = terms.of_reconstruction + terms.of_perceptual
            if update.adversarial:
                no_tokens = jnp.zeros_like(tokens)
                weight = self._gan_weight(
                    lambda of_images: pull_back((of_images, no_tokens)),
                    terms.of_reconstruction,
                    adversarial.cotangent,
                )
                cotangent += weight * adversarial.cotangent
                metrics["gan_weight"] = weight
                metrics["loss"] += weight * metrics["gan"]
            grads = grads.replace(autoencoder=pull_back((cotangent, terms.of_tokens))[0])
        return grads.replace(metrics=metrics)

    def _terms(
        self,
        images: Images,
        reconstructions: Images,
        tokens: Tokens,
        frozen: Mapping[str, Any],
        key: PRNGKeyArray,
    ) -> "_Terms":
        config, dtype = self.config.loss, jnp.dtype(self.config.model.dtype)

        def reconstruction(x):
            return reconstruction_loss(images, x, frozen, config, dtype=dtype, key=key)

        def perceptual(x):
            return perceptual_loss(images, x, frozen, config, dtype=dtype)

        def of_tokens(x):
            return token_loss(x, config)

        losses, metrics, cotangents = [], {}, []
        for loss, argument in (
            (reconstruction, reconstructions),
            (perceptual, reconstructions),
            (of_tokens, tokens),
        ):
            (value, terms), cotangent = jax.value_and_grad(loss, has_aux=True)(argument)
            losses.append(value)
            metrics |= terms
            cotangents.append(cotangent)
        return _Terms({"loss": sum(losses), **metrics}, *cotangents)

    def _adversarial(
        self,
        update: Update,
        discriminator: DiscriminatorState,
        images: Images,
        reconstructions: Images,
    ) -> "_Adversarial":
        """The discriminator's forward passes, and what the two losses send back through them."""

        def logits(params, images, batch_stats):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, changed = self.discriminator.apply(variables, images, mutable=["batch_stats"])
            return logits, changed.get("batch_stats", batch_stats)

        kind, metrics, cotangent, grads = self.config.gan.loss, {}, None, None
        params, stats = discriminator.params, discriminator.batch_stats
        if update.discriminator:
            real, pull_real, stats = jax.vjp(
                lambda params: logits(params, images, stats), params, has_aux=True
            )
        fake, pull_fake, stats = jax.vjp(
            lambda params, images: logits(params, images, stats),
            params,
            reconstructions,
            has_aux=True,
        )
        if update.adversarial:
            metrics["gan"], of_fake = jax.value_and_grad(generator_loss)(fake)
            cotangent = pull_fake(of_fake)[1]
        if update.discriminator:
            metrics["discriminator"], (of_real, of_fake) = jax.value_and_grad(
                lambda real, fake: discriminator_loss(real, fake, kind), argnums=(0, 1)
            )(real, fake)
            grads = jax.tree.map(jnp.add, pull_real(of_real)[0], pull_fake(of_fake)[0])
            metrics |= {"logits_real": real.mean(), "logits_fake": fake.mean()}
        return _Adversarial(metrics, cotangent, grads, stats)

    def _gan_weight(
        self, pull_back: Callable[[Images], tuple], of_terms: Images, of_gan: Images
    ) -> Float[Array, ""]:
        """Weight of the GAN's term; only the last layer's part of both gradients is computed."""
        last_grads = [self.last_layer(pull_back(x)[0]) for x in (of_terms, of_gan)]
        if self.axis_name:
            last_grads = jax.lax.pmean(last_grads, self.axis_name)
        return self.config.gan.weight * adaptive_weight(*last_grads)


class _Terms(NamedTuple):
    """The losses without the GAN, and their gradients with respect to what they look at."""

    metrics: Metrics
    of_reconstruction: Images
    of_perceptual: Images
    of_tokens: Tokens


class _Adversarial(NamedTuple):
    """Terms of the discriminator.

    cotangent: gradient of the autoencoder's GAN term with respect to the reconstructions.
    grads: gradient of the discriminator's loss with respect to its parameters.
    """

    metrics: Metrics
    cotangent: Images | None
    grads: Params | None
    batch_stats: Params


def accumulate(
    gradients: Callable[[Batch, PRNGKeyArray, Params], Gradients],
    batch: Batch,
    key: PRNGKeyArray,
    batch_stats: Params,
    count: int,
) -> Gradients:
    """Mean of the gradients of ``count`` parts of a batch, one part in memory at a time.

    Equal to the gradient of the whole batch for losses that are means over images; a batch norm
    and the adaptive weight see one part at a time.

    Args:
      gradients: of a part, with a key and the running statistics after the part before.

    Raises:
      ValueError: if the batch does not divide into ``count`` equal parts.
    """
    if count == 1:
        return gradients(batch, key, batch_stats)
    sizes = {len(array) for array in batch.values()}
    if any(size % count for size in sizes):
        raise ValueError(
            f"train.accumulate={count} does not divide the {max(sizes)} images of a device"
        )
    parts = {name: x.reshape(count, -1, *x.shape[1:]) for name, x in batch.items()}

    def add(carry, part):
        total, stats = carry
        index, part = part
        grads = gradients(part, jax.random.fold_in(key, index), stats)
        stats = stats if grads.batch_stats is None else grads.batch_stats
        grads = grads.replace(batch_stats=None)
        return (jax.tree.map(lambda t, g: t + g / count, total, grads), stats), None

    shapes = jax.eval_shape(
        lambda part: gradients(part, key, batch_stats).replace(batch_stats=None),
        {name: x[0] for name, x in parts.items()},
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, stats), _ = jax.lax.scan(add, (zeros, batch_stats), (jnp.arange(count), parts))
    return total.replace(batch_stats=stats)
