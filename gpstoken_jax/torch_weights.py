"""The published PyTorch weights and ours: one table, read in both directions.

``parameter_table`` says, for every parameter of the Flax model, which tensor (or, for the stacked
transformer blocks, which tensors) of the release's state dict it is, and how the axes move.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

Tensors = Mapping[str, np.ndarray]

# In every published checkpoint, used by nothing: projections of a time embedding that is not there.
UNUSED_KEYS = ("temb_proj.weight", "temb_proj.bias")

# A Flax axis order from a PyTorch one, by kind of parameter; all but the last are their own inverse
# together with the entry of _TO_TORCH.
_FROM_TORCH = {
    "conv": lambda t: t.transpose(2, 3, 1, 0),
    "dense": lambda t: t.T,
    "pointwise": lambda t: t[:, :, 0, 0].T,
    "vector": lambda t: t,
    "row": lambda t: t[0],
}
_TO_TORCH = {
    "conv": lambda p: p.transpose(3, 2, 0, 1),
    "dense": lambda p: p.T,
    "pointwise": lambda p: p.T[:, :, None, None],
    "vector": lambda p: p,
    "row": lambda p: p[None],
}


@dataclass(frozen=True)
class Parameter:
    """One Flax parameter and where it comes from.

    Attributes:
      path: names from the root of the Flax parameters.
      keys: PyTorch keys; more than one are stacked along ``axis``.
      kind: how the axes move, a key of the tables above.
      axis: the stacking axis, None for a single tensor.
    """

    path: tuple[str, ...]
    keys: tuple[str, ...]
    kind: str
    axis: int | None = None


class WeightsError(ValueError):
    """Weights and config do not fit; the message names the keys."""


def from_torch(tensors: Tensors, config: ConfigDict) -> dict:
    """Builds Flax parameters from a state dict of the release.

    Args:
      tensors: PyTorch key -> array.
      config: the model section of a config, e.g. of configs/gpstoken_m128.py.

    Raises:
      WeightsError: for a missing, extra or wrongly shaped tensor; names every such key.
    """
    table = parameter_table(config)
    _check_keys(tensors, (key for entry in table for key in entry.keys))
    return traverse_util.unflatten_dict(
        {("params", *entry.path): _gather(entry, tensors) for entry in table}
    )


def to_torch(params: Mapping, config: ConfigDict) -> dict[str, np.ndarray]:
    """The inverse of ``from_torch``; the tensors that the release never uses come out as zeros."""
    flat = traverse_util.flatten_dict(params["params"])
    tensors = {}
    for entry in parameter_table(config):
        tensors |= _scatter(entry, np.asarray(flat[entry.path]))
    for i in range(config.encoder.stem_blocks):
        name = f"preprocess_img.{i + 1}.temb_proj"
        tensors[f"{name}.weight"] = np.zeros((config.encoder.channels, 512), np.float32)
        tensors[f"{name}.bias"] = np.zeros(config.encoder.channels, np.float32)
    return tensors


def parameter_table(config: ConfigDict) -> list[Parameter]:
    """Every parameter of the model that ``config`` describes, each once."""
    return [*_encoder_table(config.encoder), *_decoder_table(config.decoder)]


def _encoder_table(config: ConfigDict) -> list[Parameter]:
    blocks = [f"attnblocks.{k}" for k in range(config.depth)]
    table = _layer(("encoder", "stem", "conv_in"), "preprocess_img.0", "conv")
    for i in range(config.stem_blocks):
        table += _resnet_block(("encoder", "stem", f"block_{i}"), f"preprocess_img.{i + 1}", False)
    conditions = ("encoder", "conditions")
    table += _layer(conditions, "roialign_layer", "pointwise")
    table += [
        _stacked((*conditions, "position_kernel"), blocks, "roimlp.weight", "row", axis=1),
        _stacked((*conditions, "position_bias"), blocks, "roimlp.bias", "row", axis=0),
        Parameter(("encoder", "embedding", "query"), ("gps_embed.weight",), "row"),
    ]
    for name, key in (("dense1", "gps_embed_layer.0"), ("dense2", "gps_embed_layer.2")):
        table += _layer(("encoder", "embedding", name), key, "dense")
    table += _transformer_table(blocks)
    table += _layer(("encoder", "geometry_head"), "to_gps.0", "dense")
    return table + _layer(("encoder", "feature_head"), "to_gps.1", "dense")


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
        _stacked(("encoder", "blocks", layer, leaf), blocks, key, kind, axis=0)
        for layer, leaf, key, kind in leaves
    ]


def _decoder_table(config: ConfigDict) -> list[Parameter]:
    table = _layer(("decoder", "conv_in"), "decoder.conv_in", "conv")
    for name in ("block_1", "block_2"):
        table += _resnet_block(("decoder", f"mid_{name}"), f"decoder.mid.{name}", False)
    attention = ("decoder", "mid_attention")
    table += _layer((*attention, "norm"), "decoder.mid.attn_1.norm", "norm")
    for name in ("q", "k", "v", "proj_out"):
        table += _layer((*attention, name), f"decoder.mid.attn_1.{name}", "conv")
    width = config.multipliers[-1]
    for level in reversed(range(len(config.multipliers))):
        for i in range(config.blocks_per_level):
            path, key = ("decoder", f"level_{level}_block_{i}"), f"decoder.up.{level}.block.{i}"
            table += _resnet_block(path, key, width != config.multipliers[level])
            width = config.multipliers[level]
        if level:
            path = ("decoder", f"level_{level}_upsample")
            table += _layer(path, f"decoder.up.{level}.upsample.conv", "conv")
    table += _layer(("decoder", "norm_out"), "decoder.norm_out", "norm")
    return table + _layer(("decoder", "conv_out"), "decoder.conv_out", "conv")


def _resnet_block(path: tuple[str, ...], key: str, widens: bool) -> list[Parameter]:
    table = []
    for name, kind in (("norm1", "norm"), ("conv1", "conv"), ("norm2", "norm"), ("conv2", "conv")):
        table += _layer((*path, name), f"{key}.{name}", kind)
    if widens:
        table += _layer((*path, "nin_shortcut"), f"{key}.nin_shortcut", "conv")
    return table


def _layer(path: tuple[str, ...], key: str, kind: str) -> list[Parameter]:
    leaf, kind = ("scale", "vector") if kind == "norm" else ("kernel", kind)
    return [
        Parameter((*path, leaf), (f"{key}.weight",), kind),
        Parameter((*path, "bias"), (f"{key}.bias",), "vector"),
    ]


def _stacked(path: tuple[str, ...], blocks: list[str], key: str, kind: str, axis: int) -> Parameter:
    return Parameter(path, tuple(f"{block}.{key}" for block in blocks), kind, axis)


def _gather(entry: Parameter, tensors: Tensors) -> np.ndarray:
    parts = [_FROM_TORCH[entry.kind](np.asarray(tensors[key])) for key in entry.keys]
    value = parts[0] if entry.axis is None else np.stack(parts, axis=entry.axis)
    return np.ascontiguousarray(value)


def _scatter(entry: Parameter, value: np.ndarray) -> dict[str, np.ndarray]:
    parts = [value] if entry.axis is None else list(np.moveaxis(value, entry.axis, 0))
    return {
        key: np.ascontiguousarray(_TO_TORCH[entry.kind](part))
        for key, part in zip(entry.keys, parts, strict=True)
    }


def _check_keys(tensors: Tensors, expected: Iterable[str]) -> None:
    expected = set(expected)
    missing = sorted(expected - set(tensors))
    extra = sorted(k for k in set(tensors) - expected if not k.endswith(UNUSED_KEYS))
    problems = [f"missing: {_few(missing)}"] * bool(missing) + [f"extra: {_few(extra)}"] * bool(
        extra
    )
    if problems:
        raise WeightsError("the weights are not those of this config; " + "; ".join(problems))


def _few(keys: list[str], most: int = 8) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
