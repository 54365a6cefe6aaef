"""A tokenizer's run without a training."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.runtime.checkpoint import Checkpoints
from gpstoken_jax.runtime.run_directory import RunDirectory, write_config


def write_random_run(directory: Path, config: ConfigDict) -> Path:
    """Writes a run with averaged weights drawn at random, of step 7, and returns its directory."""
    run = RunDirectory(directory)
    write_config(run, config)
    shapes = jax.eval_shape(lambda key: init_params(GPSToken(config.model), key), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: 0.1 * rng.standard_normal(s.shape, np.float32), shapes)
    checkpoints = Checkpoints(run.checkpoints, keep=1)
    checkpoints.save(7, {"ema_params": params}, {})
    checkpoints.close()
    return run.root
