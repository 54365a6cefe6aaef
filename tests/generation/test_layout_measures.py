"""The measures of drawn layouts, and snapping to the nearest partition."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpstoken_jax.generation.layouts.file import Layouts, write_layouts
from gpstoken_jax.generation.layouts.measures import compare, cover, density, rounded_regions
from gpstoken_jax.generation.layouts.snap import _best, snap
from gpstoken_jax.generation.layouts.split_tree import split_tree
from gpstoken_jax.partition.geometry import geometry_to_regions, regions_to_geometry
from gpstoken_jax.partition.host import greedy_regions
from tests import forked

ROOT = Path(__file__).parents[2]
TREE = split_tree(32)


def _layouts(count, tokens=7, size=32, seed=0):
    rng = np.random.default_rng(seed)
    regions = [
        greedy_regions(size, size, tokens, 8, lambda region: rng.random()) for _ in range(count)
    ]
    geometry = regions_to_geometry(np.stack(regions), size, size)
    label = np.arange(count, dtype=np.int32) % 2
    return Layouts(geometry, label, ("a", "b"), size, {"min_size": 8})


def test_layouts_compared_with_themselves():
    real = _layouts(12)
    same = compare(real, real, real)
    assert same["valid_exact"] == same["valid_rounded"] == same["copies"] == 1
    assert same["uncovered"] == same["overlap"] == same["size"] == same["place"] == 0
    assert same["size_by_class"] == {"a": 0, "b": 0}
    twice = dataclasses.replace(real, geometry=real.geometry[[0] * 12])
    assert compare(twice, real)["distinct"] == pytest.approx(1 / 12)
    shuffled = dataclasses.replace(real, geometry=real.geometry[:, ::-1])
    assert compare(shuffled, real, real)["copies"] == 1


def test_known_distances():
    """Whole image against its two halves and its four quarters, by hand."""
    whole, halves = (np.array(r)[None] for r in ([[0, 0, 31, 31]] * 2, [[0, 0, 31, 15]] * 2))
    quarters = np.array([[0, 0, 15, 15], [16, 16, 31, 31]])[None]

    def layouts(regions):
        label = np.zeros(1, np.int32)
        return Layouts(regions_to_geometry(regions, 32, 32), label, ("a",), 32)

    measures = compare(layouts(halves), layouts(whole))
    assert measures["size"] == 1 and measures["place"] == pytest.approx(1)
    assert measures["uncovered"] == 0.5 and measures["overlap"] == 0.5
    assert measures["valid_rounded"] == 0
    mixed = np.concatenate([halves[:, :1], quarters[:, :1]], axis=1)
    assert compare(layouts(mixed), layouts(halves))["size"] == pytest.approx(0.5)


def test_a_small_shift_is_not_exact_but_rounds_to_the_same():
    real = _layouts(4)
    moved = dataclasses.replace(real, geometry=real.geometry + np.float32([0, 0, 0, 0.01, 0]))
    measures = compare(moved, real, real)
    assert (measures["valid_exact"], measures["valid_rounded"], measures["copies"]) == (0, 1, 1)
    np.testing.assert_array_equal(
        rounded_regions(moved), geometry_to_regions(real.geometry, 32, 32)
    )


def test_regions_are_painted_pixel_by_pixel():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 16, (3, 5, 2, 2)), axis=2)
    regions = corners.reshape(3, 5, 4)
    counts, spread = np.zeros((3, 16, 16)), np.zeros((3, 16, 16))
    for image, one in enumerate(regions):
        for left, top, right, bottom in one:
            here = image, slice(top, bottom + 1), slice(left, right + 1)
            counts[here] += 1
            spread[here] += 1 / counts[here].size
    np.testing.assert_array_equal(cover(regions, 16), counts)
    np.testing.assert_allclose(density(regions, 16), spread * 16**2 / 5, atol=1e-9)


def test_snapping_leaves_partitions_as_they_are_and_mends_noise():
    real = _layouts(6, tokens=9)
    expected = TREE.to_geometry(TREE.from_geometry(real.geometry))
    np.testing.assert_array_equal(snap(TREE, real.geometry), expected)
    rng = np.random.default_rng(1)
    noise = 1 + rng.normal(0, 0.08, (*real.geometry.shape[:2], 2))
    noisy = real.geometry.copy()
    noisy[..., :2] *= noise
    noisy[..., 3:] += rng.normal(0, 0.04, noise.shape)
    np.testing.assert_array_equal(snap(TREE, noisy), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 16))
def test_the_best_partition_is_the_best_of_many(seed, count):
    """Against random partitions: none has more votes than the one that is found."""
    rng = np.random.default_rng(seed)
    votes = rng.random(len(TREE.regions))
    found = TREE.decode(_best(TREE, votes, count))
    assert found.sum() == count
    tried = [TREE.from_geometry(_layouts(1, count, seed=[seed, i]).geometry)[0] for i in range(20)]
    assert (TREE.decode(np.stack(tried)) @ votes <= votes[found].sum() + 1e-9).all()


@pytest.mark.parametrize("count", [1, 5, 32])
def test_whatever_is_snapped_is_a_partition(count):
    rng = np.random.default_rng(count)
    sigma, mu = rng.uniform(0.001, 0.999, (3, count, 2)), rng.uniform(-1, 1, (3, count, 2))
    geometry = np.concatenate([sigma, np.zeros((3, count, 1)), mu], axis=-1).astype(np.float32)
    tree = split_tree(64)
    snapped = snap(tree, geometry)
    assert snapped.shape == geometry.shape
    tree.from_geometry(snapped)  # raises for what is no partition


def test_the_program_compares_and_says_so(env, tmp_path):
    for name, count in (("train", 9), ("val", 5)):
        write_layouts(tmp_path / f"{name}.safetensors", _layouts(count, seed=count))
    files = f"--real={tmp_path}/val.safetensors", f"--training={tmp_path}/train.safetensors"
    command = [sys.executable, "scripts/compare_layouts.py", *files, f"--output={tmp_path}/out"]
    result = forked.run(command, cwd=ROOT, env=env)
    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "out" / "layouts.json").read_text())["methods"]
    assert measured["training layouts"]["valid_exact"] == 1
    assert measured["training layouts"]["copies"] == 1
    assert "training layouts" in result.stdout and (tmp_path / "out" / "layouts.png").exists()
