"""The classifier that tells whether samples are of their class."""

import numpy as np
import pytest

from gpstoken_jax.metrics.class_check import check_classes


def _cloud(rng, centre, count):
    return rng.normal(size=(count, 8)) + 6 * np.eye(8)[centre]


def test_the_class_of_the_nearest_is_found():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], (60, 5, 20))  # a vote by number alone would find class 0
    known = np.concatenate([_cloud(rng, 0, 60), _cloud(rng, 1, 5), _cloud(rng, 2, 20)])
    wanted = np.repeat([0, 1, 2], 30)
    features = np.concatenate([_cloud(rng, c, 30) for c in range(3)])
    check = check_classes(known, labels, features, wanted, ("a", "b", "c"))
    assert check.accuracy > 0.95
    assert check.confusion.sum() == 90
    assert check.chance == pytest.approx(1 / 3)
    assert check.to_json()["by_class"]["b"] > 0.9


def test_features_without_a_class_are_found_by_chance():
    rng = np.random.default_rng(0)
    known, labels = rng.normal(size=(200, 8)), np.arange(200) % 4
    wanted = np.arange(400) % 4
    check = check_classes(known, labels, rng.normal(size=(400, 8)), wanted, tuple("abcd"))
    assert check.accuracy == pytest.approx(0.25, abs=0.08)


def test_accuracy_is_the_mean_over_classes():
    known, labels, wanted = np.eye(3), np.arange(3), np.array([0, 0, 0, 2])
    features = np.eye(3)[[0, 0, 0, 1]]
    check = check_classes(known, labels, features, wanted, ("a", "b", "c"), neighbours=1)
    assert check.confusion.tolist() == [[3, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert check.accuracy == 0.5
