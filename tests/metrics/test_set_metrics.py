"""Precision, recall and Inception Score beside torch-fidelity's, and where they are known."""

import numpy as np
import pytest
from scipy.special import softmax

from gpstoken_jax.metrics.frechet import FeatureMoments, frechet_distance
from gpstoken_jax.metrics.inception_score import ClassScores
from gpstoken_jax.metrics.manifold import precision_recall


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "set_metrics.npz")


def _score(probabilities, split=5000, positions=None):
    scores = ClassScores(split=split)
    scores.add(probabilities, np.arange(len(probabilities)) if positions is None else positions)
    return scores.score()


def test_all_metrics_beside_torch(golden):
    """The table of docs/metrics.md; `python tests/metrics/test_set_metrics.py` prints it."""
    for name, (ours, theirs) in compare(golden).items():
        assert ours == pytest.approx(theirs, rel=1e-6), name


def compare(golden):
    """Name to our figure and torch-fidelity's."""
    gaussians = (FeatureMoments.of(golden[name]).gaussian() for name in ("real", "made"))
    probabilities = softmax(golden["logits"].astype(np.float64), axis=1)
    cover = precision_recall(golden["real"], golden["made"])
    return {
        "Fréchet distance": (frechet_distance(*gaussians), float(golden["frechet"])),
        "Inception Score": (_score(probabilities), float(golden["inception_score_1"])),
        "Inception Score, 4 splits": (
            _score(probabilities, 50), float(golden["inception_score_4"])
        ),
        "precision": (cover.precision, float(golden["precision"])),
        "recall": (cover.recall, float(golden["recall"])),
    }  # fmt: skip


def test_precision_and_recall_by_the_definition():
    """Every distance in float64, one by one; more rows than a block has."""
    rng = np.random.default_rng(1)
    real, made = rng.normal(size=(1100, 2)), rng.normal(0.5, 0.7, (1030, 2))

    def covered(points, centres):
        own = np.sort(np.linalg.norm(centres[:, None] - centres, axis=-1), axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - centres, axis=-1) <= own).any(axis=1).mean()

    found = precision_recall(real.astype(np.float32), made.astype(np.float32))
    assert found.precision == pytest.approx(covered(made, real), abs=2e-3)
    assert found.recall == pytest.approx(covered(real, made), abs=2e-3)


def test_precision_and_recall_at_their_ends():
    rng = np.random.default_rng(2)
    real = rng.normal(size=(50, 8)).astype(np.float32)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 1000) == (0, 0)
    collapsed = real[:1] + 1e-3 * rng.normal(size=(50, 8)).astype(np.float32)
    found = precision_recall(real, collapsed)
    assert found.precision == 1 and found.recall <= 1 / 50
    with pytest.raises(ValueError, match="need more images than that; there are 50 and 3"):
        precision_recall(real, real[:3])
    with pytest.raises(ValueError, match="not finite"):
        precision_recall(real, np.full((9, 8), np.nan, np.float32))


def test_the_inception_score_where_it_is_known():
    assert _score(np.full((30, 7), 1 / 7)) == pytest.approx(1)
    assert _score(np.eye(7)[np.arange(70) % 7]) == pytest.approx(7)
    assert _score(np.eye(7)[np.zeros(70, int)]) == pytest.approx(1)


def test_scores_merge_in_any_order():
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(9), 100)
    whole, parts = ClassScores(split=30), ClassScores(split=30)
    whole.add(p, np.arange(100))
    for start in (2, 0, 1):
        part = ClassScores(split=30)
        part.add(p[start::3], np.arange(start, 100, 3))
        parts.merge(part)
    assert parts.score() == pytest.approx(whole.score(), rel=1e-12)
    np.testing.assert_array_equal(parts.counts, [30, 30, 30, 10])


if __name__ == "__main__":
    from pathlib import Path

    arrays = np.load(Path(__file__).parents[1] / "golden" / "set_metrics.npz")
    for name, (ours, theirs) in compare(arrays).items():
        print(f"| {name} | {ours:.9g} | {theirs:.9g} | {ours - theirs:.1e} |")
