"""The tokenizer as the viewer uses it: tile by tile, in few compiled shapes, results kept."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from cachetools import LRUCache
from jaxtyping import Float, Int, Int8, Integer, UInt8
from PIL import Image

from gpstoken_jax.data.resize import resize_and_crop
from gpstoken_jax.data.transforms import to_unit_range
from gpstoken_jax.generator import Generator
from gpstoken_jax.model.layers import split_tiles
from gpstoken_jax.model.tiles import merge_tokens
from gpstoken_jax.partition.complexity import region_complexity
from gpstoken_jax.partition.images import to_grey
from gpstoken_jax.tokenizer import DEFAULT_FOCUS_STRENGTH, Tokenizer
from gpstoken_jax.viewer.allotment import allot
from gpstoken_jax.viewer.decoder import Decoder
from gpstoken_jax.viewer.photos import Photo
from gpstoken_jax.viewer.sizes import Grid, Sizes
from gpstoken_jax.viewer.warmth import Warmth

_KEPT_BYTES = 64 << 20  # tokens of tiles


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokens of a picture of tiles.

    Attributes:
      tokens: in coordinates of the whole picture, tile by tile.
      layout: the Gaussians that they started from.
      tile: number of each token's tile.
      grid: (rows, columns) of tiles.
    """

    tokens: Float[np.ndarray, "l 5+c"]
    layout: Float[np.ndarray, "l 5"]
    tile: Int[np.ndarray, " l"]
    grid: Grid


