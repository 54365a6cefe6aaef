"""The published layouts' pickle: read without running it, refused if it is anything else."""

import os
import pickle

import numpy as np
import pytest

from gpstoken_jax.generation.layouts.file import LayoutsError, read_layouts, write_layouts
from gpstoken_jax.generation.layouts.release_pickle import layouts_of_pickle
from gpstoken_jax.weights.array_pickle import UnsafePickleError


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


class _Runs:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("stored", "error", "match"),
    [
        ({1: [_Runs()]}, UnsafePickleError, "it names"),
        ([_layout(0)], LayoutsError, "no dictionary of layouts by class, but list"),
        ({"cat": [_layout(0)]}, LayoutsError, "class 'cat', which is no number"),
        ({1: [_layout(0)[:, :4]]}, LayoutsError, r"class 1 has an array \(4, 4\)"),
        ({1: [_layout(0), _layout(1, 5)]}, LayoutsError, r"numbers of tokens: \[4, 5\]"),
        ({1: []}, LayoutsError, "no layout"),
    ],
)
def test_anything_else_is_refused(stored, error, match, tmp_path):
    with pytest.raises(error, match=match):
        layouts_of_pickle(_write(tmp_path / "g.pkl", stored))
