"""The published tensors of the tokenizer and of the generator, and the configs that they fit.

A table says of every parameter of a network which tensor (or, for stacked blocks, which tensors) of
the release's state dict it is. The other way round, the shapes in a file tell the config.
"""

import math
import re
from collections.abc import Mapping
from pathlib import PurePath

from ml_collections import ConfigDict

from gpstoken_jax.configs import gpstoken_l256, gpstoken_m128, sit_xl
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.table import Parameter, WeightTable, show_shape

Shapes = Mapping[str, tuple[int, ...]]

_TEMB_WIDTH = 512  # of the release's residual blocks, where nobody asks for another
_SIT_HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}  # by width: XL, L, B, S
_KIND_OF_RANK = {1: "vector", 2: "dense", 4: "conv"}
_SIZES = (  # tensors, and how many axes they have, that tell the sizes of a network
    {
        "to_gps.1.weight": 2,
        "preprocess_img.0.weight": 4,
        "attnblocks.0.roimlp.weight": 2,
        "attnblocks.0.mlp.0.weight": 2,
        "decoder.up.0.block.0.conv1.weight": 4,
    },
    {
        "x_embedder.proj.weight": 4,
        "pos_embed": 3,
        "y_embedder.embedding_table.weight": 2,
        "blocks.0.attn.qkv.weight": 2,
        "blocks.0.mlp.fc1.weight": 2,
        "final_layer.linear.weight": 2,
    },
)


def published_table(config: ConfigDict) -> WeightTable:
    """The published tensors of the network that a whole config describes.

    Raises:
      WeightsError: if nothing of the kind was published, or the config leaves sizes open.
    """
    task = config.get("task", "tokenizer")
    if task == "tokenizer":
        return tokenizer_table(config.model)
    if task != "sit":
        raise WeightsError(f"there are no published weights for task={task!r}")
    if not config.model.num_tokens:
        raise WeightsError(
            "the config leaves the network's sizes to the tokens it is trained on; for the "
            "published weights give --config=configs/sit_xl.py:published"
        )
    return sit_table(config.model)


def tokenizer_table(config: ConfigDict) -> WeightTable:
    """The published tensors of the tokenizer; ``config`` is a model section.

    Unused are, in the blocks of the encoder's stem, projections of a time embedding that is not
    there (131,328 values).
    """
    stem = config.encoder.channels
    unused = {}
    has_stem = config.encoder.get("condition", "roi") != "none"
    for i in range(config.encoder.stem_blocks if has_stem else 0):
        name = f"preprocess_img.{i + 1}.temb_proj"
        unused |= {f"{name}.weight": (stem, _TEMB_WIDTH), f"{name}.bias": (stem,)}
    return WeightTable([*_encoder(config), *_decoder(config)], unused)


def sit_table(config: ConfigDict) -> WeightTable:
    """The published tensors of the generator's network; ``config`` is a model section.

    The positions are in every file; with a condition no computation uses them.
    """
    width, hidden = config.width, config.mlp_ratio * config.width
    outputs = config.channels * (2 if config.learn_sigma else 1)
    positions, classes = (1, config.num_tokens, width), (config.num_classes + 1, width)
    table = [
        Parameter("positions/table", ("pos_embed",), positions, "row"),
        Parameter("label/embedding", ("y_embedder.embedding_table.weight",), classes, "vector"),
        *_layer("token_in", "x_embedder.proj", (width, config.channels, 1, 1), "pointwise"),
        *_layer("time/dense1", "t_embedder.mlp.0", (width, 256)),
        *_layer("time/dense2", "t_embedder.mlp.2", (width, width)),
        *_layer("final/modulation", "final_layer.adaLN_modulation.1", (2 * width, width)),
        *_layer("final/token_out", "final_layer.linear", (outputs, width)),
    ]
    if config.cond_channels:
        table += _layer("condition/dense1", "cond_embedder.0", (width, config.cond_channels))
        table += _layer("condition/dense2", "cond_embedder.2", (width, width))
    blocks = [f"blocks.{k}." for k in range(config.depth)]
    for name, key, shape in (
        ("modulation", "adaLN_modulation.1", (6 * width, width)),
        ("qkv", "attn.qkv", (3 * width, width)),
        ("attention_out", "attn.proj", (width, width)),
        ("mlp1", "mlp.fc1", (hidden, width)),
        ("mlp2", "mlp.fc2", (width, hidden)),
    ):
        table += _layer(f"blocks/{name}", key, shape, blocks=blocks)
    return WeightTable(table, {})


