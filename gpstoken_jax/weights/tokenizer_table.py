"""The published PyTorch weights of the tokenizer and ours: one table, read in both directions.

``parameter_table`` says, for every parameter of the Flax model, which tensor (or, for the stacked
transformer blocks, which tensors) of the release's state dict it is, and how the axes move.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.weights.table import (
    Parameter,
    Tensors,
    TensorSpec,
    WeightsError,
    WeightTable,
    layer,
    stacked,
)

__all__ = ["TensorSpec", "WeightsError"]

_TEMB_WIDTH = 512  # of the release's residual blocks, where nobody asks for another


def weight_table(config: ConfigDict) -> WeightTable:
    """The published tensors of the model that the model section of a config describes."""
    model = GPSToken(config)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))["params"]
    return WeightTable(parameter_table(config), shapes, unused_specs(config))


def from_torch(tensors: Tensors, config: ConfigDict) -> dict:
    """Builds Flax parameters from a state dict of the release.

    Args:
      tensors: PyTorch key -> array; keys that the release itself never uses may be there or not.
      config: the model section of a config, e.g. of configs/gpstoken_m128.py.

    Raises:
      WeightsError: for a missing or extra tensor or one of a wrong shape or dtype; names them.
    """
    return weight_table(config).from_torch(tensors)


def to_torch(params: Mapping, config: ConfigDict) -> dict[str, np.ndarray]:
    """The inverse of ``from_torch``; the tensors that the release never uses come out as zeros."""
    return weight_table(config).to_torch(params)


def used_specs(config: ConfigDict) -> dict[str, TensorSpec]:
    """Every tensor of the release's state dict that the model uses, by key."""
    return weight_table(config).used


def unused_specs(config: ConfigDict) -> dict[str, TensorSpec]:
    """What is in every published checkpoint and used by nothing.

    Projections, in the blocks of the encoder's stem, of a time embedding that is not there.
    """
    specs, channels = {}, config.encoder.channels
    for i in range(config.encoder.stem_blocks):
        name = f"preprocess_img.{i + 1}.temb_proj"
        specs[f"{name}.weight"] = TensorSpec((channels, _TEMB_WIDTH), np.dtype(np.float32))
        specs[f"{name}.bias"] = TensorSpec((channels,), np.dtype(np.float32))
    return specs


def check_tensors(tensors: Mapping[str, Any], config: ConfigDict) -> None:
    """Compares names, shapes and dtypes with those of the model that ``config`` describes.

    Args:
      tensors: PyTorch key -> array, or anything else with ``shape`` and ``dtype``.
      config: the model section of a config.

    Raises:
      WeightsError: if anything differs; lists what is missing, extra, or of a wrong shape or dtype.
    """
    weight_table(config).check(tensors)


def parameter_table(config: ConfigDict) -> list[Parameter]:
    """Every parameter of the model that ``config`` describes, each once."""
    return [*_encoder_table(config.encoder), *_decoder_table(config.decoder)]


def _encoder_table(config: ConfigDict) -> list[Parameter]:
    blocks = [f"attnblocks.{k}" for k in range(config.depth)]
    table = layer(("encoder", "stem", "conv_in"), "preprocess_img.0", "conv")
    for i in range(config.stem_blocks):
        table += _resnet_block(("encoder", "stem", f"block_{i}"), f"preprocess_img.{i + 1}", False)
    conditions = ("encoder", "conditions")
    table += layer(conditions, "roialign_layer", "pointwise")
    table += [
        stacked((*conditions, "position_kernel"), blocks, "roimlp.weight", "row", axis=1),
        stacked((*conditions, "position_bias"), blocks, "roimlp.bias", "row", axis=0),
        Parameter(("encoder", "embedding", "query"), ("gps_embed.weight",), "row"),
    ]
    for name, key in (("dense1", "gps_embed_layer.0"), ("dense2", "gps_embed_layer.2")):
        table += layer(("encoder", "embedding", name), key, "dense")
    table += _transformer_table(blocks)
    table += layer(("encoder", "geometry_head"), "to_gps.0", "dense")
    return table + layer(("encoder", "feature_head"), "to_gps.1", "dense")


def _transformer_table(blocks: list[str]) -> list[Parameter]:
    leaves = [
        ("norm1", "scale", "ln1.weight", "vector"),
        ("norm1", "bias", "ln1.bias", "vector"),
        ("qkv", "kernel", "attn1.in_proj_weight", "dense"),
        ("qkv", "bias", "attn1.in_proj_bias", "vector"),
        ("attention_out", "kernel", "attn1.out_proj.weight", "dense"),
        ("attention_out", "bias", "attn1.out_proj.bias", "vector"),
        ("norm2", "scale", "ln2.weight", "vector"),
        ("norm2", "bias", "ln2.bias", "vector"),
        ("mlp1", "kernel", "mlp.0.weight", "dense"),
        ("mlp1", "bias", "mlp.0.bias", "vector"),
        ("mlp2", "kernel", "mlp.2.weight", "dense"),
        ("mlp2", "bias", "mlp.2.bias", "vector"),
    ]
    return [
        stacked(("encoder", "blocks", layer, leaf), blocks, key, kind, axis=0)
        for layer, leaf, key, kind in leaves
    ]


def _decoder_table(config: ConfigDict) -> list[Parameter]:
    table = layer(("decoder", "conv_in"), "decoder.conv_in", "conv")
    for name in ("block_1", "block_2"):
        table += _resnet_block(("decoder", f"mid_{name}"), f"decoder.mid.{name}", False)
    attention = ("decoder", "mid_attention")
    table += layer((*attention, "norm"), "decoder.mid.attn_1.norm", "norm")
    for name in ("q", "k", "v", "proj_out"):
        table += layer((*attention, name), f"decoder.mid.attn_1.{name}", "conv")
    width = config.multipliers[-1]
    for level in reversed(range(len(config.multipliers))):
        for i in range(config.blocks_per_level):
            path, key = ("decoder", f"level_{level}_block_{i}"), f"decoder.up.{level}.block.{i}"
            table += _resnet_block(path, key, width != config.multipliers[level])
            width = config.multipliers[level]
        if level:
            path = ("decoder", f"level_{level}_upsample")
            table += layer(path, f"decoder.up.{level}.upsample.conv", "conv")
    table += layer(("decoder", "norm_out"), "decoder.norm_out", "norm")
    return table + layer(("decoder", "conv_out"), "decoder.conv_out", "conv")


def _resnet_block(path: tuple[str, ...], key: str, widens: bool) -> list[Parameter]:
    table = []
    for name, kind in (("norm1", "norm"), ("conv1", "conv"), ("norm2", "norm"), ("conv2", "conv")):
        table += layer((*path, name), f"{key}.{name}", kind)
    if widens:
        table += layer((*path, "nin_shortcut"), f"{key}.nin_shortcut", "conv")
    return table
