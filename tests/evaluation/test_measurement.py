"""What a cell has measured merges exactly, however the images were shared, and stays small."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpstoken_jax.evaluation.evaluator import BatchResult
from gpstoken_jax.evaluation.examples import choose_examples
from gpstoken_jax.evaluation.measurement import Measurement
from gpstoken_jax.evaluation.results import first_change, read_summary, write_result


def batch(positions, psnr, features=None):
    """A batch of images whose numbers are known."""
    positions = np.asarray(positions, np.int64)
    psnr = np.asarray(psnr, np.float32)
    return BatchResult(
        names=[f"photo{position}.png" for position in positions],
        positions=positions,
        metrics={"model": {"psnr": psnr, "lpips": psnr / 100}, "bicubic": {"psnr": psnr - 1}},
        values={"floored_std": psnr * 0},
        features=features or {},
        _rows=positions,
        _images=None,
        _reconstructions={},
    )


def measure(parts, values):
    measurement = Measurement()
    for positions in parts:
        measurement.add(batch(positions, [values[i] for i in positions]))
    return measurement


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40), st.integers(1, 5))
def test_any_sharing_gives_the_same_bits(values, processes):
    """Process p of P has images p, p + P, ...; some may have none."""
    whole = measure([range(len(values))], values)
    shares = [measure([range(p, len(values), processes)], values) for p in range(processes)]
    shares = [pickle.loads(pickle.dumps(share)) for share in reversed(shares)]
    merged = shares[0]
    for share in shares[1:]:
        merged = merged.merge(share)
    assert merged.means() == whole.means()
    assert list(merged.images()) == list(whole.images())
    mean = math.fsum(np.float32(values).tolist()) / len(values)
    assert whole.means()["model"]["psnr"] == mean


def test_statistics_of_features_merge():
    """Of three shares, one of them empty, as of all images at once; and their size is told."""
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)

    def share(rows):
        measurement = Measurement()
        of = {"original": features[rows], "model": features[rows] ** 2}
        measurement.add(batch(rows, np.zeros(len(rows)), {"pool": of}))
        return measurement

    merged = share(np.arange(1, 40, 2)).merge(Measurement()).merge(share(np.arange(0, 40, 2)))
    for method, values in (("original", features), ("model", features**2)):
        gaussian = merged.features["pool"][method].gaussian()
        exact = values.astype(np.float64)
        np.testing.assert_allclose(gaussian.mean, exact.mean(0), rtol=1e-12)
        np.testing.assert_allclose(gaussian.covariance, np.cov(exact.T), rtol=1e-10, atol=1e-14)
    assert merged.sizes()["statistics"] == 2 * 8 * (5 + 25)


def test_different_metrics_do_not_merge():
    other = measure([[0]], [1.0])
    del other.metrics["bicubic"]
    with pytest.raises(ValueError, match="cannot merge metrics"):
        measure([[1]], [1.0, 2.0]).merge(other)


def test_fifty_thousand_images_fit_in_memory():
    """The state grows by the numbers and the name of an image; nothing of its pictures."""
    measurement, count = Measurement(), 50_000
    for start in range(0, count, 1000):
        measurement.add(batch(range(start, start + 1000), np.linspace(10, 40, 1000)))
    sizes = measurement.sizes()
    numbers = 4 + 1  # metrics and values above, and the position
    assert sizes["per_image"] >= count * 8 * numbers
    assert sizes["per_image"] < count * (8 * numbers + 80)
    assert len(pickle.dumps(measurement)) < 1.2 * sizes["per_image"]


def test_results_are_written_image_by_image_and_read_back(tmp_path):
    measurement = measure([[0, 1], [2]], [20.0, 30.0, 40.0])
    summary = {"metrics": measurement.means(), "protocol": {"step": 3}}
    write_result(tmp_path / "metrics.json", summary, measurement.images())
    whole = json.loads((tmp_path / "metrics.json").read_text())
    assert whole["metrics"]["model"]["psnr"] == 30
    assert whole["images"][1]["name"] == "photo1.png"
    assert whole["images"][1]["bicubic"] == {"psnr": 29.0}
    assert whole["images"][1]["floored_std"] == 0
    assert read_summary(tmp_path / "metrics.json") == summary
    (tmp_path / "metrics.json").write_text('{"metrics": ')
    assert read_summary(tmp_path / "metrics.json") is None
    assert read_summary(tmp_path / "gone.json") is None


def test_a_changed_protocol_is_noticed_and_named():
    old = {"weights_crc32": "a", "num_images": 3, "lpips": "none"}
    assert first_change(old, {"weights_crc32": "a", "lpips": "none"}) is None
    assert first_change(old, {"weights_crc32": "b", "lpips": "none"}) == (
        "weights crc32 was a and is now b"
    )
    assert "focus" in first_change(old, {**old, "focus": "none"})


def test_examples_are_the_best_middle_and_worst():
    values = [5.0, 9, 1, 7, 3, 8, 2, 6, 4]
    chosen = choose_examples(measure([range(9)], values))
    by_tag = {tag: [values[i] for i in chosen if chosen[i] == tag] for tag in chosen.values()}
    assert by_tag == {"best": [9, 8, 7], "middle": [6, 5, 4], "worst": [3, 2, 1]}
    assert list(choose_examples(measure([range(5)], values)).values()) == [
        "best",
        "middle",
        "worst",
    ]
    assert choose_examples(measure([range(2)], values)) == {}
