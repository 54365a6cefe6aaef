"""The vote on stopping: after the waits, so that no step begins that nobody wants."""

import time
from types import SimpleNamespace

import pytest

from gpstoken_jax import training
from gpstoken_jax.runtime.checkpoint import steps
from gpstoken_jax.runtime.run_directory import RunDirectory
from tests.toy_training import ToyTask, get_config


@pytest.mark.parametrize(
    ("waits", "slow"), [("follow", False), ("catch_up", False), ("catch_up", True)]
)
def test_a_signal_in_a_wait_stops_before_the_next_step(train, waits, slow, tmp_path, monkeypatch):
    """The wait of a step, that of its line of the log, that of each step if they are slow."""
    signals = SimpleNamespace(requested=False, close=lambda: None)
    monkeypatch.setattr(training, "StopSignals", lambda: signals)
    called, original = [], getattr(training.SkippedSteps, waits)

    def wait(*arguments):
        called.append(arguments)
        signals.requested = len(called) == 5
        return original(*arguments)

    monkeypatch.setattr(training.SkippedSteps, waits, wait)
    config = get_config()
    if slow:
        config.log.every_steps = 1000
        monkeypatch.setattr(
            training.StepTimer, "is_slow", property(lambda _: True, lambda *_: None)
        )
    config.checkpoint.every_steps = 1000
    assert train(ToyTask(config), tmp_path) == training.EXIT_CODE
    assert steps(RunDirectory(tmp_path).checkpoints) == [5]


def test_seconds_a_step_tell_whether_steps_are_slow(monkeypatch):
    now = iter([0.0, 8.0, 8.0, 9.0, 9.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    timer = training.StepTimer(total_steps=10, batch_size=1)
    timer.start(1)
    timer.tick(3)
    assert timer.is_slow
    timer.tick(13)
    assert not timer.is_slow
