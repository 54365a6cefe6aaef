"""The Transformer that all networks here are made of: one attention, one MLP, one block.

The encoder adds a condition before each block (GPSToken), SiT modulates it (adaLN-Zero, Peebles and
Xie, arXiv 2212.09748), and the network over layouts looks back only.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Dtype = Any
Initializer = Callable[..., Array]
Cache = Float[Array, "2 b q h e"]


class Block(nn.Module):
    """Pre-norm self-attention and MLP, each with a residual.

    Attributes:
      num_heads: attention heads.
      mlp_ratio: hidden width of the MLP over that of the tokens.
      dtype: compute dtype; parameters and statistics are float32.
      adaln: ``context`` [B, D] shifts, scales and gates both parts (adaLN-Zero), whose norms have
        no parameters of their own; otherwise it is added to the tokens beforehand.
      causal: each position sees itself and those before it.
      dropout: share of both parts' outputs that training drops.
      norm_eps: added to a norm's variance.
      activation: of the MLP.
      kernel_init: of attention and MLP.
    """

    num_heads: int
    mlp_ratio: int = 4
    dtype: Dtype = jnp.float32
    adaln: bool = False
    causal: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-5
    activation: Callable[[Array], Array] = nn.gelu
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        context: Float[Array, "b l d"] | Float[Array, "b d"] | None = None,
        cache: Cache | None = None,
        position: Int[Array, ""] | int = 0,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b l d"], Cache | None]:
        """Returns the output and the cache, a pair as ``nn.scan`` wants it.

        Args:
          x: tokens; with a cache the one at ``position``.
          context: see ``adaln``.
          cache: keys and values of the positions so far, for a causal block.
          position: of x, with a cache.
          train: with dropout, of the ``dropout`` random stream.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = 0, 0, 1, 0, 0, 1
        width = x.shape[-1]
        if self.adaln:
            modulation = adaln(6, width, self.dtype, context)
            shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        elif context is not None:
            x = x + context
        drop = nn.Dropout(self.dropout, deterministic=not train)
        options = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        normed = self._norm("norm1")(x) * (1 + scale1) + shift1
        attended, cache = attention(
            normed, self.num_heads, causal=self.causal, cache=cache, position=position, **options
        )
        x = x + gate1 * drop(attended)
        normed = self._norm("norm2")(x) * (1 + scale2) + shift2
        hidden = (self.mlp_ratio * width, width)
        return x + gate2 * drop(mlp(normed, hidden, self.activation, **options)), cache

    def _norm(self, name: str) -> nn.LayerNorm:
        return layer_norm(self.norm_eps, self.dtype, name, affine=not self.adaln)


def attention(
    x: Float[Array, "b l d"],
    num_heads: int,
    *,
    causal: bool = False,
    cache: Cache | None = None,
    position: Int[Array, ""] | int = 0,
    **dense: Any,
) -> tuple[Float[Array, "b l d"], Cache | None]:
    """Multi-head self-attention; its layers ``qkv`` and ``attention_out`` belong to the caller.

    With a cache, x is the token at ``position``, and what comes back is the cache with it.
    """
    b, l, width = x.shape
    qkv = nn.Dense(3 * width, name="qkv", **dense)(x)
    q, k, v = jnp.split(qkv.reshape(b, l, 3 * num_heads, -1), 3, axis=2)
    if cache is None:
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=causal)
    else:
        cache = jax.lax.dynamic_update_slice_in_dim(cache, jnp.stack([k, v]), position, axis=2)
        mask = (jnp.arange(cache.shape[2]) <= position)[None, None, None]
        attended = jax.nn.dot_product_attention(q, *cache, mask=mask)
    attended = attended.reshape(b, l, width)
    return nn.Dense(width, name="attention_out", **dense)(attended), cache


def mlp(
    x: Float[Array, "*b d"],
    widths: tuple[int, int],
    activation: Callable[[Array], Array],
    names: tuple[str, str] = ("mlp1", "mlp2"),
    **dense: Any,
) -> Float[Array, "*b e"]:
    """Two dense layers with an activation between; the layers belong to the caller."""
    x = activation(nn.Dense(widths[0], name=names[0], **dense)(x))
    return nn.Dense(widths[1], name=names[1], **dense)(x)


class Embedding(nn.Module):
    """An MLP that brings vectors to the width of a transformer."""

    width: int
    activation: Callable[[Array], Array]
    dtype: Dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        """Applies both layers to the last axis."""
        options = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        return mlp(x, (self.width,) * 2, self.activation, ("dense1", "dense2"), **options)


def layer_norm(eps: float, dtype: Dtype, name: str | None, *, affine: bool) -> nn.LayerNorm:
    """LayerNorm with float32 statistics: the mean of squared deviations, which does not cancel."""
    return nn.LayerNorm(
        eps, use_bias=affine, use_scale=affine, use_fast_variance=False, dtype=dtype, name=name
    )


def adaln(
    count: int, width: int, dtype: Dtype, embedding: Float[Array, "b d"]
) -> list[Float[Array, "b 1 d"]]:
    """Shifts, scales and gates from an embedding; zero at the start of a training."""
    zeros = nn.initializers.zeros
    layer = nn.Dense(count * width, kernel_init=zeros, dtype=dtype, name="modulation")
    return jnp.split(layer(nn.silu(embedding))[:, None], count, axis=-1)


def stack_blocks(
    depth: int, *, remat: bool = False, shared_context: bool = False, **fields: Any
) -> nn.Module:
    """Blocks one after the other, ``(x, context) -> (x, None)``, as ``blocks`` of the caller.

    One block's code scanned over stacked parameters: compiles in the time of one block.

    Args:
      depth: number of blocks.
      remat: recompute each block in the backward pass instead of keeping its activations.
      shared_context: all blocks have the same context; otherwise it is [depth, ...].
      fields: of ``Block``.
    """
    block = nn.remat(Block, prevent_cse=False) if remat else Block
    stacked = nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast if shared_context else 0,
        length=depth,
    )
    return stacked(**fields, name="blocks")