def infer_config(shapes: Shapes, name: str = "") -> ConfigDict:
    """The whole config of the network whose tensors have these shapes.

    What no shape tells is as published: 8 heads of the tokenizer and 32 groups of its norms (fewer
    where they do not divide), SiT's heads by its width. S64 and M128 have the same tensors; a name
    with ``s64`` in it tells them apart.

    Args:
      shapes: key of the release -> shape.
      name: of the file or its folder.

    Raises:
      WeightsError: if they are of neither network; names a tensor that is not there, or wrong.
    """
    known = next((s for s in _SIZES if s.keys() & shapes.keys()), next(iter(_SIZES)))
    for key, rank in known.items():
        shape = shapes.get(key)
        if shape is None or len(shape) != rank or 0 in shape:
            what = f"there is no {key}" if shape is None else f"{key} is {show_shape(shape)}"
            raise WeightsError(
                f"its tensors are of no published network: {what}; is it whole? Of a network "
                "of your own give the config"
            )
    return _tokenizer_config(shapes, name) if known is _SIZES[0] else _sit_config(shapes)


def _tokenizer_config(shapes: Shapes, name: str) -> ConfigDict:
    features, width = shapes["to_gps.1.weight"]
    config = (gpstoken_l256 if features == 32 else gpstoken_m128).get_config("published")
    if re.search("s64", "/".join(PurePath(name).parts[-2:]), re.IGNORECASE):
        config.partition.num_tokens = 64
    stem = shapes["preprocess_img.0.weight"][0]
    levels = _count(shapes, r"decoder\.up\.(\d+)\.block\.0\.conv1\.weight")
    widths = [shapes[f"decoder.up.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    channels = math.gcd(*widths)
    config.model.feature_channels = features
    config.model.render_size = config.model.image_size >> (levels - 1)
    config.model.encoder.update(
        channels=stem,
        stem_blocks=_count(shapes, r"preprocess_img\.(\d+)\.conv1\.weight", first=1),
        norm_groups=math.gcd(stem, 32),
        roi_size=math.isqrt(shapes["attnblocks.0.roimlp.weight"][1]),
        width=width,
        depth=_count(shapes, r"attnblocks\.(\d+)\.ln1\.weight"),
        num_heads=math.gcd(width, 8),
        mlp_ratio=shapes["attnblocks.0.mlp.0.weight"][0] // width,
    )
    config.model.decoder.update(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks_per_level=_count(shapes, r"decoder\.up\.0\.block\.(\d+)\.conv1\.weight"),
        norm_groups=math.gcd(channels, 32),
    )
    return config


def _sit_config(shapes: Shapes) -> ConfigDict:
    width, channels = shapes["x_embedder.proj.weight"][:2]
    config = sit_xl.get_config("published" if channels == 21 else "")
    config.model.update(
        num_tokens=shapes["pos_embed"][1],
        channels=channels,
        cond_channels=shapes.get("cond_embedder.0.weight", (0, 0))[1],
        num_classes=shapes["y_embedder.embedding_table.weight"][0] - 1,
        width=width,
        depth=_count(shapes, r"blocks\.(\d+)\.attn\.qkv\.weight"),
        num_heads=_SIT_HEADS.get(width) or max(h for h in range(1, 17) if width % (2 * h) == 0),
        mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] // width,
        learn_sigma=shapes["final_layer.linear.weight"][0] == 2 * channels,
    )
    return config


def _count(shapes: Shapes, pattern: str, first: int = 0) -> int:
    """Length of the unbroken row of numbers, from ``first`` on, that names have in a place."""
    found = {int(match[1]) for key in shapes if (match := re.fullmatch(pattern, key))}
    return next(i for i in range(len(found) + 1) if first + i not in found)


def _encoder(config: ConfigDict) -> list[Parameter]:
    c = config.encoder
    width, hidden = c.width, c.mlp_ratio * c.width
    blocks = [f"attnblocks.{k}." for k in range(c.depth)]
    table = [] if c.get("condition", "roi") == "none" else _conditions(config, blocks)
    if c.get("refine", True):
        table += _layer("encoder/geometry_head", "to_gps.0", (5, width))
    return [
        *table,
        Parameter("encoder/embedding/query", ("gps_embed.weight",), (1, width), "row"),
        *_layer("encoder/embedding/dense1", "gps_embed_layer.0", (width, 5)),
        *_layer("encoder/embedding/dense2", "gps_embed_layer.2", (width, width)),
        *_layer("encoder/blocks/norm1", "ln1", (width,), blocks=blocks),
        *_layer("encoder/blocks/qkv", "attn1.in_proj_", (3 * width, width), blocks=blocks),
        *_layer("encoder/blocks/attention_out", "attn1.out_proj", (width, width), blocks=blocks),
        *_layer("encoder/blocks/norm2", "ln2", (width,), blocks=blocks),
        *_layer("encoder/blocks/mlp1", "mlp.0", (hidden, width), blocks=blocks),
        *_layer("encoder/blocks/mlp2", "mlp.2", (width, hidden), blocks=blocks),
        *_layer("encoder/feature_head", "to_gps.1", (config.feature_channels, width)),
    ]


def _conditions(config: ConfigDict, blocks: list[str]) -> list[Parameter]:
    """Layers by which the encoder sees the image; one of the ablations is without."""
    c = config.encoder
    table = _layer("encoder/stem/conv_in", "preprocess_img.0", (c.channels, 3, 3, 3))
    for i in range(c.stem_blocks):
        name = f"preprocess_img.{i + 1}"
        table += _resnet_block(f"encoder/stem/block_{i}", name, c.channels, c.channels)
    roi = (c.width, c.channels, 1, 1)
    table += _layer("encoder/conditions", "roialign_layer", roi, "pointwise")
    weights, biases = (tuple(f"{b}roimlp.{leaf}" for b in blocks) for leaf in ("weight", "bias"))
    return [
        *table,
        Parameter("encoder/conditions/position_kernel", weights, (1, c.roi_size**2), "row", 1),
        Parameter("encoder/conditions/position_bias", biases, (1,), "row", 0),
    ]


def _decoder(config: ConfigDict) -> list[Parameter]:
    c = config.decoder
    widths = [c.channels * multiplier for multiplier in c.multipliers]
    width = widths[-1]
    table = _layer("decoder/conv_in", "decoder.conv_in", (width, config.feature_channels, 3, 3))
    for name in ("block_1", "block_2"):
        table += _resnet_block(f"decoder/mid_{name}", f"decoder.mid.{name}", width, width)
    table += _layer("decoder/mid_attention/norm", "decoder.mid.attn_1.norm", (width,))
    for name in ("q", "k", "v", "proj_out"):
        key = f"decoder.mid.attn_1.{name}"
        table += _layer(f"decoder/mid_attention/{name}", key, (width, width, 1, 1))
    for level in reversed(range(len(widths))):
        for i in range(c.blocks_per_level):
            path, key = f"decoder/level_{level}_block_{i}", f"decoder.up.{level}.block.{i}"
            table += _resnet_block(path, key, width, widths[level])
            width = widths[level]
        if level:
            key = f"decoder.up.{level}.upsample.conv"
            table += _layer(f"decoder/level_{level}_upsample", key, (width, width, 3, 3))
    table += _layer("decoder/norm_out", "decoder.norm_out", (width,))
    return table + _layer("decoder/conv_out", "decoder.conv_out", (3, width, 3, 3))


def _resnet_block(path: str, key: str, width: int, new_width: int) -> list[Parameter]:
    layers = {
        "norm1": (width,),
        "conv1": (new_width, width, 3, 3),
        "norm2": (new_width,),
        "conv2": (new_width, new_width, 3, 3),
    }
    if new_width != width:
        layers["nin_shortcut"] = (new_width, width, 1, 1)
    return [p for n, shape in layers.items() for p in _layer(f"{path}/{n}", f"{key}.{n}", shape)]


def _layer(
    path: str,
    key: str,
    shape: tuple[int, ...],
    kind: str | None = None,
    blocks: list[str] | None = None,
) -> list[Parameter]:
    """A layer's weight of this shape and its bias; with ``blocks`` those of all, stacked."""
    kind = kind or _KIND_OF_RANK[len(shape)]
    leaf = "scale" if len(shape) == 1 else "kernel"
    dot, axis = "" if key.endswith("_") else ".", None if blocks is None else 0

    def keys(name: str) -> tuple[str, ...]:
        return tuple(f"{block}{key}{dot}{name}" for block in (blocks or [""]))

    return [
        Parameter(f"{path}/{leaf}", keys("weight"), shape, kind, axis),
        Parameter(f"{path}/bias", keys("bias"), shape[:1], "vector", axis),
    ]
