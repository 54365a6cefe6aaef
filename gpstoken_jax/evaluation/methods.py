"""Methods of a table: a tokenizer with and without focus, baselines, images made elsewhere.

With rates, tokens in bits too, and JPEG and WebP files of as many bytes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from gpstoken_jax.evaluation.measurement import Methods, Reconstruction
from gpstoken_jax.metrics.baselines import COMPRESSED, SHORT_LABELS, Baseline, make_baselines
from gpstoken_jax.model.gpstoken import GPSToken
from gpstoken_jax.model.high_resolution import decode_images, encode_images
from gpstoken_jax.partition.focus import strength_to_bias
from gpstoken_jax.runtime.devices import map_over_devices, pad_and_shard
from gpstoken_jax.tokens.codec import MAX_BITS, TokenCodec

MODEL, UNFOCUSED, GIVEN = "model", "unfocused", "images"
FITTED_IMAGES = 256  # the first ones, that levels and frequencies are taken from
TOKENS = "tokens"
_NAME = re.compile(rf"({'|'.join((TOKENS, *COMPRESSED))})-(\d+)bit")
Batch = Mapping[str, Any]


# ---- Rates: tokens in bits, and files of as many bytes -------------------------------------------


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
    def fit(
        cls,
        tokens: Float[np.ndarray, "n l d"],
        bits: int,
        num_images: int,
        tiles: tuple[int, int] = (1, 1),
    ) -> Self:
        """Makes the codec of some images' tokens, for ``num_images`` of them in all."""
        codec = TokenCodec.fit(tokens, bits, tiles)
        share = codec.num_bytes / num_images
        mean = np.mean([len(stream) for stream in codec.encode(tokens)])
        return cls(codec, share, round(mean + share))

    def baselines(self) -> dict[str, Baseline]:
        """JPEG and WebP of as many bytes, by coder."""
        return make_baselines(COMPRESSED, 0, self.budget)

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
    tiles: tuple[int, int] = (1, 1),
) -> dict[int, Rate]:
    """Makes the codecs of an evaluation's first images.

    Args:
      encode: tokens [B, L, D] of images [B, H, W, 3].
      batches: of them.
      bits: of a value.
      num_images: of the evaluation, to share the tables among.
      tiles: (rows, columns) of an image.

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
    return {some: Rate.fit(tokens, some, num_images, tiles) for some in bits}


# ---- Methods -------------------------------------------------------------------------------------


def tokenizer_methods(
    model: GPSToken,
    params: Any,
    partition: ConfigDict,
    baselines: Mapping[str, Baseline],
    *,
    tiles: tuple[int, int] = (1, 1),
    high_resolution: str = "merged",
    focus: Float[np.ndarray, "h w"] | None = None,
    rates: Mapping[int, Rate] | None = None,
) -> Methods:
    """Makes reconstructions by a tokenizer, and baselines beside it.

    Args:
      model, params: of the tokenizer.
      partition: arguments of ``encode_images``, with the number of tokens of an image or a tile.
      baselines: by name.
      tiles: (rows, columns) of tiles that the images have.
      high_resolution: the way in which several tiles are decoded, see ``high_resolution.WAYS``.
      focus: strength [H, W] that moves tokens in every image, see ``focus``; images are then
        reconstructed with and without it.
      rates: by bits of a value: reconstructions of tokens in so many bits follow, and JPEG and WebP
        files of as many bytes.
    """
    bias = None if focus is None else strength_to_bias(focus, partition.weight)[None]

    def reconstruct(params, images, bias):
        initial, tokens = encode_images(model, params, images, bias=bias, **partition)
        decoded = decode_images(model, params, tokens, tiles, way=high_resolution)
        shown = {
            "initial": initial,
            "refined": tokens[..., :5],
            "feature_map": model.apply(params, tokens, tiles, method="render"),
        }
        shown |= {"tokens": tokens} if rates else {}
        return decoded.images, shown, {"floored_std": decoded.floored_std}

    def decode(params, tokens):
        return decode_images(model, params, tokens, tiles, way=high_resolution).images

    decode_mapped = map_over_devices(
        decode, (None, 0), devices=jax.local_devices(), name="the decoder"
    )
    mapped = map_over_devices(
        reconstruct, (None, 0, None), devices=jax.local_devices(), name="the tokenizer"
    )

    def methods(batch: Batch) -> dict[str, Reconstruction]:
        images = batch["image"]
        made = {MODEL: Reconstruction(*mapped(params, images, bias))}
        if bias is not None:
            again, shown, _ = mapped(params, images, np.zeros_like(bias))
            made[UNFOCUSED] = Reconstruction(again, shown, {})
        made |= _run_baselines(baselines, images)
        for bits, rate in (rates or {}).items():
            stored, values = rate.apply(np.asarray(made[MODEL].tokens["tokens"]))
            again = Reconstruction(decode_mapped(params, stored), {}, values)
            others = _run_baselines(rate.baselines(), images)
            for coder, one in {TOKENS: again, **others}.items():
                made[f"{coder}-{bits}bit"] = one
        return made

    return methods


def given_images(baselines: Mapping[str, Baseline]) -> Methods:
    """Takes images that some program wrote, a batch's ``given``; makes baselines beside them."""

    def methods(batch: Batch) -> dict[str, Reconstruction]:
        made = {GIVEN: Reconstruction(pad_and_shard(batch["given"]), {}, {})}
        return made | _run_baselines(baselines, batch["image"])

    return methods


def _run_baselines(
    baselines: Mapping[str, Callable], images: Float[np.ndarray, "d b h w 3"]
) -> dict[str, Reconstruction]:
    flat = images.reshape(-1, *images.shape[2:])

    def run(baseline: Baseline) -> Reconstruction:
        copies, values = baseline(flat)
        per_device = {name: np.reshape(x, images.shape[:2]) for name, x in values.items()}
        return Reconstruction(copies.reshape(images.shape), {}, per_device)

    return {name: run(baseline) for name, baseline in baselines.items()}
