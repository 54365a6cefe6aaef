"""Tokens in bits, and JPEG and WebP files of as many bytes: a rate-distortion curve."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from gpstoken_jax.evaluation.codecs import SHORT_LABELS, Baseline, make_baselines
from gpstoken_jax.tokens.codec import MAX_BITS, TokenCodec

FITTED_IMAGES = 256  # the first ones, that levels and frequencies are taken from
TOKENS = "tokens"
_COMPRESSED = ("jpeg", "webp")
_NAME = re.compile(rf"({'|'.join((TOKENS, *_COMPRESSED))})-(\d+)bit")


def check_bits(texts: Iterable[str]) -> tuple[int, ...]:
    """Returns the numbers of bits, each once.

    Raises:
      ValueError: for what is no such number.
    """
    for text in texts:
        if not text.isdecimal() or not 1 <= int(text) <= MAX_BITS:
            raise ValueError(f"--bits: {text!r} is no whole number from 1 to {MAX_BITS}")
    return tuple(dict.fromkeys(int(text) for text in texts))


def split_name(method: str) -> tuple[str, int] | None:
    """Splits the name of a method of a rate into the coder and its bits; None for other methods."""
    match = _NAME.fullmatch(method)
    return (match[1], int(match[2])) if match else None


def coder_label(coder: str) -> str:
    """Name of a coder for a reader."""
    return SHORT_LABELS.get(coder, "GPSToken")


def rate_label(method: str, short: bool = False) -> str | None:
    """Name of a method of a rate; None for other methods."""
    if (parts := split_name(method)) is None:
        return None
    coder, bits = parts
    if coder == TOKENS:
        return f"{bits} bits a value" if short else f"GPSToken, {bits} bits a value, entropy-coded"
    return f"{coder_label(coder)} as {bits} bits" + ("" if short else " a value")


@dataclass(frozen=True, eq=False)
class Rate:
    """Tokens in levels, and what they store.

    Attributes:
      codec: of the tokens of the first images.
      table_bytes: of its tables, an image's share of them.
      budget: bytes of an image: those of the first ones, on average.
    """

    codec: TokenCodec
    table_bytes: float
    budget: int

    @classmethod
    def fit(cls, tokens: Float[np.ndarray, "n l d"], bits: int, num_images: int) -> Self:
        """Makes the codec of some images' tokens, for ``num_images`` of them in all."""
        codec = TokenCodec.fit(tokens, bits)
        share = codec.num_bytes / num_images
        mean = np.mean([len(stream) for stream in codec.encode(tokens)])
        return cls(codec, share, round(mean + share))

    def baselines(self) -> dict[str, Baseline]:
        """JPEG and WebP of as many bytes, by coder."""
        return make_baselines(_COMPRESSED, 0, self.budget)

    def apply(
        self, tokens: Float[np.ndarray, "*b l d"]
    ) -> tuple[Float[np.ndarray, "*b l d"], Mapping[str, np.ndarray]]:
        """The tokens as they come out of their streams, and the bytes of each image."""
        flat = tokens.reshape(-1, *tokens.shape[-2:])
        streams = self.codec.encode(flat)
        size = np.array([len(stream) + self.table_bytes for stream in streams])
        back = self.codec.decode(streams, tokens.shape[-2])
        return back.reshape(tokens.shape), {"bytes": size.reshape(tokens.shape[:-2])}


def fit_rates(
    encode: Callable[[Any], np.ndarray],
    batches: Iterable[Mapping[str, Any]],
    bits: Sequence[int],
    num_images: int,
) -> dict[int, Rate]:
    """Makes the codecs of an evaluation's first images.

    Args:
      encode: tokens [B, L, D] of images [B, H, W, 3].
      batches: of them.
      bits: of a value.
      num_images: of the evaluation, to share the tables among.

    Raises:
      ValueError: if none of the images can be read.
    """
    parts, count = [], 0
    for batch in islice(batches, FITTED_IMAGES):
        parts.append(encode(batch["image"])[batch["mask"]])
        count += len(parts[-1])
        if count >= FITTED_IMAGES:
            break
    tokens = np.concatenate(parts) if parts else np.zeros((0, 1, 1), np.float32)
    return {some: Rate.fit(tokens, some, num_images) for some in bits}
