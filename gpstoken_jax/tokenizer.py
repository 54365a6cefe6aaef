"""The tokenizer as an object: images in, Gaussian tokens out, and back."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from gpstoken_jax.data.inputs import to_batch
from gpstoken_jax.data.transforms import to_uint8
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.model.high_resolution import decode_images, encode_images
from gpstoken_jax.model.tiles import tile_grid
from gpstoken_jax.partition.focus import box_strength, strength_to_bias
from gpstoken_jax.partition.host import check_shape
from gpstoken_jax.runtime.devices import pad_shard_unpad
from gpstoken_jax.weights import pretrained
from gpstoken_jax.weights.published import tokenizer_table

DEFAULT_FOCUS_STRENGTH = 0.5


class Tokens(np.ndarray):
    """Tokens [..., L, 5 + C], as an array that remembers the size of the image it was made from.

    A token is ``[sigma_x, sigma_y, rho, mu_x, mu_y, features]``. ``image_size`` is (height, width)
    in pixels, or None; results of arithmetic and of slicing keep it.
    """

    image_size: tuple[int, int] | None = None

    def __array_finalize__(self, source: Any) -> None:
        self.image_size = getattr(source, "image_size", None)

    @classmethod
    def of(cls, array: Any, image_size: tuple[int, int] | None = None) -> Self:
        """Makes tokens of any array; shares its memory where NumPy can."""
        tokens = np.asarray(array).view(cls)
        tokens.image_size = image_size
        return tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A GPSToken model with its weights.

    Example:
      >>> tokenizer = Tokenizer.from_pretrained("runs/mine")       # doctest: +SKIP
      >>> tokens = tokenizer.encode("photo.jpg", num_tokens=64)    # doctest: +SKIP
      >>> pixels = tokenizer.decode(tokens, uint8=True)            # doctest: +SKIP

    Attributes:
      model: the Flax module; its ``encode``, ``render`` and ``decode`` are pure functions for
        ``jit``, ``grad`` and ``vmap``.
      params: what its methods take, ``{"params": ...}``.
      config: the whole config of the run that trained it.
      step: the training step of the weights.
    """

    model: GPSToken
    params: Any
    config: ConfigDict
    step: int = 0

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        step: int | None = None,
        weights: str = "ema_params",
        config: ConfigDict | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
    ) -> Self:
        """Loads a tokenizer.

        Args:
          source: a work directory of ``train.py`` (or a checkpoint in it), a directory of
            ``save_pretrained``, a published file or folder (see ``weights.sources.find_source``),
            a hub repository's name, or the name of weights that ship with this package.
          step: which checkpoint of a work directory; the newest that can be read if None.
          weights: ``"ema_params"``, the averaged ones, or ``"params"``.
          config: of the model, for a file that comes without one; None takes what fits.
          subfolder: the variant, in a folder or repository of several.
          revision: of a hub repository.

        Raises:
          CheckpointError: if something is missing, damaged or does not fit; says what and where.
          WeightsError: if a file holds other tensors than the model has; names them.
        """
        where = {"config": config, "subfolder": subfolder, "revision": revision}
        return cls(
            *pretrained.load(source, "tokenizer", GPSToken, init_params, step, weights, **where)
        )

    @property
    def image_size(self) -> int:
        """The side in pixels of the images, or of the tiles of larger ones, that it encodes."""
        return self.config.model.image_size

    def encode(
        self,
        images: Any,
        *,
        num_tokens: int | None = None,
        focus: Float[np.ndarray, "n 4"] | Float[np.ndarray, "h w"] | None = None,
    ) -> Tokens:
        """Encodes one image or a batch.

        Args:
          images: [H, W, 3] or [B, H, W, 3], uint8 or floats in [-1, 1]; a PIL image, a path, or a
            sequence of these. The sides must be multiples of ``image_size``; a larger image is
            encoded in tiles.
          num_tokens: L of an image, or of each tile of a larger one; as trained if None.
          focus: where more tokens go: boxes [N, 4] as (x1, y1, x2, y2) in [-1, 1], boxes [N, 5]
            with a strength each, or strengths [H, W] of all pixels. See ``partition.focus``.

        Returns:
          Tokens [L, 5 + C] or [B, L, 5 + C], in float32, with L over all tiles.

        Raises:
          ValueError: for images, numbers or focuses that cannot be; says why.
        """
        return self.encode_with_layout(images, num_tokens=num_tokens, focus=focus)[0]

    def encode_with_layout(
        self,
        images: Any,
        *,
        num_tokens: int | None = None,
        focus: Float[np.ndarray, "n 4"] | Float[np.ndarray, "h w"] | None = None,
    ) -> tuple[Tokens, Float[np.ndarray, "*b l 5"]]:
        """Encodes as ``encode`` does, and returns the initial Gaussians, too: the layout."""
        batch, batched = to_batch(images)
        size = batch.shape[1:3]
        tile_grid(*size, self.image_size)
        num_tokens = self.config.partition.num_tokens if num_tokens is None else num_tokens
        check_shape((self.image_size,) * 2, num_tokens, self.config.partition.get("min_size", 8))
        inputs = {"images": batch}
        if focus is not None:
            bias = strength_to_bias(_strength(focus, size), self.config.partition.weight)
            inputs["bias"] = np.broadcast_to(bias, batch.shape[:3])
        settings = _Settings.of(self.model, {**self.config.partition, "num_tokens": num_tokens})
        layout, tokens = _encoder(settings)(self.params, inputs)
        if not batched:
            layout, tokens = layout[0], tokens[0]
        return Tokens.of(tokens, size), layout

    def decode(
        self,
        tokens: Float[np.ndarray, "*b l 5+c"],
        *,
        image_size: int | tuple[int, int] | None = None,
        uint8: bool = False,
        high_resolution: str | None = None,
    ) -> Float[np.ndarray, "*b h w 3"] | UInt8[np.ndarray, "*b h w 3"]:
        """Decodes the tokens of one image or of a batch.

        Args:
          tokens: [L, 5 + C] or [B, L, 5 + C].
          image_size: side, or (height, width); if None that of ``tokens`` of ``encode``, else the
            model's.
          uint8: make pixels of 0 to 255 instead of floats.
          high_resolution: how several tiles are decoded: ``"merged"``, ``"aligned"``,
            ``"tiles"`` or ``"blended"``; as the config says if None.

        Returns:
          Images, floats about in [-1, 1].

        Raises:
          ValueError: for tokens that are not of this model, not finite, or do not fit the size.
        """
        if image_size is None:
            image_size = getattr(tokens, "image_size", None) or self.image_size
        tiles = tile_grid(*_height_and_width(image_size), self.image_size)
        array = _floats("tokens", tokens)
        width = 5 + self.config.model.feature_channels
        if array.ndim not in (2, 3) or array.shape[-1] != width or 0 in array.shape:
            raise ValueError(
                f"tokens of this model are [L, {width}] or [B, L, {width}]; got {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError("there are tokens with values that are not finite")
        way = high_resolution or self.config.get("eval", {}).get("high_resolution", "merged")
        batch = array if array.ndim == 3 else array[None]
        images = _decoder(_Settings.of(self.model, {}), tiles, way)(self.params, batch)
        images = images if array.ndim == 3 else images[0]
        return to_uint8(images) if uint8 else images

    def __repr__(self) -> str:
        """One line, instead of all values of all weights."""
        side, width = self.image_size, 5 + self.config.model.feature_channels
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return (
            f"<Tokenizer: {side} x {side} pixels, {self.config.partition.num_tokens} tokens of "
            f"{width} values, {parameters:,} parameters, step {self.step}>"
        )

    def save_pretrained(self, directory: str | Path, *, dtype: str = "float32") -> None:
        """Writes the weights, the config and a model card, for ``from_pretrained``.

        The tensors of ``model.safetensors`` have the names of the published code.

        Args:
          directory: made if it is not there; files of these three names are replaced.
          dtype: of the weights on disk, ``"float32"``, ``"float16"`` or ``"bfloat16"``.

        Raises:
          OSError: if it cannot be written.
        """
        table = tokenizer_table(self.config.model)
        pretrained.save(directory, self.config, table, self.params, self.step, dtype)


@dataclasses.dataclass(frozen=True)
class _Settings:
    """A model and a partition as they are now, compared by what they say."""

    text: str
    model: GPSToken = dataclasses.field(compare=False)
    partition: Mapping[str, Any] = dataclasses.field(compare=False)

    @classmethod
    def of(cls, model: GPSToken, partition: Mapping[str, Any]) -> Self:
        config = model.config.copy_and_resolve_references()
        text = f"{type(model)} {config.to_json(sort_keys=True)} {sorted(partition.items())}"
        return cls(text, model.clone(config=config), partition)


# Encoders and decoders on all devices, compiled once for every shape and setting: whatever weights
# they have, as several checkpoints of one training.


@functools.lru_cache(maxsize=32)
def _encoder(settings: _Settings) -> Callable[..., Any]:
    def run(params, inputs):
        images, bias = inputs["images"], inputs.get("bias")
        return encode_images(settings.model, params, images, bias=bias, **settings.partition)

    return pad_shard_unpad(run, "the encoder")


@functools.lru_cache(maxsize=32)
def _decoder(settings: _Settings, tiles: tuple[int, int], way: str) -> Callable[..., np.ndarray]:
    def run(params, tokens):
        return decode_images(settings.model, params, tokens, tiles, way=way).images

    return pad_shard_unpad(run, "the decoder")


def _floats(name: str, value: Any) -> Float[np.ndarray, "..."]:
    """The array of an argument, whatever it is made of; ValueError if these are no real numbers."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "OSUc":
            return np.asarray(array, np.float32)
    except ValueError:  # lists of several lengths
        pass
    raise ValueError(
        f"{name} must be an array of real numbers; got {type(value).__name__}, which is none"
    )


def _height_and_width(size: Any) -> tuple[int, int]:
    """The sides of a square, by one, or of any image."""
    try:
        sides = size if isinstance(size, Sequence | np.ndarray) else (size, size)
        height, width = map(operator.index, sides)
    except (TypeError, ValueError):
        raise ValueError(
            f"image_size must be a side or (height, width) in whole pixels; got {size!r}"
        ) from None
    return height, width


def _strength(focus: Any, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """The strength at every pixel of boxes, or of a map that has it."""
    array = _floats("focus", focus)
    if array.shape == size:
        if not np.isfinite(array).all():
            raise ValueError("focus: there are strengths that are not finite")
        return array
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise ValueError(
            f"focus must be boxes [N, 4] or [N, 5], or strengths {list(size)}; got {array.shape}"
        )
    strengths = array[:, 4] if array.shape[1] == 5 else np.full(len(array), DEFAULT_FOCUS_STRENGTH)
    return box_strength(size, array[:, :4], strengths)
