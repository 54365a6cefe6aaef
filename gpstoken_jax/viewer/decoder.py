"""Tokens to pixels for the page: what has not changed since the last time is not decoded again."""

import math
import threading
from concurrent.futures import Executor
from functools import partial
from hashlib import sha256

import jax
import numpy as np
from cachetools import LRUCache
from jaxtyping import Float, Integer, UInt8

from gpstoken_jax.data.transforms import to_uint8
from gpstoken_jax.model.high_resolution import WAYS_APART, decode_apart
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.viewer.sizes import Grid, Sizes
from gpstoken_jax.viewer.warmth import Warmth

MOST_DECODED = 4  # times the largest number of tokens that a tile is encoded to
_KEPT_BYTES = 64 << 20  # of decoded parts

Shape = tuple


class Decoder:
    """The tokenizer's decoder, in few compiled shapes; may be called from several threads.

    Pictures that are decoded in parts of a tile's size (``tiles`` and ``blended``, see
    ``model.high_resolution``) are put together from parts that are kept by their tokens: a moved
    token costs at most nine of the 49 parts of 4 x 4 tiles. Others are decoded whole.

    Args:
      tokenizer: whose weights are used.
      sizes: of pictures.
      warmth: where it is noted what is compiled.
      pool: decodes parts side by side.
    """

    def __init__(self, tokenizer: Tokenizer, sizes: Sizes, warmth: Warmth, pool: Executor):
        self._tokenizer, self._sizes, self._warmth, self._pool = tokenizer, sizes, warmth, pool
        way = tokenizer.config.get("eval", {}).get("high_resolution", "merged")
        self._way = way if way in WAYS_APART else None
        self._params = jax.device_put(tokenizer.params)
        self._run = jax.jit(partial(tokenizer.model.apply, method="decode"))
        self._kept: LRUCache = LRUCache(_KEPT_BYTES, getsizeof=lambda image: image.nbytes)
        self._guard = threading.Lock()
        # Of tokens of a tile; fewer are filled up, so that few shapes are compiled.
        most = sizes.stops[-1]
        least = min(sizes.trained, most) if self._way else most
        self._capacities = [least << k for k in range(16) if least << k <= MOST_DECODED * most]

    def decode(
        self, tokens: Float[np.ndarray, "l 5+c"], tile: Integer[np.ndarray, " l"], grid: Grid
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes tokens, each of which belongs to a tile.

        Raises:
          ValueError: for tokens that are not of this model, or too many of one tile.
        """
        capacity = self._capacity(tile)
        rows = pad_tiles(tokens, tile, grid, capacity)
        if self._way:
            model = self._tokenizer.model
            images = decode_apart(model, self._decode_parts, rows[None], grid, way=self._way)
            return to_uint8(images[0])
        with self._warmth.using(("picture", grid, capacity)):
            return self._tokenizer.decode(rows, image_size=self._sizes.pixels(grid), uint8=True)

    def shapes(self, ladder: tuple[Grid, ...]) -> list[Shape]:
        """Lists what pictures of a photo need."""
        most = self._sizes.stops[-1]
        if not self._way:
            return [("picture", grid, most) for grid in ladder]
        once = [capacity for capacity in self._capacities if capacity < 2 * most]
        touched = (1, 2, 4) if self._way == "blended" else (1,)  # tiles under a part
        return [("part", count) for count in sorted({n * c for n in touched for c in once})]

    def compile(self, shape: Shape) -> None:
        """Compiles one of ``shapes``."""
        kind, *numbers = shape
        depth = 5 + self._tokenizer.config.model.feature_channels
        if kind == "part":
            self._decode_part(np.zeros((*numbers, depth), np.float32))
        else:
            grid, capacity = numbers
            tile = np.repeat(np.arange(math.prod(grid), dtype=np.uint16), capacity)
            self.decode(np.zeros((len(tile), depth), np.float32), tile, grid)

    def _decode_parts(
        self, sets: list[Float[np.ndarray, "n k 5+c"]]
    ) -> list[Float[np.ndarray, "n s s 3"]]:
        parts = [part for some in sets for part in some]
        keys = [sha256(part).digest() for part in parts]
        with self._guard:
            images = [self._kept.get(key) for key in keys]
        new = [i for i, image in enumerate(images) if image is None]
        made = self._pool.map(self._decode_part, [parts[i] for i in new])
        for i, image in zip(new, made, strict=True):
            images[i] = image
            with self._guard:
                self._kept[keys[i]] = image
        ends = np.cumsum([len(some) for some in sets])
        return np.split(np.stack(images), ends[:-1])

    def _decode_part(self, tokens: Float[np.ndarray, "k 5+c"]) -> Float[np.ndarray, "s s 3"]:
        with self._warmth.using(("part", len(tokens))):
            return np.asarray(self._run(self._params, tokens[None])[0])

    def _capacity(self, tile: Integer[np.ndarray, " l"]) -> int:
        fullest = int(np.bincount(tile).max()) if len(tile) else 0
        for capacity in self._capacities:
            if fullest <= capacity:
                return capacity
        raise ValueError(
            f"{fullest} tokens are in one tile; at most {self._capacities[-1]} can be drawn there"
        )


def pad_tiles(
    tokens: Float[np.ndarray, "l d"], tile: Integer[np.ndarray, " l"], grid: Grid, capacity: int
) -> Float[np.ndarray, "rows*cols*capacity d"]:
    """Tokens tile by tile, filled up with tokens that draw nothing: what ``decode`` expects."""
    tiles = math.prod(grid)
    order = np.argsort(tile, kind="stable")
    counts = np.bincount(tile, minlength=tiles)
    rows = np.zeros((tiles, capacity, tokens.shape[-1]), np.float32)
    rows[..., :2] = 1
    rows[np.arange(capacity) < counts[:, None]] = tokens[order]
    return rows.reshape(tiles * capacity, -1)
