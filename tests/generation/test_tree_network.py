"""The network over the tree: a distribution over partitions and nothing else."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.generation.layouts.split_tree import NUM_PATTERNS, split_tree
from gpstoken_jax.generation.layouts.tree_network import (
    TreeNetwork,
    draw,
    init_params,
    log_likelihood,
)

SMALL = split_tree(32, 8)  # five squares


def _network(tree, seed=0):
    """A network that is not indifferent."""
    network = TreeNetwork(tree, num_classes=2, width=16, depth=2, num_heads=2)
    params = init_params(network, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    noisy = [
        leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in jax.tree.leaves(params)
    ]
    return network, jax.tree.unflatten(jax.tree.structure(params), noisy)


@pytest.fixture(scope="module")
def small():
    network, params = _network(SMALL)
    return (
        network,
        params,
        jax.jit(functools.partial(log_likelihood, network)),
        jax.jit(functools.partial(draw, network, params)),
    )


def _all_partitions():
    """All patterns of the small tree, those of squares that do not occur being 0."""
    every = np.array(list(itertools.product(range(NUM_PATTERNS), repeat=SMALL.num_squares)))
    occurs = SMALL.occurs(every, np)
    return every[(np.where(occurs, 0, every) == 0).all(1)]


@pytest.mark.slow
def test_the_probabilities_of_all_partitions_add_up_to_one(small):
    """For every number of regions: nothing is lost to partitions that are not valid."""
    _, params, likelihood, _ = small
    every = _all_partitions()
    regions = SMALL.decode(every).sum(1)
    assert len(every) == 1 + 2 * 1 + 4 * 8**2 + 8**4  # none, two halves, two quarters, four
    log_p = np.asarray(likelihood(params, jnp.asarray(every), jnp.zeros(len(every), int), regions))
    for count in range(1, 17):
        assert np.exp(log_p[regions == count]).sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_draws_have_the_frequencies_of_their_probabilities(small):
    _, params, likelihood, sample = small
    every = _all_partitions()
    every = every[SMALL.decode(every).sum(1) == 4]
    labels, counts = jnp.ones(8192, jnp.int32), jnp.full(len(every), 4)
    patterns = sample(jax.random.split(jax.random.key(1), 8192), labels, jnp.full(8192, 4))
    p = np.exp(likelihood(params, jnp.asarray(every), labels[: len(every)], counts))
    number = {tuple(row): i for i, row in enumerate(every.tolist())}
    drawn = np.bincount([number[tuple(row)] for row in patterns.tolist()], minlength=len(every))
    deviation = (drawn - 8192 * p) / np.sqrt(8192 * p + 1)
    assert np.abs(deviation).max() < 5
    assert 0.5 < np.square(deviation).mean() < 2
    assert p.max() / p.min() > 10  # or the test would see no difference


@pytest.mark.slow
def test_sampling_and_training_see_the_same_probabilities():
    """The keys and values that are kept are those of the whole sequence."""
    tree = split_tree(64, 8)
    network, params = _network(tree, seed=3)
    keys = jax.random.split(jax.random.key(0), 16)
    labels, counts = jnp.arange(16) % 3, jnp.arange(2, 34, 2)
    cold = jax.jit(functools.partial(draw, network, params, temperature=1e-6))
    patterns = cold(keys, labels, counts)
    assert (tree.decode(patterns).sum(1) == counts).all()
    log_p = jax.jit(functools.partial(network.apply, params))(patterns, labels, counts)
    best = np.asarray(log_p.argmax(-1))
    occurs = tree.occurs(np.asarray(patterns), np)
    np.testing.assert_array_equal(np.where(occurs, best, 0), patterns)


def test_a_fresh_network_is_indifferent_and_classes_matter(small):
    network, params, likelihood, _ = small
    patterns = jnp.zeros((2, SMALL.num_squares), jnp.int32).at[:, 0].set(7)
    both, counts = jnp.array([0, 1]), jnp.full(2, 4)
    fresh = likelihood(init_params(network, jax.random.key(0)), patterns, both, counts)
    # Five ways to go on: the whole image must be cut, and two halves alone have no room for four.
    np.testing.assert_allclose(fresh, -np.log(5), rtol=1e-5)
    log_p = likelihood(params, patterns, both, counts)
    assert abs(float(log_p[0] - log_p[1])) > 1e-3
