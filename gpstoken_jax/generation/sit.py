"""SiT: the transformer that both stages of generation train (arXiv 2401.08740), on token sets.

Time runs from 0 (noise) to 1 (data). The label ``num_classes`` is the null class, that of
classifier-free guidance.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from gpstoken_jax.model.transformer import Embedding, adaln, layer_norm, stack_blocks

Dtype = Any
Params = Any

TIME_FREQUENCIES = 256
_NORM_EPS = 1e-6
_xavier = nn.initializers.xavier_uniform()
_normal = nn.initializers.normal(0.02)
_zeros = nn.initializers.zeros


class SiT(nn.Module):
    """Predicts how a noisy set of tokens moves; fields as in a config's ``model`` section.

    Attributes:
      num_tokens: L of the position embedding; with a condition any L is accepted.
      channels: of a token, in and out.
      cond_channels: of the condition given with every token, 0 for none.
      num_classes: real classes.
      width: of the transformer.
      depth: blocks.
      num_heads: attention heads.
      mlp_ratio: hidden width of a block's MLP over ``width``.
      learn_sigma: as in the release, the last layer makes twice the channels; half are dropped.
      remat: recompute each block in the backward pass instead of keeping its activations.
      dtype: compute dtype; the output is float32.
    """

    num_tokens: int
    channels: int
    cond_channels: int
    num_classes: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: int = 4
    learn_sigma: bool = True
    remat: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l c"],
        times: Float[Array, " b"],
        labels: Int[Array, " b"],
        cond: Float[Array, "b l e"] | None = None,
    ) -> Float[Array, "b l c"]:
        """The network's prediction (velocity, noise or score: see ``transport``), float32.

        Args:
          x: noisy tokens.
          times: 0 is noise, 1 is data.
          labels: 0 .. num_classes - 1, or num_classes for no class.
          cond: given with every token; in its place the position embedding is added.

        Raises:
          ValueError: if the shapes do not fit together.
        """
        self._check(x, cond)
        tokens = nn.Dense(self.width, kernel_init=_xavier, dtype=self.dtype, name="token_in")(x)
        # In every published checkpoint, also where a condition takes its place.
        positions = Positions(self.num_tokens, self.width, name="positions")()
        if cond is None:
            tokens = tokens + positions.astype(self.dtype)
        else:
            embed = Embedding(self.width, nn.silu, self.dtype, _xavier, name="condition")
            tokens = tokens + embed(cond)
        # Always in float32: bfloat16 cannot tell the times of neighbouring steps apart.
        embed = Embedding(self.width, nn.silu, kernel_init=_normal, name="time")
        embedding = embed(time_frequencies(times)) + self._label_embedding(labels)
        blocks = stack_blocks(
            self.depth,
            remat=self.remat,
            shared_context=True,
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            dtype=self.dtype,
            adaln=True,
            norm_eps=_NORM_EPS,
            kernel_init=_xavier,
        )
        tokens, _ = blocks(tokens, embedding)
        out = self.channels * (2 if self.learn_sigma else 1)
        predicted = FinalLayer(out, self.width, self.dtype, name="final")(tokens, embedding)
        return predicted[..., : self.channels].astype(jnp.float32)

    def _check(self, x: Array, cond: Array | None) -> None:
        if x.ndim != 3 or x.shape[-1] != self.channels:
            raise ValueError(f"tokens must be [B, L, {self.channels}], got {x.shape}")
        if cond is None and x.shape[1] != self.num_tokens:
            raise ValueError(
                f"without a condition there must be {self.num_tokens} tokens, not {x.shape[1]}"
            )
        if cond is not None and cond.shape != (*x.shape[:2], self.cond_channels):
            raise ValueError(
                f"the condition must be [{x.shape[0]}, {x.shape[1]}, {self.cond_channels}], "
                f"got {cond.shape}"
            )

    def _label_embedding(self, labels: Int[Array, " b"]) -> Float[Array, "b d"]:
        embed = nn.Embed(self.num_classes + 1, self.width, embedding_init=_normal, name="label")
        return embed(labels)


class FinalLayer(nn.Module):
    """Modulated norm and a linear layer, which starts at zero."""

    channels: int
    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], embedding: Float[Array, "b d"]
    ) -> Float[Array, "b l c"]:
        """Maps tokens to the prediction, shifted and scaled by the embedding."""
        shift, scale = adaln(2, self.width, self.dtype, embedding)
        x = layer_norm(_NORM_EPS, self.dtype, None, affine=False)(x) * (1 + scale) + shift
        return nn.Dense(self.channels, kernel_init=_zeros, dtype=self.dtype, name="token_out")(x)


class Positions(nn.Module):
    """One vector a place in the order of tokens."""

    num_tokens: int
    width: int

    @nn.compact
    def __call__(self) -> Float[Array, "l d"]:
        """The table of position embeddings."""
        return self.param("table", sincos_positions, (self.num_tokens, self.width), jnp.float32)


def create_sit(config: ConfigDict) -> SiT:
    """The network that a config's ``model`` section describes."""
    return SiT(**{**config, "dtype": jnp.dtype(config.dtype)})


def init_params(model: SiT, key: PRNGKeyArray) -> Params:
    """Random parameters, ``{"params": ...}``. Their shapes alone: call under ``jax.eval_shape``."""
    x = jnp.zeros((1, model.num_tokens, model.channels))
    cond = x[..., :1].repeat(model.cond_channels, -1) if model.cond_channels else None
    variables = model.init(key, x, jnp.zeros(1), jnp.zeros(1, jnp.int32), cond)
    return {"params": variables["params"]}


def drop_labels(
    key: PRNGKeyArray, labels: Int[Array, " b"], num_classes: int, rate: float
) -> Int[Array, " b"]:
    """Labels for training with guidance: a share ``rate``, and every negative one, become null."""
    dropped = jax.random.bernoulli(key, rate, labels.shape)
    return jnp.where(dropped | (labels < 0), num_classes, labels)


def time_frequencies(times: Float[Array, " b"]) -> Float[Array, "b f"]:
    """Cosines, then sines, of the times at frequencies from 1 down to 1/10000."""
    half = TIME_FREQUENCIES // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = times.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def sincos_positions(
    key: PRNGKeyArray, shape: tuple[int, int], dtype: Dtype = jnp.float32
) -> Float[Array, "l d"]:
    """Sines, then cosines, of the places 0 .. L - 1; an initialiser, without randomness."""
    del key
    length, width = shape
    frequencies = 10000.0 ** -(jnp.arange(width // 2) / (width / 2))
    angles = jnp.arange(length)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(dtype)
