"""Methods of a table: a tokenizer with and without focus, baselines, images made elsewhere."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from gpstoken_jax.evaluation.codecs import Baseline
from gpstoken_jax.evaluation.measurement import Methods, Reconstruction
from gpstoken_jax.evaluation.rates import TOKENS, Rate
from gpstoken_jax.model.gpstoken import GPSToken
from gpstoken_jax.model.high_resolution import decode_images, encode_images
from gpstoken_jax.partition.focus import strength_to_bias
from gpstoken_jax.runtime.devices import map_over_devices, share_out

MODEL, UNFOCUSED, GIVEN = "model", "unfocused", "images"
Batch = Mapping[str, Any]


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
        made = {GIVEN: Reconstruction(share_out(batch["given"]), {}, {})}
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
