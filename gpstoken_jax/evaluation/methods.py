"""The methods of a table: a tokenizer with and without focus, baselines, images made elsewhere."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from gpstoken_jax.evaluation.baselines import Baseline
from gpstoken_jax.evaluation.evaluator import Reconstruction, on_devices, shard
from gpstoken_jax.model.high_resolution import decode_images, encode_images
from gpstoken_jax.partition.focus import strength_to_bias
from gpstoken_jax.runtime.run_directory import Tokenizer

MODEL, UNFOCUSED, GIVEN = "model", "unfocused", "images"


class TokenizerMethods:
    """What a tokenizer makes of images, and baselines beside it.

    Args:
      tokenizer: the model and its weights.
      num_tokens: tokens an image, or a tile of it; any number that the partition allows.
      tiles: (rows, columns) of tiles that the images have.
      high_resolution: how several tiles are decoded, see ``high_resolution.WAYS``.
      focus: strength [H, W] that moves tokens in every image, see ``focus``; images are then
        reconstructed with and without it.
      baselines: by name.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        num_tokens: int,
        *,
        tiles: tuple[int, int] = (1, 1),
        high_resolution: str = "merged",
        focus: Float[np.ndarray, "h w"] | None = None,
        baselines: Mapping[str, Baseline] | None = None,
    ):
        self._params = tokenizer.params
        self._baselines = dict(baselines or {})
        model, partition = tokenizer.model, tokenizer.config.partition.copy_and_resolve_references()
        partition.num_tokens = num_tokens
        self._bias = None if focus is None else strength_to_bias(focus, partition.weight)[None]

        def reconstruct(params, images, bias):
            initial, tokens = encode_images(model, params, images, bias=bias, **partition)
            decoded = decode_images(model, params, tokens, tiles, way=high_resolution)
            shown = {
                "initial": initial,
                "refined": tokens[..., :5],
                "feature_map": model.apply(params, tokens, tiles, method="render"),
            }
            return decoded.images, shown, {"floored_std": decoded.floored_std}

        self._reconstruct = on_devices(reconstruct, (None, 0, None))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Reconstruction]:
        images = batch["image"]
        made = {MODEL: Reconstruction(*self._reconstruct(self._params, images, self._bias))}
        if self._bias is not None:
            nowhere = np.zeros_like(self._bias)
            again, shown, _ = self._reconstruct(self._params, images, nowhere)
            made[UNFOCUSED] = Reconstruction(again, shown, {})
        return made | run_baselines(self._baselines, images)


class GivenImages:
    """Images that some program wrote, and baselines beside them; a batch has them as ``given``."""

    def __init__(self, baselines: Mapping[str, Baseline] | None = None):
        self._baselines = dict(baselines or {})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Reconstruction]:
        made = {GIVEN: Reconstruction(shard(batch["given"]), {}, {})}
        return made | run_baselines(self._baselines, batch["image"])


def run_baselines(
    baselines: Mapping[str, Baseline], images: Float[np.ndarray, "d b h w 3"]
) -> dict[str, Reconstruction]:
    """What every baseline makes of a batch."""
    flat = images.reshape(-1, *images.shape[2:])

    def made(baseline: Baseline) -> Reconstruction:
        copies, values = baseline(flat)
        per_device = {name: np.reshape(x, images.shape[:2]) for name, x in values.items()}
        return Reconstruction(copies.reshape(images.shape), {}, per_device)

    return {name: made(baseline) for name, baseline in baselines.items()}
