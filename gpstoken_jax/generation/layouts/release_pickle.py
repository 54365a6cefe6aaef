"""The published layouts, a pickle of arrays by class, without running anything in it."""

from pathlib import Path
from typing import Any

import numpy as np

from gpstoken_jax.generation.layouts.file import Layouts, LayoutsError
from gpstoken_jax.weights.array_pickle import read_array_pickle

_IMAGE_SIZE = 256
_PARTITION = {"weight": 2.5, "min_size": 8}


def layouts_of_pickle(path: str | Path) -> Layouts:
    """Reads ``{class: [arrays [L, 5], ...]}``, as the release keeps training layouts.

    Classes are numbers; each keeps its own, and is named after it.

    Raises:
      UnsafePickleError: if the file holds anything but NumPy arrays and builtin containers.
      LayoutsError: if those are not layouts by class; says what is wrong.
    """
    by_class = read_array_pickle(path)
    if not isinstance(by_class, dict) or not by_class:
        raise LayoutsError(f"{path} has no dictionary of layouts by class, but {_kind(by_class)}")
    geometry, label = [], []
    for key, arrays in sorted(by_class.items(), key=lambda item: _number(path, item[0])):
        for array in arrays:
            geometry.append(_layout(path, key, array))
            label.append(_number(path, key))
    if not geometry:
        raise LayoutsError(f"{path} has classes, but no layout")
    if len(lengths := {len(each) for each in geometry}) > 1:
        raise LayoutsError(f"{path} has layouts of different numbers of tokens: {sorted(lengths)}")
    return Layouts(
        geometry=np.stack(geometry),
        label=np.array(label, np.int32),
        label_names=tuple(map(str, range(max(label) + 1))),
        image_size=_IMAGE_SIZE,
        partition=_PARTITION,
        source=f"the published file {Path(path).name}",
    )


def _number(path: str | Path, key: Any) -> int:
    if isinstance(key, np.ndarray) and key.ndim == 0:
        key = key.item()
    if isinstance(key, str) and key.isdigit():
        key = int(key)
    if not isinstance(key, int) or key < 0:
        raise LayoutsError(f"{path} has a class {key!r}, which is no number of one")
    return key


def _layout(path: str | Path, key: Any, array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != 5:
        raise LayoutsError(f"{path}: class {key!r} has {_kind(array)} where a layout [L, 5] goes")
    return array.astype(np.float32)


def _kind(value: Any) -> str:
    return f"an array {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
