"""The vote on stopping: after the waits, so that no step begins that nobody wants."""

import contextlib
import importlib
import time
from types import SimpleNamespace

import pytest
from absl import flags

from gpstoken_jax import training
from gpstoken_jax.runtime.checkpoint import steps
from gpstoken_jax.runtime.run_directory import RunDirectory
from tests.toy_training import ToyTask, get_config


@pytest.fixture
def train():
    """The program as a module; its flags, some of them required, are no flags of other tests."""
    before = set(flags.FLAGS)
    module = importlib.import_module("train")
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    return module


@pytest.mark.parametrize(
    ("waits", "slow"), [("follow", False), ("catch_up", False), ("catch_up", True)]
)
def test_a_signal_in_a_wait_stops_before_the_next_step(train, waits, slow, tmp_path, monkeypatch):
    """The wait of a step, that of its line of the log, that of each step if they are slow."""
    signals = SimpleNamespace(requested=False)
    monkeypatch.setattr(training, "StopSignals", lambda: signals)
    monkeypatch.setattr(train, "PROFILE", SimpleNamespace(value=False))
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
    task, run = ToyTask(config), RunDirectory(tmp_path)
    with contextlib.ExitStack() as stack:
        code = train.train(task, run, task.open_batches(), False, stack, time.perf_counter())
    assert code == training.EXIT_CODE
    assert steps(run.checkpoints) == [5]


def test_seconds_a_step_tell_whether_steps_are_slow(monkeypatch):
    now = iter([0.0, 8.0, 8.0, 9.0, 9.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    timer = training.StepTimer(total_steps=10, batch_size=1)
    timer.start(1)
    timer.tick(3)
    assert timer.is_slow
    timer.tick(13)
    assert not timer.is_slow
