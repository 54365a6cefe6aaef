"""Fixtures of the tests of training."""

import contextlib
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from absl import flags

from gpstoken_jax.runtime.mirror import Place
from gpstoken_jax.runtime.run_directory import open_run
from gpstoken_jax.training import Task


@pytest.fixture
def train_program(monkeypatch) -> ModuleType:
    """Imports train.py; its flags, some of them required, are no flags of other tests."""
    before = set(flags.FLAGS)
    module = importlib.import_module("train")
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    monkeypatch.setattr(module, "PROFILE", SimpleNamespace(value=False))
    return module


@pytest.fixture
def train(train_program) -> Callable[[Task, Path], int]:
    """Trains in a directory, in this process, without evaluation; returns the exit code."""

    def run(task: Task, root: Path) -> int:
        opened = open_run(root, task.config)
        with contextlib.ExitStack() as stack:
            batches = stack.enter_context(contextlib.closing(task.open_batches()))
            began = time.perf_counter()
            return train_program.train(task, opened, Place(root), batches, False, stack, began)

    return run
