"""The published layouts, a pickle of arrays by class, without running anything in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpstoken_jax.generation.layouts.file import Layouts, LayoutsError
from gpstoken_jax.runtime.files import reading
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import read_pickle
from gpstoken_jax.weights.pickle_reader import expansion_limit

_IMAGE_SIZE = 256
_PARTITION = {"weight": 2.5, "min_size": 8}
_MAX_CLASSES = 100_000
_GEOMETRY = 5  # values of a Gaussian; wider arrays have features after them, which are left out


def layouts_of_pickle(path: str | Path) -> Layouts:
    """Reads training layouts as the release keeps them: by class, ``[L, 5]`` or wider arrays.

    Classes are the keys of a dictionary (numbers, or texts of them) or the places in a list or an
    array; each keeps its number, and is named after it. The layouts of a class are a list of arrays
    [L, D], one array [N, L, D], or the same as lists of numbers, with D of 5 or more.

    Raises:
      LayoutsError: if the file holds anything but arrays, numbers and containers, or those are not
        layouts by class; says what is wrong. Nothing in it is executed.
      OSError: if it cannot be opened.
    """
    try:
        stored = read_pickle(path)
    except WeightsError as error:
        raise LayoutsError(str(error)) from error
    with reading(path, "a pickle of layouts by class", LayoutsError):
        return _layouts(stored, Path(path))


def _layouts(stored: Any, path: Path) -> Layouts:
    left = expansion_limit(path.stat().st_size)

    def spend(count: int) -> None:
        nonlocal left
        left -= 4 * count
        if left < 0:  # classes that share their layouts, over and over
            raise LayoutsError("its layouts would take far more memory than the file has bytes")

    geometry, label = [], []
    for number, value in _by_class(stored):
        found = list(_each_layout(value, number, spend))
        geometry += found
        label += [number] * len(found)
    if not geometry:
        raise LayoutsError("it has classes, but no layout")
    if len(lengths := {len(each) for each in geometry}) > 1:
        raise LayoutsError(f"it has layouts of different numbers of tokens: {sorted(lengths)}")
    return Layouts(
        geometry=np.stack(geometry),
        label=np.array(label, np.int32),
        label_names=tuple(map(str, range(max(label) + 1))),
        image_size=_IMAGE_SIZE,
        partition=_PARTITION,
        source=f"the published file {path.name}",
    )


def _by_class(stored: Any) -> list[tuple[int, Any]]:
    """Number and layouts of each class, in the order of the numbers."""
    if isinstance(stored, dict):
        items = [(_number(key), value) for key, value in stored.items()]
    elif isinstance(stored, list | tuple) or (isinstance(stored, np.ndarray) and stored.ndim > 2):
        items = list(enumerate(stored))
    else:
        raise LayoutsError(f"it has no layouts by class, but {_kind(stored)}")
    if len(numbers := {number for number, _ in items}) < len(items):
        raise LayoutsError(f"two of its {len(items)} classes have one number")
    if max(numbers, default=0) >= _MAX_CLASSES:
        raise LayoutsError(f"it has a class {max(numbers)}; there may be {_MAX_CLASSES:,}")
    return sorted(items, key=lambda item: item[0])


def _number(key: Any) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit():
        key = int(key)
    if type(key) is not int or key < 0:
        raise LayoutsError(f"it has a class {key!r:.40}, which is no number of one")
    return key


def _each_layout(value: Any, number: int, spend: Callable[[int], None]) -> Iterator[np.ndarray]:
    """The layouts [L, 5] in what a class has."""
    depth = _depth(value)
    if depth > 2 or (depth == 1 and not len(value)):  # [] is a class without layouts
        for item in value:
            spend(1)
            yield from _each_layout(item, number, spend)
        return
    if depth == 2:
        spend(value.size if isinstance(value, np.ndarray) else sum(map(len, value)))
        array = np.asarray(value)
    if depth != 2 or array.ndim != 2 or array.dtype.kind not in "iuf" or array.shape[1] < _GEOMETRY:
        raise LayoutsError(f"class {number} has {_kind(value)} where a layout [L, 5] goes")
    yield array[:, :_GEOMETRY].astype(np.float32)


def _depth(value: Any) -> int:
    """Axes of an array, or of lists of lists, by what is first in them."""
    depth = 0
    while isinstance(value, list | tuple):
        depth += 1
        if not value:
            return depth
        value = value[0]
    return depth + (value.ndim if isinstance(value, np.ndarray) else 0)


def _kind(value: Any) -> str:
    return f"an array {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
