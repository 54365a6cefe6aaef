"""The adversarial loss: a discriminator of image patches, its losses, and how much they weigh.

Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR
2017 (the discriminator); Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image
Synthesis", CVPR 2021 (the adaptive weight).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Dtype = Any
Scalar = Float[Array, ""]
Logits = Float[Array, "b p q 1"]

_MOMENTUM = 0.1  # share of a batch in the running statistics, as PyTorch counts it
_LARGEST_WEIGHT = 1e4


class PatchDiscriminator(nn.Module):
    """Convolutions that tell real patches from reconstructed ones; one logit a patch.

    ``num_layers`` 4 x 4 convolutions of stride 2, then two of stride 1: with 3, a patch is 70 x 70
    pixels and a 256 x 256 image has 30 x 30 of them.

    Attributes:
      channels: width of the first layer; each next one doubles it, up to eightfold.
      num_layers: layers of stride 2.
      norm: ``"batch"`` or ``"group"``.
      norm_groups: groups of a group norm.
      axis_name: batch statistics are those of all devices along it; None, this device's own.
      dtype: compute dtype; statistics and logits are float32.
    """

    channels: int = 64
    num_layers: int = 3
    norm: str = "batch"
    norm_groups: int = 32
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool = True) -> Logits:
        """Logits of images in [-1, 1], high for real ones.

        train: a batch norm takes this batch's statistics and updates its running ones (collection
        ``"batch_stats"``); otherwise it takes the running ones.
        """
        x = nn.leaky_relu(self._conv(images.astype(self.dtype), self.channels, 2, "conv_0"), 0.2)
        for i in range(1, self.num_layers + 1):
            stride = 2 if i < self.num_layers else 1
            width = self.channels * min(2**i, 8)
            x = self._conv(x, width, stride, f"conv_{i}", bias=False)
            x = nn.leaky_relu(self._norm(x, f"norm_{i}", train), 0.2)
        logits = self._conv(x, 1, 1, f"conv_{self.num_layers + 1}")
        return logits.astype(jnp.float32)

    def _conv(
        self, x: Float[Array, "b h w c"], features: int, stride: int, name: str, bias: bool = True
    ) -> Float[Array, "b p q d"]:
        fan_in = 4 * 4 * x.shape[-1]
        layer = nn.Conv(
            features,
            (4, 4),
            strides=stride,
            padding=1,
            use_bias=bias,
            kernel_init=nn.initializers.normal(0.02),
            bias_init=_uniform(fan_in**-0.5),
            dtype=self.dtype,
            name=name,
        )
        return layer(x)

    def _norm(self, x: Float[Array, "b h w c"], name: str, train: bool) -> Float[Array, "b h w c"]:
        if self.norm == "batch":
            return BatchNorm(self.axis_name, self.dtype, name=name)(x, train=train)
        if self.norm == "group":
            return nn.GroupNorm(
                self.norm_groups,
                scale_init=_near_one,
                use_fast_variance=False,
                dtype=self.dtype,
                name=name,
            )(x)
        raise ValueError(f"gan.discriminator.norm must be 'batch' or 'group', not {self.norm!r}")


class BatchNorm(nn.Module):
    """Batch normalisation whose running variance is unbiased, as PyTorch's is (Flax's is not).

    Attributes:
      axis_name: statistics are taken over all devices along it; None, over this device alone.
      dtype: of the result; statistics are float32.
    """

    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Normalises, by the batch in training."""
        c = x.shape[-1]
        scale = self.param("scale", _near_one, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,))
        x = x.astype(jnp.float32)
        if train:
            mean = self._over_devices(x.mean((0, 1, 2)))
            var = self._over_devices(jnp.square(x - mean).mean((0, 1, 2)))
            count = x.size // c * (jax.lax.psum(1, self.axis_name) if self.axis_name else 1)
            running_mean.value += _MOMENTUM * (mean - running_mean.value)
            running_var.value += _MOMENTUM * (var * count / (count - 1) - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        return ((x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias).astype(self.dtype)

    def _over_devices(self, mean: Float[Array, " c"]) -> Float[Array, " c"]:
        return jax.lax.pmean(mean, self.axis_name) if self.axis_name else mean


def discriminator_loss(real: Logits, fake: Logits, kind: str) -> Scalar:
    """Loss of the discriminator: ``"hinge"`` or ``"vanilla"`` (cross entropy).

    Raises:
      ValueError: for another ``kind``.
    """
    if kind == "hinge":
        return 0.5 * (nn.relu(1 - real).mean() + nn.relu(1 + fake).mean())
    if kind == "vanilla":
        return 0.5 * (nn.softplus(-real).mean() + nn.softplus(fake).mean())
    raise ValueError(f"gan.loss must be 'hinge' or 'vanilla', not {kind!r}")


def generator_loss(fake: Logits) -> Scalar:
    """Loss of the autoencoder: lower for higher logits."""
    return -fake.mean()


def adaptive_weight(
    reconstruction_grad: Float[Array, "..."], gan_grad: Float[Array, "..."]
) -> Scalar:
    """Weight that makes the GAN's gradient as long as the reconstruction's; a constant.

    Both gradients are with respect to the kernel of the decoder's last convolution.
    """
    ratio = jnp.linalg.norm(reconstruction_grad.ravel()) / (
        jnp.linalg.norm(gan_grad.ravel()) + 1e-4
    )
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, _LARGEST_WEIGHT))


def init_discriminator(discriminator: PatchDiscriminator, key: PRNGKeyArray) -> dict[str, Any]:
    """Fresh variables: ``"params"`` and, with a batch norm, ``"batch_stats"``."""
    # Not in training mode, which would count the blank image in the running statistics.
    side = 2 ** (discriminator.num_layers + 2)
    return dict(discriminator.init(key, jnp.zeros((1, side, side, 3)), train=False))


def _near_one(key, shape, dtype=jnp.float32):
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def _uniform(limit: float):
    """PyTorch's default for biases; its limit is ``fan_in ** -0.5``."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init
