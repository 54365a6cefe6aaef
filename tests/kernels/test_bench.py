"""The benchmark measures what it says, on a tiny shape; no time is asserted."""

import pytest

from tests.kernels import bench, floor
from tests.kernels.specs import SPECS, Spec

TINY = Spec(batch=1, side=8, tokens=4, channels=2)


def test_rows_ratios_and_table(monkeypatch):
    monkeypatch.setitem(SPECS, "tiny", TINY)
    rows = bench.measure("tiny", TINY, ["xla", "reference"], runs=3, budget=0.1)
    rows = bench.with_ratios(rows)
    assert [r.direction for r in rows] == ["forward", "forward+backward"] * 2
    assert all(r.milliseconds > 0 and r.runs == 3 for r in rows)
    assert all(r.times_faster_than_reference == 1 for r in rows[2:])
    assert rows[0].times_faster_than_reference == rows[2].milliseconds / rows[0].milliseconds
    ends = 4 * (4 * 5 + 4 * 2 + 8 * 8 * 2) + 4 * 8 * 8 * 2
    assert rows[1].argument_and_result_bytes >= ends
    table = bench.markdown(rows, bench.context())
    assert table.count("| tiny |") == 4


def test_the_dense_form_is_left_out_where_it_does_not_fit():
    large = Spec(1, 256, 4096)
    assert bench.fits(large, "xla", 8) and not bench.fits(large, "reference", 8)
    assert bench.fits(TINY, "reference", 8)


def test_floor_counts_pairs_and_takes_the_largest_limit():
    geometry, _, _ = TINY.arguments()
    inside = 0
    for sx, sy, _, mx, my in geometry[0].tolist():
        for i in range(8):
            for j in range(8):
                x, y = 2 * i / 7 - 1, 2 * j / 7 - 1
                inside += abs(x - mx) <= 3 * sx and abs(y - my) <= 3 * sy
    assert floor.pairs(TINY) == inside
    slow = floor.Rates(powers=1.0, operations=1e12, bytes=1e12)
    assert floor.seconds(TINY, slow, "forward") == pytest.approx(inside)
    assert floor.seconds(TINY, slow, "forward+backward") == pytest.approx(2 * inside)


def test_another_version_takes_turns(tmp_path):
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("from gpstoken_jax.kernels import splat\n")
    rows = bench.measure("tiny", TINY, ["xla", str(tmp_path)], runs=3, budget=0.1)
    assert [r.implementation for r in rows] == ["xla", "xla", "before", "before"]
