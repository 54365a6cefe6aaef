"""Flags that programs on images share: which tokenizer, which images, and where their tokens go.

A program that calls one of these functions has the flags as its own.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags
from etils import epy

from gpstoken_jax.programs import cli

with epy.lazy_imports():  # --help answers before JAX is there
    from gpstoken_jax import data, tokenizer
    from gpstoken_jax.data import resize as resizing
    from gpstoken_jax.model import tiles as tiling
    from gpstoken_jax.partition import focus as focusing
    from gpstoken_jax.partition import host as partitioning
if TYPE_CHECKING:
    from ml_collections import ConfigDict

flags.disclaim_key_flags()
WAYS = ["merged", "aligned", "tiles", "blended"]  # of decoding several tiles


class CheckpointFlags(NamedTuple):
    """Flags that name a tokenizer's weights."""

    checkpoint: flags.FlagHolder
    step: flags.FlagHolder
    weights: flags.FlagHolder

    def load(self, step: int | None = None) -> tokenizer.Tokenizer:
        """Loads the tokenizer; ``step`` where the flag does not say."""
        step = step if self.step.value is None else self.step.value
        return tokenizer.Tokenizer.from_pretrained(
            self.checkpoint.value, step=step, weights=self.weights.value
        )


def define_checkpoint_flags(step_by_default: str = "the newest by default") -> CheckpointFlags:
    """Defines ``--checkpoint``, ``--step`` and ``--weights``."""
    defined = CheckpointFlags(
        flags.DEFINE_string(
            "checkpoint",
            None,
            "A run's directory, a published file or folder, or a hub repository's name.",
            required=True,
        ),
        flags.DEFINE_integer("step", None, f"Which of a run's checkpoints; {step_by_default}."),
        define_weights_flag(),
    )
    cli.allow_buckets("checkpoint")
    return defined


def define_weights_flag() -> flags.FlagHolder:
    """Defines ``--weights``."""
    choices = ["ema_params", "params"]
    return flags.DEFINE_enum(
        "weights", "ema_params", choices, "Averaged weights, or the last ones."
    )


def define_resize_flag() -> flags.FlagHolder:
    """Defines ``--resize``."""
    return flags.DEFINE_enum(
        "resize",
        None,
        ["published", "antialias", "fast"],
        "How images are brought to size: as the published code does, for figures beside published "
        "ones, antialiased, or nearly so and faster; by default as the config says, for published "
        "weights the first.",
    )


def define_focus_flags() -> tuple[flags.FlagHolder, flags.FlagHolder]:
    """Defines ``--focus`` and ``--bias_map``."""
    return (
        flags.DEFINE_multi_string(
            "focus",
            [],
            "Move tokens into a box: x,y,w,h,strength with the top left corner and the size in "
            "fractions of the image. Strength 1 asks for more than any texture would get. "
            "Repeatable.",
        ),
        flags.DEFINE_string(
            "bias_map",
            None,
            "A grey picture of where tokens should go: black is strength 0, white 1.",
        ),
    )


class DecodingFlags(NamedTuple):
    """Flags that say how tokens become 8-bit images."""

    high_resolution: flags.FlagHolder
    tiles: flags.FlagHolder
    rounding: flags.FlagHolder

    def way(self) -> str | None:
        """Way in which several tiles are decoded; None as the config says."""
        return "tiles" if self.tiles.value else self.high_resolution.value

    def rounding_of(self, config: ConfigDict) -> str:
        """The rounding of the flag, else that of a config."""
        return self.rounding.value or config.eval.rounding


def define_high_resolution_flag() -> flags.FlagHolder:
    """Defines ``--high_resolution``."""
    return flags.DEFINE_enum(
        "high_resolution",
        None,
        WAYS,
        "How an image of several tiles is decoded: its tokens merged (as published, or aligned to "
        "the pixel), or tile by tile (tiles), with windows over their seams, too (blended); the "
        "config's way by default.",
    )


def define_decoding_flags(rounding: str | None = None) -> DecodingFlags:
    """Defines ``--high_resolution``, ``--tiles`` and ``--rounding``."""
    return DecodingFlags(
        define_high_resolution_flag(),
        flags.DEFINE_bool("tiles", False, "Decode tile by tile: --high_resolution=tiles."),
        flags.DEFINE_enum(
            "rounding",
            rounding,
            ["round", "truncate"],
            "To 8 bits: nearest, or down as the release does"
            + ("." if rounding else "; by default as the config says."),
        ),
    )


