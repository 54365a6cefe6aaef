"""Format of a directory of tokens: one file a shard, and index.json.

A shard is a safetensors file. Its tensors, for N images of L tokens with C features:

    geometry          [N, L, 5]  float32   (sigma_x, sigma_y, rho, mu_x, mu_y), refined
    initial_geometry  [N, L, 5]  float32   the partition's, where refinement started
    features          [N, L, C]  float32, float16 or bfloat16
    label             [N]        int32     -1 for none
    size              [N, 2]     int32     (height, width) of the original image
    position          [N]        int64     of the image in its data set

With ``encode --bits=N`` other tensors stand for the first three, see ``coded``.

Its metadata is one JSON text (one, so that equal contents are equal bytes): ``seal``, the checksum
of the file, ``header``, the settings, equal in all shards of a directory, and ``shard``, the names
of the images, what could not be read, and the moments of the values. Version 1 of the format had no
seals and no manifest; it can still be read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open

from gpstoken_jax.runtime import storage
from gpstoken_jax.runtime.files import check_sealed_file, read_json, reading, sealed_safetensors
from gpstoken_jax.runtime.outputs import safe_name
from gpstoken_jax.tokens import coded
from gpstoken_jax.tokens.statistics import Moments, statistics_of_channels

VERSION = 2
KIND = "tokens"
INDEX = "index.json"
METADATA = "gpstoken_jax"
ROWS = ("geometry", "initial_geometry", "features", "label", "size", "position")
CODED_ROWS = tuple(name for name in ROWS if name != "initial_geometry")
STORAGE = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

Header = Mapping[str, Any]


class TokensError(ValueError):
    """A directory of tokens is missing, unfinished, damaged or of other settings."""


@dataclass(frozen=True)
class ShardInfo:
    """Header of a shard, without its tensors.

    Attributes:
      names: of the images, in the order of the tensors' rows.
      unreadable: images of this shard that could not be read: name and reason.
      moments: of the geometry's deltas and the features, 5 + C channels.
    """

    names: tuple[str, ...]
    unreadable: Mapping[str, str]
    moments: Moments


def shard_name(process: int, processes: int, shard: int) -> str:
    """File name of a process's shard; names sort in the order of processes, then shards."""
    return f"tokens-{process:04d}-of-{processes:04d}-{shard:06d}.safetensors"


def shard_bytes(tensors: Mapping[str, np.ndarray], header: Header, info: ShardInfo) -> bytes:
    """The content of a shard's file."""
    shard = {"names": info.names, "unreadable": info.unreadable, "moments": info.moments.to_json()}
    return sealed_safetensors(tensors, METADATA, {"header": header, "shard": shard})


def open_shard(path: Path, *, sealed: bool = True) -> tuple[safe_open, ShardInfo]:
    """Opens a shard after a look at all of its bytes.

    Args:
      path: the file.
      sealed: whether a file without a seal is an error.

    Returns:
      The open file and what it says of itself.

    Raises:
      TokensError: if it is missing, damaged or no shard.
      storage.StorageError: if the system cannot read it.
    """
    with reading(path, "of a directory of tokens", TokensError):
        if not path.exists():
            raise TokensError(
                f"{path} is missing: encode again with the same flags, it is made anew"
            )
        storage.retry(lambda: check_sealed_file(path, required=sealed), path)
        file = safe_open(path, framework="np")
        shard = json.loads((file.metadata() or {})[METADATA])["shard"]
        info = ShardInfo(
            tuple(map(str, shard["names"])),
            {str(name): str(reason) for name, reason in shard["unreadable"].items()},
            Moments.from_json(shard["moments"]),
        )
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        (n,) = shapes["label"]
        expected = {"label": [n], "size": [n, 2], "position": [n]}
        if "streams" in shapes:
            expected |= coded.expected_shapes(shapes, n)
        else:
            _, l, c = shapes["features"]
            expected |= {"geometry": [n, l, 5], "initial_geometry": [n, l, 5]}
            expected |= {"features": [n, l, c]}
        if n != len(info.names) or any(shapes.get(key) != x for key, x in expected.items()):
            raise TokensError(
                f"{path} is damaged: its {len(info.names)} names have arrays {shapes}"
            )
    return file, info


def read_index(directory: Path) -> dict[str, Any] | None:
    """index.json, None if there is none.

    Raises:
      TokensError: if it is damaged or of another version of this format.
      storage.StorageError: if the system cannot read it.
    """
    path = directory / INDEX
    if not path.exists():
        return None
    with reading(path, "of a directory of tokens", TokensError):
        index = storage.retry(lambda: read_json(path), path)
        version = index["header"]["version"]
        if version not in (1, VERSION):
            raise TokensError(f"{path} has version {version} of the format; this reads {VERSION}")
        if version == VERSION:
            read_json(path, required=True)
        for name, count in index["shards"].items():
            safe_name(name)
            if not isinstance(count, int) or count < 0:
                raise TokensError(f"{path} is damaged: {name} has {count!r} images")
        return index | {"header": _Header(index["header"], path)}


def index_of_shard(path: Path) -> dict[str, Any]:
    """Describes a shard by itself as index.json would.

    Raises:
      TokensError: if it is damaged, no shard, or of another version of this format.
    """
    file, info = open_shard(path)
    with reading(path, "of tokens", TokensError):
        header = json.loads(file.metadata()[METADATA])["header"]
        if header["version"] != VERSION:
            raise TokensError(f"{path} has another version of the format; this reads {VERSION}")
        return {
            "header": _Header(header, path),
            "num_tokenized": len(info.names),
            "shards": {path.name: len(info.names)},
            "unreadable": dict(info.unreadable),
            "statistics": statistics_of_channels(info.moments),
        }


class _Header(dict):
    """A header that says which of its fields is missing."""

    def __init__(self, fields: Mapping[str, Any], path: Path):
        super().__init__(fields)
        self.path = path

    def __missing__(self, field: str) -> Any:
        raise TokensError(f"{self.path} does not say the {field!r} of its tokens: encode again")

    def __reduce__(self):
        return _Header, (dict(self), self.path)
