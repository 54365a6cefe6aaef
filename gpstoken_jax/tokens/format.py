"""What a directory of tokens holds: one file a shard, and index.json.

A shard is a safetensors file. Its tensors, for N images of L tokens with C features:

    geometry          [N, L, 5]  float32   (sigma_x, sigma_y, rho, mu_x, mu_y), refined
    initial_geometry  [N, L, 5]  float32   the partition's, where refinement started
    features          [N, L, C]  float32, float16 or bfloat16
    label             [N]        int32     -1 for none
    size              [N, 2]     int32     (height, width) of the original image
    position          [N]        int64     of the image in its data set

Its metadata is one JSON text (one, so that equal contents are equal bytes): ``header``, the
settings, equal in all shards of a directory, and ``shard``, the images' names, what could not be
read, and the moments of the values.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gpstoken_jax.tokens.statistics import Moments

VERSION = 1
INDEX = "index.json"
METADATA = "gpstoken_jax"
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
    """What a shard says of itself, without its tensors.

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


def write_shard(
    path: Path, tensors: Mapping[str, np.ndarray], header: Header, info: ShardInfo
) -> None:
    """Writes a shard, whole or not at all."""
    shard = {"names": info.names, "unreadable": info.unreadable, "moments": info.moments.to_json()}
    metadata = {METADATA: json.dumps({"header": header, "shard": shard})}
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(save(dict(tensors), metadata))  # save_file() makes it private to the user
    os.replace(temporary, path)


def read_info(path: Path) -> tuple[Header, ShardInfo]:
    """A shard's header and what it says of itself.

    Raises:
      TokensError: if it cannot be read.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = json.loads((file.metadata() or {})[METADATA])
        header, shard = metadata["header"], metadata["shard"]
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise TokensError(f"{path} is no readable shard of tokens: {error!r}") from error
    moments = Moments.from_json(shard["moments"])
    return header, ShardInfo(tuple(shard["names"]), shard["unreadable"], moments)


def write_index(directory: Path, index: Mapping[str, Any]) -> None:
    """Writes index.json, whole or not at all."""
    temporary = directory / (INDEX + ".tmp")
    temporary.write_text(json.dumps(index, indent=2) + "\n")
    os.replace(temporary, directory / INDEX)


def read_index(directory: Path) -> dict[str, Any] | None:
    """index.json, None if there is none.

    Raises:
      TokensError: if it is damaged or of another version of this format.
    """
    path = directory / INDEX
    if not path.exists():
        return None
    try:
        index = json.loads(path.read_text())
        version = index["header"]["version"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise TokensError(f"{path} is not readable: {error!r}") from error
    if version != VERSION:
        raise TokensError(f"{path} has version {version} of the format; this reads {VERSION}")
    return index


def as_json(value: Any) -> Any:
    """A value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


def first_difference(old: Any, new: Any, name: str = "") -> str | None:
    """Where two headers differ first, in words; None if they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            if found := first_difference(old.get(key), new.get(key), f"{name}.{key}".lstrip(".")):
                return found
        return None
    return None if old == new else f"{name} was {old!r} and is now {new!r}"
