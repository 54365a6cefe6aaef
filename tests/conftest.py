"""Fixtures that all tests share."""

from pathlib import Path

import jax
import numpy as np
import pytest

from gpstoken_jax.configs import tiny
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.runtime.checkpoint import Checkpoints
from gpstoken_jax.runtime.run_directory import RunDirectory, write_config


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=2000, help="Damaged files that each reader tries.")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Values measured from the published implementation; see its README.md."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def random_run(tmp_path_factory) -> Path:
    """A run's directory for 32 x 32 images, as train.py leaves it, with random weights."""
    run = RunDirectory(tmp_path_factory.mktemp("random_run"))
    config = tiny.get_config("smoke")
    write_config(run, config)
    shapes = jax.eval_shape(lambda key: init_params(GPSToken(config.model), key), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: 0.1 * rng.standard_normal(s.shape, np.float32), shapes)
    checkpoints = Checkpoints(run.checkpoints, keep=1)
    checkpoints.save(7, {"ema_params": params}, {})
    checkpoints.close()
    return run.root
