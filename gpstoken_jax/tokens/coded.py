"""Shards of tokens in bits: the tensors that stand for ``geometry`` and ``features`` in them.

    streams      [S]         uint8    one stream an image, one after another
    ends         [N]         int64    where each image's stream ends
    num_tokens   [1]         int32    L
    low, step    [5 + C]     float32  the tables of ``codec``, of this shard
    frequencies  [5 + C, K]  uint8
    tiles        [2]         int32    rows and columns, of images of several tiles

Such a shard has no ``initial_geometry``: images do not need it, and it would double the size.
"""

import itertools
from typing import Any

import numpy as np
from safetensors import safe_open

from gpstoken_jax.tokens.codec import TokenCodec

TABLES = ("low", "step", "frequencies")


def encode_rows(
    geometry: np.ndarray, features: np.ndarray, bits: int, tiles: tuple[int, int] = (1, 1)
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Makes the tensors of a shard.

    Args:
      geometry: [N, L, 5].
      features: [N, L, C].
      bits: of a value before entropy coding.
      tiles: (rows, columns) of an image.

    Returns:
      The tensors by name, and the tokens [N, L, 5 + C] that they hold.
    """
    tokens = np.concatenate([geometry, features], axis=-1, dtype=np.float32)
    some = tokens if len(tokens) else np.zeros((1, *tokens.shape[1:]))
    codec = TokenCodec.fit(some, bits, tiles)
    streams = codec.encode(tokens)
    tensors = {
        "streams": np.frombuffer(b"".join(streams), np.uint8),
        "ends": np.cumsum([len(stream) for stream in streams], dtype=np.int64),
        "num_tokens": np.array([tokens.shape[1]], np.int32),
        **codec.to_arrays(),
    }
    if tiles != (1, 1):
        tensors["tiles"] = np.array(tiles, np.int32)
    return tensors, codec.values(codec.levels(tokens))


def read_rows(file: safe_open, start: int, stop: int) -> dict[str, np.ndarray]:
    """Geometry and features of some images of a shard.

    Raises:
      ValueError: if the tables did not make the streams.
    """
    tiles = file.get_tensor("tiles").tolist() if "tiles" in file.keys() else (1, 1)  # noqa: SIM118
    codec = TokenCodec.from_arrays({name: file.get_tensor(name) for name in TABLES}, tuple(tiles))
    ends = file.get_slice("ends")[max(0, start - 1) : stop]
    places = [0, *ends] if start == 0 else ends
    data = file.get_slice("streams")[int(places[0]) : int(places[-1])].tobytes()
    cuts = np.asarray(places, np.int64) - places[0]
    streams = [data[a:b] for a, b in itertools.pairwise(cuts)]
    tokens = codec.decode(streams, int(file.get_tensor("num_tokens")[0]))
    return {"geometry": tokens[..., :5], "features": tokens[..., 5:]}


def expected_shapes(shapes: dict[str, list[int]], count: int) -> dict[str, Any]:
    """The shapes that tensors of so many images must have, where one tells the other."""
    channels, levels = shapes["frequencies"]
    return {
        "streams": shapes["streams"][:1],
        "ends": [count],
        "num_tokens": [1],
        "low": [channels],
        "step": [channels],
        "frequencies": [channels, levels],
        **({"tiles": [2]} if "tiles" in shapes else {}),
    }
