"""Tokens in bits: every channel in uniform steps, the steps entropy-coded.

Each of the 5 + C channels has 2^N levels between its smallest and largest value, and a table of how
often each level occurs, one byte a level. With these tables an image's levels become one stream of
an asymmetric numeral system (Duda 2014; the ``constriction`` library), so images are read one by
one. Levels come back exactly; what is lost is the rounding to a level. Of images of several tiles
the geometry is in levels of its tile: in the whole image's coordinates levels would be coarser, the
more tiles there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from constriction import stream as coding
from jaxtyping import Float, Int, UInt8

from gpstoken_jax.model.tiles import merge_tokens, split_tokens

MAX_BITS = 10
_OTHER = "the stream was not made with these tables"
_FLOAT32 = np.finfo(np.float32)
_WORD = np.dtype("<u4")  # constriction's streams, in one order of bytes everywhere


@dataclass(frozen=True, eq=False)
class TokenCodec:
    """Levels and frequencies of every channel.

    Attributes:
      low: value of level 0.
      step: from a level to the next; above 0.
      frequencies: of every level, 1 to 255; there are 2^N.
      tiles: (rows, columns) of an image, in whose coordinates levels are.
    """

    low: Float[np.ndarray, " d"]
    step: Float[np.ndarray, " d"]
    frequencies: UInt8[np.ndarray, "d levels"]
    tiles: tuple[int, int] = (1, 1)

    @classmethod
    def fit(
        cls, tokens: Float[np.ndarray, "*b l d"], bits: int, tiles: tuple[int, int] = (1, 1)
    ) -> Self:
        """Makes the codec of some tokens. Others it clips to the range of these.

        Args:
          tokens: finite, of at least one image.
          bits: N, from 1 to ``MAX_BITS``, of a value before entropy coding.
          tiles: (rows, columns) that the images are encoded in; tokens stand tile by tile.

        Raises:
          ValueError: for other numbers of bits, no tokens, or a channel wider than float32.
        """
        if not 1 <= bits <= MAX_BITS:
            raise ValueError(f"bits must be from 1 to {MAX_BITS}, not {bits}")
        rows = np.asarray(tokens, np.float32).reshape(-1, np.shape(tokens)[-1])
        if not rows.size or not np.isfinite(rows).all():
            raise ValueError("a codec is made of finite tokens of at least one image")
        rows = _apart(tokens, tiles).reshape(rows.shape)
        low, high = rows.min(axis=0), rows.max(axis=0)
        width = high.astype(np.float64) - low
        if (width > _FLOAT32.max).any():
            raise ValueError(f"a channel goes from {low.min():g} to {high.max():g}: no level fits")
        step = width / (2**bits - 1)
        step = np.where(step < _FLOAT32.tiny, 1, step).astype(np.float32)  # none: a constant
        plain = cls(low, step, np.ones((rows.shape[1], 2**bits), np.uint8), tiles)
        levels = plain.levels(tokens).reshape(rows.shape)
        counts = np.stack([np.bincount(column, minlength=2**bits) for column in levels.T])
        shares = counts / counts.max(axis=1, keepdims=True)
        frequencies = np.clip(np.rint(255 * shares), 1, 255).astype(np.uint8)
        return cls(low, step, frequencies, tiles)

    @property
    def bits(self) -> int:
        """N, of a value before entropy coding."""
        return int(self.frequencies.shape[1]).bit_length() - 1

    @property
    def num_bytes(self) -> int:
        """Storage of the tables themselves, once for all images."""
        return sum(array.nbytes for array in self.to_arrays().values())

    def levels(self, tokens: Float[np.ndarray, "*b l d"]) -> Int[np.ndarray, "*b l d"]:
        """The nearest level of every value."""
        places = (_apart(tokens, self.tiles) - self.low) / self.step
        return np.clip(np.rint(places), 0, self.frequencies.shape[1] - 1).astype(np.int32)

    def values(self, levels: Int[np.ndarray, "*b l d"]) -> Float[np.ndarray, "*b l d"]:
        """The value of every level."""
        values = self.low + levels.astype(np.float32) * self.step
        return _merged(values, self.tiles)

    def encode(self, tokens: Float[np.ndarray, "b l d"]) -> list[bytes]:
        """Makes a stream of each image's tokens; ``decode`` gives ``values(levels(tokens))``."""
        return [self._encode(levels) for levels in self.levels(tokens)]

    def decode(self, streams: Sequence[bytes], num_tokens: int) -> Float[np.ndarray, "b l d"]:
        """Reads the tokens of images, ``num_tokens`` of each.

        Raises:
          ValueError: for a stream that these tables did not make.
        """
        levels = [self._decode(stream, num_tokens) for stream in streams]
        shape = (len(levels), num_tokens, len(self.low))
        return self.values(np.array(levels, np.int32).reshape(shape))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The tables, by the names that ``from_arrays`` takes."""
        return {"low": self.low, "step": self.step, "frequencies": self.frequencies}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], tiles: tuple[int, int] = (1, 1)) -> Self:
        """Makes a codec of the arrays of ``to_arrays``, for images of so many tiles.

        Raises:
          ValueError: if they are no tables.
        """
        low, step, frequencies = (arrays[name] for name in ("low", "step", "frequencies"))
        if (
            low.shape != step.shape
            or frequencies.shape[:1] != low.shape
            or frequencies.shape[1] not in [2**bits for bits in range(1, MAX_BITS + 1)]
            or not (np.isfinite(low).all() and np.isfinite(step).all() and frequencies.all())
            or (step <= 0).any()
        ):
            raise ValueError("these arrays are no tables of a codec")
        return cls(low, step, frequencies, tiles)

    def _models(self) -> list[coding.model.Categorical]:
        shares = self.frequencies / self.frequencies.sum(axis=1, keepdims=True, dtype=np.float64)
        return [coding.model.Categorical(row.astype(np.float32), perfect=False) for row in shares]

    def _encode(self, levels: Int[np.ndarray, "l d"]) -> bytes:
        coder = coding.stack.AnsCoder()
        for model, column in reversed(list(zip(self._models(), levels.T, strict=True))):
            coder.encode_reverse(np.ascontiguousarray(column), model)
        return coder.get_compressed().astype(_WORD).tobytes()

    def _decode(self, stream: bytes, num_tokens: int) -> Int[np.ndarray, "l d"]:
        try:
            coder = coding.stack.AnsCoder(np.frombuffer(stream, _WORD).astype(np.uint32))
            columns = [coder.decode(model, num_tokens) for model in self._models()]
            levels = np.stack(columns, axis=-1)
        except ValueError as error:
            raise ValueError(f"{_OTHER} ({error})") from error
        if self._encode(levels) != stream:  # a stream that is cut off decodes to something, too
            raise ValueError(_OTHER)
        return levels


def _apart(tokens: Float[np.ndarray, "*b l d"], tiles: tuple[int, int]) -> np.ndarray:
    """The same tokens in the coordinates of their tiles, as float32."""
    tokens = np.asarray(tokens, np.float32)
    if tiles == (1, 1):
        return tokens
    return split_tokens(tokens.reshape(-1, *tokens.shape[-2:]), tiles).reshape(tokens.shape)


def _merged(values: Float[np.ndarray, "*b l d"], tiles: tuple[int, int]) -> np.ndarray:
    """The inverse of ``_apart``."""
    if tiles == (1, 1):
        return values
    length, width = values.shape[-2] // (tiles[0] * tiles[1]), values.shape[-1]
    return merge_tokens(values.reshape(-1, length, width), tiles).reshape(values.shape)
