"""Checkpoints that are kept as the best."""

import math

import numpy as np
import pytest

from gpstoken_jax.configs import common
from gpstoken_jax.runtime.checkpoint import steps
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config
from gpstoken_jax.training.best import BestCheckpoint


def _best(root, metric, lowest=False, step=0):
    config = common.get_config()
    config.checkpoint.update(best_metric=metric, best_is_lowest=lowest)
    return BestCheckpoint(RunDirectory(root), config, step=step)


def _consider(best, step, **figures):
    return best.consider(step, figures, lambda: {"params": np.zeros(2)}, lambda: {"data": None})


def test_the_highest_figure_is_kept_over_a_restart(tmp_path):
    best = _best(tmp_path, "val_psnr")
    assert math.isnan(best.figure)
    assert _consider(best, 10, val_psnr=20.0, val_ssim=0.9)
    assert not _consider(best, 20, val_psnr=19.0)
    assert not _consider(best, 30, val_psnr=math.nan)
    best.close()
    best = _best(tmp_path, "val_psnr", step=30)
    assert best.figure == 20.0
    assert not _consider(best, 40, val_psnr=20.0)
    assert _consider(best, 50, val_psnr=21.0)
    best.close()
    assert steps(tmp_path / "checkpoints") == [50]
    assert read_config(RunDirectory(tmp_path)).checkpoint.best_metric == "val_psnr"


def test_a_best_checkpoint_of_a_later_step_is_dropped(tmp_path, capsys):
    best = _best(tmp_path, "val_psnr")
    _consider(best, 10, val_psnr=20.0)
    best.close()
    best = _best(tmp_path, "", step=9)  # also by a run that keeps none
    assert f"dropping {tmp_path / 'checkpoints' / '10'}" in capsys.readouterr().out
    best = _best(tmp_path, "val_psnr", step=9)
    assert math.isnan(best.figure)
    assert _consider(best, 12, val_psnr=1.0)
    best.close()
    assert steps(tmp_path / "checkpoints") == [12]


def test_a_figure_can_be_best_when_lowest(tmp_path):
    best = _best(tmp_path, "val_loss", lowest=True)
    kept = [_consider(best, step, val_loss=loss) for step, loss in enumerate((3.0, 4.0, 2.0))]
    best.close()
    assert kept == [True, False, True] and steps(tmp_path / "checkpoints") == [2]


def test_a_metric_that_is_not_measured_is_named(tmp_path):
    best = _best(tmp_path, "val_fid")
    with pytest.raises(ValueError, match=r"best_metric='val_fid' is none of \['val_psnr'\]"):
        _consider(best, 1, val_psnr=1.0)
    assert not _consider(best, 1)  # no evaluation, no opinion
    best.close()
    none = _best(tmp_path, "")
    assert not _consider(none, 1, val_psnr=1.0)
    none.close()
