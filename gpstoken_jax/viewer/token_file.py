"""Tokens of the page as a file: a shard that ``gpstoken decode`` reads."""

import numpy as np
from jaxtyping import Float, Integer

from gpstoken_jax.runtime.checkpoint import params_checksum
from gpstoken_jax.tokens.format import VERSION, ShardInfo, shard_bytes
from gpstoken_jax.tokens.statistics import Moments
from gpstoken_jax.viewer.decoder import pad_tiles
from gpstoken_jax.viewer.engine import Engine
from gpstoken_jax.viewer.sizes import Grid


def token_file(
    engine: Engine,
    checkpoint: str,
    name: str,
    tokens: Float[np.ndarray, "l 5+c"],
    layout: Float[np.ndarray, "l 5"],
    tile: Integer[np.ndarray, " l"],
    grid: Grid,
) -> bytes:
    """Makes the content of a file of one image's tokens.

    Tiles with fewer tokens than the fullest are filled up with tokens that draw nothing.
    """
    tokenizer = engine.tokenizer
    fullest = max(1, int(np.bincount(tile).max()) if len(tile) else 1)
    rows = pad_tiles(tokens, tile, grid, fullest)
    size = engine.sizes.pixels(grid)
    header = {
        "version": VERSION,
        "checkpoint": checkpoint,
        "step": tokenizer.step,
        "weights": "ema_params",
        "weights_crc32": params_checksum(tokenizer.params),
        "model": tokenizer.config.model.to_dict(),
        "partition": {**tokenizer.config.partition.to_dict(), "num_tokens": fullest},
        "data": "gpstoken view",
        "label_names": [],
        "image_size": list(size),
        "storage": "float32",
        "num_images": 1,
    }
    tensors = {
        "geometry": rows[None, :, :5],
        "initial_geometry": pad_tiles(layout, tile, grid, fullest)[None],
        "features": rows[None, :, 5:],
        "label": np.array([-1], np.int32),
        "size": np.array([size], np.int32),
        "position": np.array([0], np.int64),
    }
    contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    deltas = np.concatenate([tokens[:, :5] - layout, tokens[:, 5:]], axis=-1)
    return shard_bytes(contiguous, header, ShardInfo((name,), {}, Moments.of(deltas)))
