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

Dtype = Any
Params = Any

TIME_FREQUENCIES = 256
_xavier = nn.initializers.xavier_uniform()
_normal = nn.initializers.normal(0.02)
_zeros = nn.initializers.zeros


class SiT(nn.Module):
    """What a noisy set of tokens moves towards. Fields are those of a config's ``model`` section.

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
            tokens = tokens + ConditionEmbedding(self.width, self.dtype, name="condition")(cond)
        embedding = TimeEmbedding(self.width, name="time")(times) + self._label_embedding(labels)
        tokens = self._transformer(tokens, embedding)
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

    def _transformer(
        self, x: Float[Array, "b l d"], embedding: Float[Array, "b d"]
    ) -> Float[Array, "b l d"]:
        # One block's code, scanned over stacked parameters: compiles in the time of one block.
        block = nn.remat(SiTBlock, prevent_cse=False) if self.remat else SiTBlock
        blocks = nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        x, _ = blocks(self.num_heads, self.mlp_ratio, self.dtype, name="blocks")(x, embedding)
        return x


class SiTBlock(nn.Module):
    """Self-attention and MLP, each shifted, scaled and gated by time and class (adaLN-Zero).

    Returns ``(x, None)``, the form that ``nn.scan`` wants.
    """

    num_heads: int
    mlp_ratio: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], embedding: Float[Array, "b d"]
    ) -> tuple[Float[Array, "b l d"], None]:
        modulation = _modulation(6, x.shape[-1], self.dtype, embedding)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        x = x + gate1 * self._attention(_modulated_norm(x, shift1, scale1, self.dtype))
        return x + gate2 * self._mlp(_modulated_norm(x, shift2, scale2, self.dtype)), None

    def _attention(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        b, l, width = x.shape
        qkv = _dense(3 * width, "qkv", self.dtype)(x)
        q, k, v = jnp.split(qkv.reshape(b, l, 3 * self.num_heads, -1), 3, axis=2)
        attended = jax.nn.dot_product_attention(q, k, v).reshape(b, l, width)
        return _dense(width, "attention_out", self.dtype)(attended)

    def _mlp(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        width = x.shape[-1]
        x = _dense(self.mlp_ratio * width, "mlp1", self.dtype)(x)
        return _dense(width, "mlp2", self.dtype)(nn.gelu(x, approximate=True))


class FinalLayer(nn.Module):
    """Modulated norm and a linear layer, which starts at zero."""

    channels: int
    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], embedding: Float[Array, "b d"]
    ) -> Float[Array, "b l c"]:
        shift, scale = _modulation(2, self.width, self.dtype, embedding)
        x = _modulated_norm(x, shift, scale, self.dtype)
        return nn.Dense(self.channels, kernel_init=_zeros, dtype=self.dtype, name="token_out")(x)


class Positions(nn.Module):
    """One vector a place in the order of tokens."""

    num_tokens: int
    width: int

    @nn.compact
    def __call__(self) -> Float[Array, "l d"]:
        return self.param("table", sincos_positions, (self.num_tokens, self.width), jnp.float32)


class TimeEmbedding(nn.Module):
    """Sines of the time through an MLP; the time is not scaled.

    Always in float32: bfloat16 cannot tell the times of neighbouring steps apart.
    """

    width: int

    @nn.compact
    def __call__(self, times: Float[Array, " b"]) -> Float[Array, "b d"]:
        x = time_frequencies(times)
        x = nn.Dense(self.width, kernel_init=_normal, name="dense1")(x)
        return nn.Dense(self.width, kernel_init=_normal, name="dense2")(nn.silu(x))


class ConditionEmbedding(nn.Module):
    """An MLP of what is given with every token, e.g. its initial Gaussian."""

    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, cond: Float[Array, "b l e"]) -> Float[Array, "b l d"]:
        x = _dense(self.width, "dense1", self.dtype)(cond)
        return _dense(self.width, "dense2", self.dtype)(nn.silu(x))


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


def _dense(features: int, name: str, dtype: Dtype) -> nn.Dense:
    return nn.Dense(features, kernel_init=_xavier, dtype=dtype, name=name)


def _modulation(
    count: int, width: int, dtype: Dtype, embedding: Float[Array, "b d"]
) -> list[Float[Array, "b 1 d"]]:
    layer = nn.Dense(count * width, kernel_init=_zeros, dtype=dtype, name="modulation")
    return jnp.split(layer(nn.silu(embedding))[:, None], count, axis=-1)


def _modulated_norm(
    x: Float[Array, "b l d"],
    shift: Float[Array, "b 1 d"],
    scale: Float[Array, "b 1 d"],
    dtype: Dtype,
) -> Float[Array, "b l d"]:
    """LayerNorm without parameters of its own; statistics in float32."""
    norm = nn.LayerNorm(
        epsilon=1e-6, use_bias=False, use_scale=False, use_fast_variance=False, dtype=dtype
    )
    return norm(x) * (1 + scale) + shift
