"""The log of a run, and what a resumed run makes of it."""

import json
import time

import numpy as np
import pytest

from gpstoken_jax.runtime.progress import format_seconds
from gpstoken_jax.runtime.run_directory import RunDirectory
from gpstoken_jax.training.metric_log import MetricLog, read_metrics
from gpstoken_jax.training.step_timer import StepTimer


def _lines(run):
    return read_metrics(run.metrics)


def test_values_become_lines_and_events(tmp_path):
    run = RunDirectory(tmp_path)
    log = MetricLog(run, step=0)
    log.scalars(1, {"loss": np.float32(0.5)})
    log.image(1, "picture", np.zeros((4, 4, 3), np.uint8))
    log.close()
    assert _lines(run) == [{"step": 1, "loss": 0.5}]
    assert any(run.tensorboard.iterdir())
    assert (run.samples / "1.png").stat().st_size > 0


def test_a_resumed_run_writes_later_lines_again(tmp_path):
    run = RunDirectory(tmp_path)
    log = MetricLog(run, step=0)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": step})
    log.close()
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    log = MetricLog(run, step=2)
    log.scalars(3, {"loss": 30})
    log.close()
    assert [line["loss"] for line in _lines(run)] == [1, 2, 30]


def test_lines_are_json_and_those_of_early_versions_are_read(tmp_path):
    run = RunDirectory(tmp_path)
    run.metrics.write_text('{"step": 1, "loss": 2.0, "psnr": null}\n')
    log = MetricLog(run, step=1)
    log.scalars(2, {"loss": 1.0, "psnr": np.inf})
    log.close()
    first, second = map(json.loads, run.metrics.read_text().splitlines())
    assert first == {"step": 1, "loss": 2.0, "psnr": None}
    assert _lines(run) == [first, {"step": 2, "loss": 1.0, "psnr": None}]
    assert list(second) == ["step", "loss", "psnr", "crc32"]


def test_every_flipped_bit_of_a_line_is_noticed(tmp_path, caplog):
    run = RunDirectory(tmp_path)
    log = MetricLog(run, step=0)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": 1 / step})
    log.close()
    content, expected = run.metrics.read_bytes(), _lines(run)
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        run.metrics.write_bytes(damaged)
        caplog.clear()
        found = _lines(run)
        assert "is damaged: line" in caplog.text, bit
        assert [line for line in expected if line in found] == found and len(found) in (1, 2)
    run.metrics.write_bytes(content)
    assert _lines(run) == expected


def test_step_timer_counts_only_training_and_goes_on_after_a_restart():
    timer = StepTimer(total_steps=10, batch_size=4, train_seconds=100.0)
    with pytest.raises(RuntimeError, match="start"):
        timer.tick(1)
    timer.start(5)
    times = timer.tick(7)
    assert times["train_seconds"] > 100
    assert times["images_per_second"] == pytest.approx(4 / times["seconds_per_step"])
    assert times["eta_seconds"] == pytest.approx(3 * times["seconds_per_step"])


def test_step_timer_leaves_out_pauses_and_tells_who_waited(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = StepTimer(total_steps=10, batch_size=4)
    timer.start(0)
    with timer.paused():
        now[0] += 100
    with timer.waiting("data"):
        now[0] += 1
    now[0] += 3
    times = timer.tick(2)
    assert times["seconds"] == times["train_seconds"] == 4 and times["seconds_per_step"] == 2
    assert times["data_wait"] == 0.25 and times["device_wait"] == 0
    now[0] += 1
    assert timer.tick(3)["data_wait"] == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.7, "1m00s"), (75, "1m15s"), (7300, "2h01m")]
)
def test_durations_read_well(seconds, text):
    assert format_seconds(seconds) == text