class Engine:
    """Encodes photos and decodes tokens; may be called from several threads.

    Args:
      tokenizer: whose weights are used.
      generator: for new pictures, if there is one.
      sizes: of pictures; what fits the tokenizer if None.

    Raises:
      CheckpointError: if generator and tokenizer do not fit together.
    """

    def __init__(
        self, tokenizer: Tokenizer, generator: Generator | None = None, sizes: Sizes | None = None
    ):
        if generator is not None:
            generator.check_tokenizer(tokenizer)
        self.tokenizer, self.generator = tokenizer, generator
        self.sizes = sizes or Sizes.of(tokenizer.config)
        self._kept: LRUCache = LRUCache(_KEPT_BYTES, getsizeof=lambda pair: pair[0].nbytes)
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "tiles")
        self.warmth = Warmth(("encode", stop) for stop in self.sizes.by_use())
        self._decoder = Decoder(tokenizer, self.sizes, self.warmth, self._pool)
        self.expect(self.sizes.ladder(1, 1))  # of other shapes when a photo has one

    # ---- Encoding -------------------------------------------------------------------------------

    def encode(
        self, photo: Photo, wanted: int, focus: Int8[np.ndarray, "g v"] | None = None
    ) -> Encoded:
        """Encodes a photo to about so many tokens.

        Args:
          photo: the photo.
          wanted: tokens in all; decides the picture's size, see ``Sizes.grid_for``.
          focus: what is painted, on a map of any size: 127 asks for as many tokens as possible,
            -127 for as few. Without it the tokens are those of ``Tokenizer.encode`` where every
            tile can have the same number.

        Raises:
          ValueError: for a number that a photo of this shape cannot have.
        """
        low, high = self.sizes.range(photo.ladder)
        if not low <= wanted <= high:
            raise ValueError(f"this photo can have {low} to {high} tokens, not {wanted}")
        grid = self.sizes.grid_for(photo.ladder, wanted)
        picture = photo.pictures[grid]
        painted = _painted(focus, picture.shape[:2])
        tiles = split_tiles(picture[None], grid)
        strengths = split_tiles(painted[None, ..., None], grid)[..., 0]
        counts = allot(self._detail(tiles), strengths.mean((1, 2)), wanted, self.sizes.stops)
        strengths = DEFAULT_FOCUS_STRENGTH * strengths
        names = [(photo.key, grid, i) for i in range(len(tiles))]
        parts = list(self._pool.map(self._encode_tile, names, tiles, strengths, counts.tolist()))
        return self._join(parts, grid)

    def _detail(self, tiles: UInt8[np.ndarray, "t s s 3"]) -> Float[np.ndarray, " t"]:
        weight = self.tokenizer.config.partition.weight
        grey = to_grey(to_unit_range(tiles))
        return np.array([region_complexity(tile, weight) for tile in grey])

    def _encode_tile(
        self, name: tuple, tile: np.ndarray, strength: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and layout of a tile, in its own coordinates."""
        key = (*name, count, sha256(strength).digest() if strength.any() else b"")
        with self._guard:
            if key in self._kept:
                return self._kept[key]
        with self.warmth.using(("encode", count)):
            pair = self.tokenizer.encode_with_layout(tile, num_tokens=count, focus=strength)
        pair = tuple(map(np.asarray, pair))
        with self._guard:
            self._kept[key] = pair
        return pair

    def _join(self, parts: list[tuple[np.ndarray, np.ndarray]], grid: Grid) -> Encoded:
        """Tiles of different numbers of tokens as one picture."""
        counts = [len(tokens) for tokens, _ in parts]
        there = np.arange(self.sizes.stops[-1]) < np.array(counts)[:, None]

        def merge(arrays: list[np.ndarray]) -> np.ndarray:
            padded = np.zeros((*there.shape, arrays[0].shape[-1]), np.float32)
            padded[there] = np.concatenate(arrays)
            return merge_tokens(padded, grid)[0][there.ravel()]

        tokens, layout = (merge(list(arrays)) for arrays in zip(*parts, strict=True))
        return Encoded(tokens, layout, np.repeat(np.arange(len(parts)), counts), grid)

    # ---- Generating -----------------------------------------------------------------------------

    def layout(self, photo: Photo) -> Float[np.ndarray, "l 5"]:
        """Initial Gaussians of the middle of a photo, as many as the generator draws."""
        side = self.sizes.tile
        middle = resize_and_crop(photo.pictures[photo.ladder[-1]], side, resize="antialias")
        count = self.generator.model.num_tokens
        none = np.zeros((side, side), np.float32)  # as of tiles, so that it may be compiled already
        return self.tokenizer.encode_with_layout(middle, num_tokens=count, focus=none)[1]

    def generate(
        self, label: int, seed: int, guidance: float | None, layout: Float[np.ndarray, "l 5"] | None
    ) -> Encoded:
        """Draws the tokens of a new picture of one tile.

        Args:
          label: its class, a number.
          seed: another picture for each.
          guidance: scale of it; as the generator's config says if None.
          layout: Gaussians to start from; drawn, too, if None.

        Raises:
          ValueError: for a class that is none, or a layout of another number of tokens.
        """
        count = self.generator.model.num_tokens
        if layout is not None and layout.shape != (count, 5):
            raise ValueError(f"the generator draws {count} tokens, not {len(layout)}")
        classes = label if self.generator.has_classes else "all"
        tokens = self.generator.sample(
            classes, seed, layouts=layout, guidance_scale=guidance if classes != "all" else None
        )
        tokens = np.asarray(tokens)[0]
        start = tokens[:, :5] if layout is None else layout
        return Encoded(tokens, start, np.zeros(count, np.int64), (1, 1))

    # ---- Decoding -------------------------------------------------------------------------------

    def decode(
        self, tokens: Float[np.ndarray, "l 5+c"], tile: Integer[np.ndarray, " l"], grid: Grid
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes tokens, each of which belongs to a tile.

        Raises:
          ValueError: for tokens that are not of this model, or too many of one tile.
        """
        return self._decoder.decode(tokens, tile, grid)

    # ---- Compiling ------------------------------------------------------------------------------

    def warm_up(self, stop: threading.Event) -> None:
        """Compiles what is not compiled yet, shape by shape, until there is nothing or ``stop``."""
        while (waiting := self.warmth.waiting()) and not stop.is_set():
            self._compile(waiting[0])

    def expect(self, ladder: tuple[Grid, ...]) -> None:
        """Puts what decodes a photo's pictures on the list."""
        self.warmth.expect(self._decoder.shapes(ladder))

    def _compile(self, shape: tuple) -> None:
        if shape[0] != "encode":
            self._decoder.compile(shape)
            return
        side = self.sizes.tile
        grey, none = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.float32)
        with self.warmth.using(shape):
            self.tokenizer.encode_with_layout(grey, num_tokens=shape[1], focus=none)


def _painted(focus: Int8[np.ndarray, "g v"] | None, size: tuple[int, int]) -> np.ndarray:
    """A painted map at every pixel, -1 to 1."""
    if focus is None or not focus.any():
        return np.zeros(size, np.float32)
    painted = Image.fromarray(focus.astype(np.float32) / 127)
    return np.asarray(painted.resize(size[::-1], Image.Resampling.BILINEAR))
