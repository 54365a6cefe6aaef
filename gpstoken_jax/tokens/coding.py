"""Images to tokens and tokens to images, batch by batch, on all devices of this process."""

import zlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from gpstoken_jax.data import Example, ImageSource
from gpstoken_jax.metrics.image import Rounding, image_metrics, to_unit_range
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.runtime.devices import spread
from gpstoken_jax.runtime.run_directory import Tokenizer


class BatchEncoder:
    """Partition and encoder of a tokenizer, with ``num_tokens`` tokens an image."""

    def __init__(self, tokenizer: Tokenizer, num_tokens: int):
        model, partition = tokenizer.model, tokenizer.config.partition.copy_and_resolve_references()
        partition.num_tokens = num_tokens

        def encode(params, images):
            geometry, boxes = partition_images(images, **partition)
            tokens = model.apply(params, images, geometry, boxes, method="encode")
            return {
                "geometry": tokens[..., :5],
                "initial_geometry": geometry,
                "features": tokens[..., 5:],
            }

        self._encode = spread(encode, tokenizer.params)

    def __call__(self, images: Float[np.ndarray, "b h w 3"]) -> dict[str, np.ndarray]:
        """geometry and initial_geometry [B, L, 5] and features [B, L, C], float32."""
        return self._encode(images)


class BatchDecoder:
    """Renderer and decoder of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        def decode(params, tokens):
            return tokenizer.model.apply(params, tokens, method="decode")

        self._decode = spread(decode, tokenizer.params)

    def __call__(self, tokens: Float[np.ndarray, "b l 5+c"]) -> Float[np.ndarray, "b h w 3"]:
        """Images, about in [-1, 1]."""
        return self._decode(tokens)


@dataclass(frozen=True)
class Subset:
    """Some images of a source, as a source."""

    source: ImageSource
    positions: list[int]

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.source.label_names

    @property
    def description(self) -> str:
        return self.source.description

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.positions[index]]

    def name(self, index: int) -> str:
        return self.source.name(self.positions[index])

    def fingerprint(self, *, content: bool = False) -> str:
        return f"{self.source.fingerprint(content=content)} {self.positions}"


def to_pixels(
    images: Float[np.ndarray, "b h w 3"], rounding: Rounding = "round"
) -> UInt8[np.ndarray, "b h w 3"]:
    """8-bit pixels of images in [-1, 1]; ``"truncate"`` rounds down, as the release's files do."""
    return np.asarray(to_unit_range(images, rounding) * 255).round().astype(np.uint8)


def storage_cost(
    decode: BatchDecoder,
    images: Float[np.ndarray, "b h w 3"],
    rows: dict[str, np.ndarray],
    storage: np.dtype,
) -> dict[str, float]:
    """PSNR in dB of reconstructions from float32 tokens and from tokens as they are stored."""

    def psnr(features: np.ndarray) -> float:
        tokens = np.concatenate([rows["geometry"], features], axis=-1)
        return float(image_metrics(images, decode(tokens))["psnr"].mean())

    stored = rows["features"].astype(storage).astype(np.float32)
    return {"psnr_float32": psnr(rows["features"]), "psnr_stored": psnr(stored)}


def checksum(params: Any) -> int:
    """CRC-32 of all parameters: tells weights apart, wherever they lie."""
    crc = 0
    for leaf in jax.tree.leaves(params):
        crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
    return crc
