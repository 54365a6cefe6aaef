"""A file of layouts: the initial Gaussians of many images, with their classes.

A safetensors file. Its tensors, for N images of L tokens:

    geometry  [N, L, 5]  float32   (sigma_x, sigma_y, rho, mu_x, mu_y) of the partition
    label     [N]        int32     index into the label names, -1 for none

Its metadata is one JSON text: the checksum of the file, the label names, the image's side, the
partition's settings, and what the layouts were made from. Version 1 had no checksum; it can still
be read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from safetensors import SafetensorError, safe_open

from gpstoken_jax.runtime import storage
from gpstoken_jax.runtime.buckets import fetch, writing_file
from gpstoken_jax.runtime.files import check_sealed_file, reading, sealed_safetensors, write_file

VERSION = 2
METADATA = "gpstoken_jax_layouts"
NO_LABEL = -1


class LayoutsError(ValueError):
    """A file of layouts is missing, damaged, or holds what no partition makes."""


@dataclass(frozen=True)
class Layouts:
    """Layouts of N images, all of L tokens.

    Attributes:
      geometry: initial Gaussians; sigma in (0, 1), rho in (-1, 1), mu in [-1, 1].
      label: class of each image, -1 for none.
      label_names: names of the classes.
      image_size: side of the square images that were partitioned, in pixels.
      partition: settings of the partition, as far as they are known: ``min_size``, ``weight``.
      source: in words, where the layouts come from.
      made_from: all that they depend on: fingerprints of tokens or images, settings.
    """

    geometry: Float32[np.ndarray, "n l 5"]
    label: Int32[np.ndarray, "n"]
    label_names: tuple[str, ...]
    image_size: int
    partition: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.geometry)

    @property
    def num_tokens(self) -> int:
        """L."""
        return self.geometry.shape[1]

    @property
    def min_size(self) -> int:
        """Regions this small are not cut; 8, the published value, if it is not known."""
        return int(self.partition.get("min_size", 8))


def write_layouts(path: str | Path, layouts: Layouts) -> None:
    """Writes a file of layouts, whole or not at all; equal contents are equal bytes.

    Raises:
      LayoutsError: if the layouts are not what they must be; says what is wrong.
      OSError: if the file cannot be written.
    """
    _check(path, layouts)
    tensors = {
        "geometry": np.ascontiguousarray(layouts.geometry, np.float32),
        "label": np.ascontiguousarray(layouts.label, np.int32),
    }
    header = {
        "version": VERSION,
        "label_names": list(layouts.label_names),
        "image_size": layouts.image_size,
        "partition": dict(layouts.partition),
        "source": layouts.source,
        "made_from": dict(layouts.made_from),
    }
    with writing_file(path) as target:
        write_file(target, sealed_safetensors(tensors, METADATA, header))
        read_layouts(target)  # what is called done can be read


def read_layouts(path: str | Path) -> Layouts:
    """Reads a file of layouts.

    Raises:
      LayoutsError: if it is missing, damaged, or not a file of layouts; names it and says why.
      storage.StorageError: if the system cannot read it.
    """
    path = fetch(path)
    if not path.is_file():
        raise LayoutsError(
            f"there is no file of layouts {path}: make one with "
            f"`gpstoken prepare_layouts --tokens=DIR --output={path}`"
        )
    with reading(path, "a file of layouts", LayoutsError):
        header, tensors = _read(path)
        version = header["version"]
        if version not in (1, VERSION):
            raise LayoutsError(f"{path} is of version {version}; this reads {VERSION}")
        if version == VERSION:
            check_sealed_file(path)
        try:
            layouts = Layouts(
                geometry=tensors["geometry"],
                label=tensors["label"],
                label_names=tuple(map(str, header["label_names"])),
                image_size=int(header["image_size"]),
                partition=dict(header["partition"]),
                source=str(header["source"]),
                made_from=dict(header.get("made_from", {})),
            )
        except KeyError as error:
            raise LayoutsError(f"{path} is no file of layouts: it has no {error}") from error
        _check(path, layouts)
        return layouts


def is_layout_file(path: str | Path) -> bool:
    """Tells whether a file declares that it holds layouts; False for anything unreadable."""
    try:
        with safe_open(path, framework="np") as file:
            return METADATA in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    storage.retry(lambda: check_sealed_file(path, required=False), path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if METADATA not in metadata:
        raise LayoutsError(f"{path} is a safetensors file, but no file of layouts")
    return json.loads(metadata[METADATA]), tensors


def _check(path: str | Path, layouts: Layouts) -> None:
    """Raises LayoutsError, with the file's name, for what no partition makes."""
    problem = _problem(layouts)
    if problem:
        raise LayoutsError(f"{path}: {problem}")


def _problem(layouts: Layouts) -> str | None:
    geometry, label = np.asarray(layouts.geometry), np.asarray(layouts.label)
    if geometry.ndim != 3 or geometry.shape[-1] != 5 or not geometry.size:
        return f"geometry must be [N, L, 5] with N and L of 1 or more, not {geometry.shape}"
    if label.shape != geometry.shape[:1]:
        return f"{len(geometry)} layouts need as many labels, not an array of shape {label.shape}"
    if label.min() < NO_LABEL or label.max() >= len(layouts.label_names):
        worst = label.min() if label.min() < NO_LABEL else label.max()
        return f"label {worst} is outside -1 .. {len(layouts.label_names) - 1}, the label names"
    if layouts.image_size < 2:
        return f"image_size must be 2 or more, not {layouts.image_size}"
    sigma, rho, mu = geometry[..., :2], geometry[..., 2], geometry[..., 3:]
    inside = (sigma > 0) & (sigma < 1) & (abs(rho) < 1)[..., None] & (abs(mu) <= 1)
    if not inside.all():  # also where a value is not a number
        image, token = np.argwhere(~inside)[0, :2]
        values = ", ".join(f"{value:g}" for value in geometry[image, token])
        return (
            f"token {token} of layout {image} is no Gaussian of a partition: "
            f"(sigma_x, sigma_y, rho, mu_x, mu_y) = ({values})"
        )
    return None
