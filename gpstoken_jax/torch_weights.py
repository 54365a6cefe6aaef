"""The published PyTorch weights and ours: one table, read in both directions.

``parameter_table`` says, for every parameter of the Flax model, which tensor (or, for the stacked
transformer blocks, which tensors) of the release's state dict it is, and how the axes move.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from gpstoken_jax.model import GPSToken, init_params

Tensors = Mapping[str, np.ndarray]

_TEMB_WIDTH = 512  # of the release's residual blocks, where nobody asks for another

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


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor, as much of it as a check needs."""

    shape: tuple[int, ...]
    dtype: Any


def from_torch(tensors: Tensors, config: ConfigDict) -> dict:
    """Builds Flax parameters from a state dict of the release.

    Args:
      tensors: PyTorch key -> array; keys that the release itself never uses may be there or not.
      config: the model section of a config, e.g. of configs/gpstoken_m128.py.

    Raises:
      WeightsError: for a missing or extra tensor or one of a wrong shape or dtype; names them.
    """
    check_tensors(tensors, config)
    return traverse_util.unflatten_dict(
        {("params", *entry.path): _gather(entry, tensors) for entry in parameter_table(config)}
    )


def to_torch(params: Mapping, config: ConfigDict) -> dict[str, np.ndarray]:
    """The inverse of ``from_torch``; the tensors that the release never uses come out as zeros."""
    flat = traverse_util.flatten_dict(params["params"])
    tensors = {}
    for entry in parameter_table(config):
        tensors |= _scatter(entry, np.asarray(flat[entry.path]))
    tensors = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    return tensors | {key: np.zeros(*spec) for key, spec in unused_specs(config).items()}


def used_specs(config: ConfigDict) -> dict[str, TensorSpec]:
    """Every tensor of the release's state dict that the model uses, by key."""
    model = GPSToken(config)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))["params"]
    flat, tensors = traverse_util.flatten_dict(shapes), {}
    for entry in parameter_table(config):
        leaf = flat[entry.path]
        tensors |= _scatter(entry, np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape))
    return {key: TensorSpec(tensor.shape, tensor.dtype) for key, tensor in tensors.items()}


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
    used = used_specs(config)
    expected = used | {k: spec for k, spec in unused_specs(config).items() if k in tensors}
    common = [key for key in expected if key in tensors]
    problems = {
        "missing": [key for key in used if key not in tensors],
        "extra": sorted(key for key in tensors if key not in expected),
        "of a wrong shape": [
            f"{key} is {_shape(tensors[key].shape)}, not {_shape(expected[key].shape)}"
            for key in common
            if tuple(tensors[key].shape) != expected[key].shape
        ],
        "of a wrong dtype": [
            f"{key} is {tensors[key].dtype}, not {expected[key].dtype}"
            for key in common
            if str(tensors[key].dtype) != str(expected[key].dtype)
        ],
    }
    found = [f"  {len(v)} {kind}: {_few(v)}" for kind, v in problems.items() if v]
    if found:
        raise WeightsError("\n".join(["the weights are not those of this config:", *found]))


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
    """A parameter's tensors by key; views of it."""
    parts = [value] if entry.axis is None else list(np.moveaxis(value, entry.axis, 0))
    return {key: _TO_TORCH[entry.kind](part) for key, part in zip(entry.keys, parts, strict=True)}


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"


def _few(items: list[str], most: int = 8) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
