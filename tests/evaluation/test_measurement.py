"""A cell's measurement is the same however it was shared and interrupted, and stays small."""

import contextlib
import json
import math
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpstoken_jax.data.loader import Unreadable
from gpstoken_jax.evaluation.measurement import (
    PROGRESS,
    BatchResult,
    Measurement,
    Share,
    choose_examples,
)
from gpstoken_jax.evaluation.results import first_change, read_summary, write_result
from gpstoken_jax.runtime.files import DamagedFileError
from gpstoken_jax.runtime.outputs import open_output


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
        through=len(positions),
        _rows=positions,
        _images=None,
        _reconstructions={},
    )


def measure(directory, shares, values, features=None):
    """Each share is a list of positions; in batches of three."""
    for process, share in enumerate(shares):
        state = Share(directory, {}, process)
        for start in range(0, len(share), 3):
            rows = np.asarray(share[start : start + 3], int)
            of = {"pool": {k: x[rows] for k, x in features.items()}} if features else {}
            state.add(batch(rows, [values[i] for i in rows], of), Unreadable())
        state.close()
    return Measurement.merge(directory, len(shares))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40), st.integers(1, 5))
def test_any_sharing_gives_the_same_bits(values, processes):
    """Process p of P has images p, p + P, ...; some may have none."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as many:
        whole = measure(Path(one), [range(len(values))], values)
        shares = [range(p, len(values), processes) for p in range(processes)]
        merged = measure(Path(many), shares, values)
        assert merged.means() == whole.means()
        assert list(merged.rows()) == list(whole.rows())
        mean = math.fsum(np.float32(values).tolist()) / len(values)
        assert whole.means()["model"]["psnr"] == mean


def test_statistics_of_features_merge(tmp_path):
    """Of three shares, one of them empty, as of all images at once."""
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    shares = [range(1, 40, 2), [], range(0, 40, 2)]
    both = {"original": features, "model": features**2}
    merged = measure(tmp_path, shares, np.zeros(40), both)
    for method, values in both.items():
        gaussian = merged.features["pool"][method].gaussian()
        exact = values.astype(np.float64)
        np.testing.assert_allclose(gaussian.mean, exact.mean(0), rtol=1e-12)
        np.testing.assert_allclose(gaussian.covariance, np.cov(exact.T), rtol=1e-10, atol=1e-14)


def test_different_features_do_not_merge(tmp_path):
    for process, method in enumerate(("model", "other")):
        share = Share(tmp_path, {}, process)
        share.add(batch([process], [1.0], {"pool": {method: np.ones((1, 2))}}), Unreadable())
        share.close()
    with pytest.raises(ValueError, match="cannot merge features"):
        Measurement.merge(tmp_path, 2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=4), st.integers(1, 5))
def test_a_killed_share_goes_on_to_the_same_numbers(kills, save_every):
    """Killed after some batches, some of them not saved, and with half a line in the file."""
    rng = np.random.default_rng(0)
    values, features = rng.normal(size=20), rng.normal(size=(20, 3))
    both = {"original": features, "model": features * 2}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole = measure(Path(one), [range(20)], values, both)
        for kill in [*kills, 100]:
            share = Share(Path(other), {"protocol": 1})
            share._cost = math.inf  # saved only where this test says so
            for number in range(kill):
                if share.done >= 20:
                    break
                rows = np.arange(share.done, share.done + 2)
                of = {"pool": {k: x[rows] for k, x in both.items()}}
                share.add(batch(rows, values[rows], of), Unreadable(1, {f"bad{rows[0]}": "why"}))
                if number % save_every == save_every - 1:
                    share.save()
            share._file.write(b'{"position": 3, "na')
            share._file.close()
        share = Share(Path(other), {"protocol": 1})
        rows = np.arange(share.done, 20)
        of = {"pool": {k: x[rows] for k, x in both.items()}}
        share.add(batch(rows, values[rows], of), Unreadable())
        share.close()
        merged = Measurement.merge(Path(other))
        assert list(merged.rows()) == list(whole.rows()) and merged.means() == whole.means()
        for method in both:
            ours, theirs = (one.features["pool"][method].gaussian() for one in (merged, whole))
            np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-12)


def test_progress_of_another_protocol_or_damaged_is_dropped(tmp_path, capsys):
    def started():
        share = Share(tmp_path, {"protocol": "a"})
        share.add(batch([0, 1], [1.0, 2.0]), Unreadable())
        share.close()

    def done(protocol, **options):
        with contextlib.closing(Share(tmp_path, {"protocol": protocol}, **options)) as share:
            return share.done

    started()
    assert [done("a"), done("a", fresh=True)] == [2, 0]
    started()
    assert done("b") == 0
    for path in ("rows-00000.jsonl", "state-00000.npz"):
        started()
        data = bytearray((tmp_path / PROGRESS / path).read_bytes())
        for place in range(0, len(data), 97):
            flipped = bytearray(data)
            flipped[place] ^= 4
            (tmp_path / PROGRESS / path).write_bytes(flipped)
            assert done("a") == 0
            assert "is measured from its start" in capsys.readouterr().out
            started()


def test_a_damaged_state_is_named_when_shares_are_merged(tmp_path):
    measure(tmp_path, [[0, 1]], [1.0, 2.0])
    state = tmp_path / PROGRESS / "state-00000.npz"
    data = state.read_bytes()
    state.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with pytest.raises(DamagedFileError, match=r"state-00000\.npz is damaged"):
        Measurement.merge(tmp_path)


def test_memory_does_not_grow_with_the_images(tmp_path):
    """The highest use of 4,000 images is that of 1,000."""

    def peak(count):
        directory = tmp_path / str(count)
        values = np.linspace(10, 40, 1000)
        tracemalloc.start()
        share = Share(directory, {})
        for start in range(0, count, 1000):
            share.add(batch(range(start, start + 1000), values), Unreadable())
        share.close()
        measurement = Measurement.merge(directory)
        means = measurement.means()
        with open_output(directory / "out", "test", {}) as output:
            write_result(output, "metrics.json", {"metrics": means}, measurement.rows())
        assert read_summary(directory / "out" / "metrics.json") == {"metrics": means}
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(500)  # what is made once
    assert peak(4000) < 1.1 * peak(1000)


def test_results_are_written_image_by_image_and_read_back(tmp_path):
    measurement = measure(tmp_path, [[0, 1], [2]], [20.0, 30.0, 40.0])
    summary = {"metrics": measurement.means(), "protocol": {"step": 3}}
    with open_output(tmp_path / "out", "test", {}) as output:
        write_result(output, "metrics.json", summary, measurement.rows())
        path = output.check("metrics.json")
    whole = json.loads(path.read_text())
    assert whole["metrics"]["model"]["psnr"] == 30
    assert whole["images"][1]["name"] == "photo1.png"
    assert whole["images"][1]["bicubic"] == {"psnr": 29.0}
    assert whole["images"][1]["floored_std"] == 0
    assert read_summary(path) == summary
    path.write_text('{"metrics": ')
    with pytest.raises(DamagedFileError, match=r"metrics\.json is damaged"):
        output.check("metrics.json")


def test_a_changed_protocol_is_noticed_and_named():
    old = {"weights_crc32": "a", "num_images": 3, "lpips": "none"}
    assert first_change(old, {"weights_crc32": "a", "lpips": "none"}) is None
    assert first_change(old, {"weights_crc32": "b", "lpips": "none"}) == (
        "weights crc32 was a and is now b"
    )
    assert "focus" in first_change(old, {**old, "focus": "none"})


def test_examples_are_the_best_middle_and_worst(tmp_path):
    values = [5.0, 9, 1, 7, 3, 8, 2, 6, 4]
    chosen = choose_examples(measure(tmp_path / "9", [range(9)], values))
    by_tag = {tag: [values[i] for i in chosen if chosen[i] == tag] for tag in chosen.values()}
    assert by_tag == {"best": [9, 8, 7], "middle": [6, 5, 4], "worst": [3, 2, 1]}
    assert list(choose_examples(measure(tmp_path / "5", [range(5)], values)).values()) == [
        "best",
        "middle",
        "worst",
    ]
    assert choose_examples(measure(tmp_path / "2", [range(2)], values)) == {}
