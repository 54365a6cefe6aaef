"""The tree of squares: one to one with partitions, and nothing but partitions comes out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpstoken_jax.generation.layouts.split_tree import (
    MIRRORED,
    NUM_PATTERNS,
    canonical_order,
    constrain,
    split_tree,
    walk,
)
from gpstoken_jax.partition.geometry import geometry_to_regions, regions_to_geometry
from gpstoken_jax.partition.host import greedy_regions
from gpstoken_jax.partition.regions import cuts, max_regions, region_table, whole

SIZES = {(64, 8): 64, (256, 8): 1024, (48, 5): 64, (18, 8): 4}  # and how many regions they hold


@functools.cache
def _constrain(size, min_size):
    return jax.jit(functools.partial(constrain, split_tree(size, min_size)))


def _random_partition(size, min_size, count, seed):
    """Regions as the published greedy makes them, of random complexities."""
    rng = np.random.default_rng(seed)
    return greedy_regions(size, size, count, min_size, lambda region: rng.random())


def _painted(regions, size):
    """Number of regions over each pixel."""
    picture = np.zeros((size, size), int)
    for left, top, right, bottom in regions:
        picture[top : bottom + 1, left : right + 1] += 1
    return picture


@pytest.mark.parametrize(("size", "min_size"), SIZES)
def test_the_tree_has_the_regions_of_the_partition(size, min_size):
    tree = split_tree(size, min_size)
    table = region_table(size, size, min_size)
    assert sorted(map(tuple, tree.regions)) == sorted(map(tuple, table.regions))
    assert tree.max_regions == max_regions(size, size, min_size) == SIZES[size, min_size]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(SIZES)),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
    st.sampled_from([None, *range(NUM_PATTERNS)]),
)
def test_any_decisions_tile_the_image_with_exactly_so_many_regions(sizes, seed, share, favourite):
    """Random scores, or one pattern wanted everywhere, for every number of regions."""
    tree, most = split_tree(*sizes), SIZES[sizes]
    counts = jnp.array([1, most, 1 + round(share * (most - 1))])
    scores = np.random.default_rng(seed).normal(size=(3, tree.num_squares, NUM_PATTERNS))
    if favourite is not None:
        scores[..., favourite] = 9.0
    patterns = np.asarray(_constrain(*sizes)(jnp.asarray(scores, jnp.float32), counts))
    there = tree.decode(patterns)
    np.testing.assert_array_equal(there.sum(1), counts)
    for rows in there:
        assert (_painted(tree.regions[rows], tree.image_size) == 1).all()
    np.testing.assert_array_equal(tree.encode(there), patterns)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(SIZES)), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_real_partitions_come_back(sizes, seed, share):
    tree, count = split_tree(*sizes), 1 + round(share * (SIZES[sizes] - 1))
    layouts = np.stack([_random_partition(*sizes, count, [seed, i]) for i in range(3)])
    geometry = regions_to_geometry(layouts, tree.image_size, tree.image_size)
    back = tree.to_geometry(tree.from_geometry(geometry))
    for regions, ours in zip(layouts, back, strict=True):
        expected = regions[canonical_order(regions)]
        given_back = geometry_to_regions(ours, tree.image_size, tree.image_size)
        np.testing.assert_array_equal(given_back, expected)


def test_the_budget_of_a_finished_partition_is_that_of_the_walk():
    """Training computes at once the budgets that sampling comes across step by step."""
    tree = split_tree(64, 8)

    @jax.jit
    def replay(patterns, count):
        def choose(seen, turn):
            now = jnp.stack([turn.remaining, turn.pending])
            seen = seen.at[:, :, turn.square].set(jnp.where(turn.occurs, now, -1))
            return seen, patterns[:, turn.square]

        seen = jnp.zeros((2, *patterns.shape), jnp.int32)
        return walk(tree, count, choose, seen), tree.budget(patterns, count)

    for count in (2, 31, 63):
        layouts = np.stack([_random_partition(64, 8, count, i) for i in range(4)])
        patterns = tree.from_geometry(regions_to_geometry(layouts, 64, 64))
        (seen, replayed), budget = replay(patterns, jnp.full(4, count))
        np.testing.assert_array_equal(replayed, patterns)
        occurs = tree.occurs(patterns, np)
        np.testing.assert_array_equal(seen, np.where(occurs, budget, -1))
        allowed = np.asarray(tree.allowed(*map(np.asarray, budget), tree.quarter_capacity))
        assert np.take_along_axis(allowed, patterns[..., None], -1)[..., 0][occurs].all()


@pytest.mark.parametrize("size", [64, 48])
def test_canonical_order_is_a_walk_through_the_tree(size):
    """Every square's regions stand together, quarter by quarter."""
    regions = _random_partition(size, 5, 40, 1)
    ordered = regions[canonical_order(regions)]
    corners = ordered[:, :2] // (size // 2)
    quarters = corners[:, 0] + 2 * corners[:, 1]
    assert (np.diff(quarters) >= 0).all()
    shuffled = np.random.default_rng(0).permutation(regions)
    np.testing.assert_array_equal(shuffled[canonical_order(shuffled)], ordered)


def test_the_mirrored_patterns_are_those_of_the_mirrored_image():
    tree = split_tree(64, 8)
    regions = np.stack([_random_partition(64, 8, 30, i) for i in range(5)])
    left, top, right, bottom = np.moveaxis(regions, -1, 0)
    mirrored = np.stack([63 - right, top, 63 - left, bottom], axis=-1)
    encode = [tree.from_geometry(regions_to_geometry(r, 64, 64)) for r in (regions, mirrored)]
    np.testing.assert_array_equal(MIRRORED[encode[0]][:, tree.mirror], encode[1])


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (17, 300), (2048, 2048)])
def test_geometry_gives_its_regions_back(size):
    rng = np.random.default_rng(0)
    height, width = size
    x, y = (np.sort(rng.integers(0, n, (500, 2)), axis=1) for n in (width, height))
    regions = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    back = geometry_to_regions(regions_to_geometry(regions, height, width), height, width)
    np.testing.assert_array_equal(back, regions)


def test_what_is_no_partition_is_refused():
    tree = split_tree(64, 8)
    regions = np.array(cuts(whole(64, 64), 8)[0])
    good = regions_to_geometry(regions, 64, 64)[None]
    refined = good + np.float32([0, 0, 0, 0.01, 0])
    with pytest.raises(ValueError, match=r"Gaussian 0, 0 is of no region of a 64 x 64 image"):
        tree.from_geometry(refined)
    with pytest.raises(ValueError, match="regions of layout 1 do not tile"):
        tree.from_geometry(np.concatenate([good, good[:, [0, 0]]]))
    many = np.concatenate([good] * 4098 + [good[:, [0, 0]]])
    with pytest.raises(ValueError, match="of the layouts from 4096 on, the regions of layout 2"):
        tree.from_geometry(many)
    odd = regions_to_geometry(np.array([[0, 0, 30, 63], [31, 0, 63, 63]]), 64, 64)[None]
    with pytest.raises(ValueError, match=r"layout 0 has the region \(0, 0, 30, 63\)"):
        tree.from_geometry(odd)
    with pytest.raises(ValueError, match="halving leads to 25, which is odd"):
        split_tree(100, 8)
    with pytest.raises(ValueError, match="cannot be cut"):
        split_tree(8, 8)