class ImageFlags(NamedTuple):
    """Flags that name images and say how they are encoded."""

    data: flags.FlagHolder
    split: flags.FlagHolder
    resolution: flags.FlagHolder
    resize: flags.FlagHolder
    num_tokens: flags.FlagHolder
    focus: flags.FlagHolder
    bias_map: flags.FlagHolder
    batch_size: flags.FlagHolder

    def open(self, config: ConfigDict, folder: str | None = None) -> Images:
        """Opens the images of the flags, else those that a run was trained on.

        Args:
          config: the whole config; its ``data`` section is changed to what the flags say.
          folder: the images, from a flag of the program's own.

        Raises:
          ValueError, OSError: if they cannot be opened, or a flag does not fit.
        """
        section, side = config.data, config.model.image_size
        given = self.data.value.to_dict() | ({"folder": folder} if folder else {})
        data.name_data(section, given)
        section.resize = self.resize.value or resizing.resize_of(section)
        size = (side, side)
        if self.resolution.value:
            size = resizing.parse_size(self.resolution.value)
        count = math.prod(tiling.tile_grid(*size, side))
        num_tokens = self.num_tokens.value or config.partition.num_tokens
        partitioning.check_shape((side, side), num_tokens, config.partition.min_size)
        focus = focusing.read_focus(size, self.focus.value, self.bias_map.value)
        return Images(
            source=data.open_source(section, self.split.value),
            reading=section,
            size=size,
            tiles=count,
            num_tokens=num_tokens,
            batch_size=self.batch_size.value or max(1, config.eval.batch_size // count),
            focus=focus,
            asked=(*self.focus.value, *([self.bias_map.value] if self.bias_map.value else [])),
        )


def define_image_flags() -> ImageFlags:
    """Defines ``--data.*``, ``--split``, ``--resolution``, ``--focus`` and the like."""
    return ImageFlags(
        cli.define_data_flags(),
        flags.DEFINE_string("split", "all", "Which split of the data."),
        flags.DEFINE_string(
            "resolution",
            None,
            "Size of the images: a side, or HEIGHTxWIDTH; multiples of the model's side, which is "
            "the default.",
        ),
        define_resize_flag(),
        flags.DEFINE_integer(
            "num_tokens",
            None,
            "Tokens an image, or a tile of one; the config's by default.",
            lower_bound=1,
        ),
        *define_focus_flags(),
        flags.DEFINE_integer(
            "batch_size",
            None,
            "Images at a time; by default the config's, fewer of several tiles.",
            lower_bound=1,
        ),
    )


@dataclass(frozen=True)
class Images:
    """Images to encode, and how.

    Attributes:
      source: where they come from.
      reading: the ``data`` section of a config.
      size: (height, width) that they are brought to.
      tiles: of an image.
      num_tokens: of a tile.
      batch_size: images at a time.
      focus: strength [H, W] that moves tokens, see ``partition.focus``; None for none.
      asked: the flags that it is made of.
    """

    source: data.ImageSource
    reading: ConfigDict
    size: tuple[int, int]
    tiles: int
    num_tokens: int
    batch_size: int
    focus: np.ndarray | None
    asked: tuple[str, ...]

    def of(self, source: data.ImageSource) -> Images:
        """The same with other images."""
        return replace(self, source=source)

    def batches(self, positions: Sequence[int]) -> data.EvalBatches:
        """Batches of the images at some positions."""
        some = data.Subset(self.source, list(positions))
        return data.eval_batches(some, self.reading, self.size, self.batch_size)

    def encode(
        self, model: tokenizer.Tokenizer, images: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and initial Gaussians of a batch."""
        return model.encode_with_layout(images, num_tokens=self.num_tokens, focus=self.focus)

    def describe_way(self) -> dict[str, Any]:
        """All else that tokens depend on beside model and images, where it is not the usual way."""
        described = {}
        if self.tiles > 1:
            described["image_size"] = list(self.size)
        if self.focus is not None:
            checksum = f"CRC-32 {zlib.crc32(self.focus.tobytes()):08x}"
            described["focus"] = f"{'; '.join(self.asked)} ({checksum})"
        return described
