"""The published layouts' pickle: read without running it, refused if it is anything else."""

import collections
import functools
import os
import pickle

import numpy as np
import pytest

from gpstoken_jax.generation.layouts.file import LayoutsError, read_layouts, write_layouts
from gpstoken_jax.generation.layouts.release_pickle import layouts_of_pickle


def _layout(seed, tokens=4, dtype=np.float32):
    return np.random.default_rng(seed).uniform(0.1, 0.9, (tokens, 5)).astype(dtype)


def _write(path, value):
    path.write_bytes(pickle.dumps(value))
    return path


def test_layouts_by_class_become_a_file(tmp_path):
    stored = {7: [_layout(0), _layout(1)], 2: (_layout(2, dtype=np.float64),), 3: []}
    layouts = layouts_of_pickle(_write(tmp_path / "g.pkl", stored))
    assert layouts.label.tolist() == [2, 7, 7]
    assert layouts.label_names[7] == "7" and len(layouts.label_names) == 8
    np.testing.assert_array_equal(layouts.geometry[1:], stored[7])
    write_layouts(tmp_path / "g.safetensors", layouts)
    np.testing.assert_array_equal(
        read_layouts(tmp_path / "g.safetensors").geometry, layouts.geometry
    )


SHAPES = {
    "lists of arrays": lambda x: {k: list(v) for k, v in x.items()},
    "one array a class": lambda x: x,
    "one array a layout, [1, L, 5]": lambda x: {k: [a[None] for a in v] for k, v in x.items()},
    "tuples": lambda x: {k: tuple(v) for k, v in x.items()},
    "deques": lambda x: {k: collections.deque(v, maxlen=9) for k, v in x.items()},
    "lists of numbers": lambda x: {k: v.tolist() for k, v in x.items()},
    "lists of rows": lambda x: {k: [list(a) for a in v] for k, v in x.items()},
    "a defaultdict": lambda x: collections.defaultdict(list, {k: list(v) for k, v in x.items()}),
    "a defaultdict of deques": lambda x: collections.defaultdict(
        functools.partial(collections.deque, maxlen=9), {k: list(v) for k, v in x.items()}
    ),
    "a defaultdict of numbers": lambda x: collections.defaultdict(int, x),
    "an OrderedDict": lambda x: collections.OrderedDict((k, list(v)) for k, v in x.items()),
    "NumPy keys": lambda x: {np.int64(k): list(v) for k, v in x.items()},
    "NumPy keys of 32 bits": lambda x: {np.int32(k): v for k, v in x.items()},
    "texts as keys": lambda x: {str(k): v for k, v in x.items()},
    "wider arrays": lambda x: {k: list(np.pad(v, ((0, 0), (0, 0), (0, 16)))) for k, v in x.items()},
    "mapped memory": lambda x: {k: v.view(np.memmap) for k, v in x.items()},
    "float16": lambda x: {k: list(v.astype(np.float16)) for k, v in x.items()},
    "float64, big-endian, Fortran order": lambda x: {
        k: [np.asfortranarray(a.astype(">f8")) for a in v] for k, v in x.items()
    },
    "a list by class": lambda x: [list(x[k]) if k in x else [] for k in range(8)],
    "a deque by class": lambda x: collections.deque(list(x.get(k, [])) for k in range(8)),
    "arrays of objects": lambda x: {k: _objects(v) for k, v in x.items()},
    "an array of objects by class": lambda x: _objects([list(x.get(k, [])) for k in range(8)]),
}


def _objects(items):
    array = np.empty(len(items), object)
    for place, item in enumerate(items):
        array[place] = item
    return array


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)
def test_every_shape_that_is_in_use(change, protocol, tmp_path):
    stored = {2: _layout(0)[None], 7: np.stack([_layout(1), _layout(2)])}
    (tmp_path / "g.pkl").write_bytes(pickle.dumps(change(stored), protocol))
    layouts = layouts_of_pickle(tmp_path / "g.pkl")
    assert layouts.label.tolist() == [2, 7, 7]
    assert layouts.geometry.dtype == np.float32
    np.testing.assert_allclose(layouts.geometry, np.concatenate([stored[2], stored[7]]), atol=1e-3)


def test_one_array_of_all_classes(tmp_path):
    stored = np.stack([np.stack([_layout(2 * k), _layout(2 * k + 1)]) for k in range(3)])
    layouts = layouts_of_pickle(_write(tmp_path / "g.pkl", stored))
    assert layouts.label.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(layouts.geometry, stored.reshape(6, 4, 5))


class _Runs:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("stored", "match"),
    [
        ({1: [_Runs()]}, "it names"),
        ("text", "no layouts by class, but str"),
        (_layout(0), r"no layouts by class, but an array \(4, 5\)"),
        ({"cat": [_layout(0)]}, "class 'cat', which is no number"),
        ({-1: [_layout(0)]}, "class -1, which is no number"),
        ({"1": [_layout(0)], 1: []}, "have one number"),
        ({10**12: [_layout(0)]}, "a class 1000000000000; there may be 100,000"),
        ({1: [_layout(0)[:, :4]]}, r"class 1 has an array \(4, 4\)"),
        ({1: [_layout(0), None]}, "class 1 has NoneType"),
        ({1: [_layout(0), _layout(1, 5)]}, r"numbers of tokens: \[4, 5\]"),
        ({1: [[["a"] * 5]]}, "class 1 has list"),
        ({1: [[[1.0] * 5, [1.0] * 4]]}, "damaged or not a pickle of layouts"),
        ({1: []}, "no layout"),
        ({}, "no layout"),
    ],
)
def test_anything_else_is_refused(stored, match, tmp_path):
    with pytest.raises(LayoutsError, match=match):
        layouts_of_pickle(_write(tmp_path / "g.pkl", stored))


def test_classes_that_share_everything_do_not_fill_the_memory(tmp_path):
    layout = _layout(0, 1)
    shared = [layout] * 3000
    with pytest.raises(LayoutsError, match="far more memory than the file has bytes"):
        layouts_of_pickle(_write(tmp_path / "g.pkl", dict.fromkeys(range(3000), shared)))
    doubled = [[0.5] * 5]
    for _ in range(60):
        doubled = [doubled, doubled]
    with pytest.raises(LayoutsError, match="far more memory than the file has bytes"):
        layouts_of_pickle(_write(tmp_path / "g.pkl", {0: doubled}))
