"""The changes of docs/fork.md apply to the code as it is, and do what they say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data as photos

from tests.smallest import SMALLEST

ROOT = Path(__file__).parents[1]
DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "fork.md").read_text(), re.S)


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """A copy of the project with all changes."""
    copy = tmp_path_factory.mktemp("fork")
    for name in ("gpstoken_jax", "kernels", "configs", "train.py", "eval.py"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    for name in ("kernels", "configs"):  # as an installation has them
        (copy / "gpstoken_jax" / name).symlink_to(copy / name)
    for diff in DIFFS:
        command = ["git", "apply", "-C1", "-"]
        done = subprocess.run(command, input=diff, cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return copy


def _run(fork, *command):
    env = {**os.environ, "PYTHONPATH": str(fork)}
    result = subprocess.run(
        [sys.executable, *map(str, command)], cwd=fork, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_each_change_touches_at_most_three_files():
    assert len(DIFFS) == 5
    assert all(len(re.findall(r"^\+\+\+ ", diff, re.M)) <= 3 for diff in DIFFS)


@pytest.mark.slow
def test_a_loss_a_decoder_a_data_set_and_a_metric(fork, tmp_path):
    crops = [photos.astronaut()[8 * i : 8 * i + 40, 8 * i : 8 * i + 40] for i in range(20)]
    np.save(tmp_path / "images.npy", np.stack(crops))
    run = tmp_path / "run"
    flags = f"--config.data.array={tmp_path / 'images.npy'}", f"--workdir={run}"
    steps = "--config.train.steps=2", "--config.loss.sigma_weight=0.01", "--config.gan.weight=0"
    small = [f"--config.{name}={value}" for name, value in SMALLEST.items()]
    said = _run(fork, "train.py", "--config=configs/tiny.py:smoke", *flags, *small, *steps)
    assert "images.npy, split train: 18 images" in said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[0]["sigma"] < 1
    assert any("val_mae" in line for line in lines)
    names = (run / "parameters.txt").read_text()
    assert "decoder/conv_out" in names and "mid_attention" not in names


def test_an_implementation_of_splat(fork):
    code = (
        "import jax, numpy as np\n"
        "from gpstoken_jax import kernels\n"
        "rng = np.random.default_rng(0)\n"
        "geometry = rng.uniform(0.1, 0.4, (2, 5, 5)).astype(np.float32)\n"
        "features = rng.normal(size=(2, 5, 3)).astype(np.float32)\n"
        "a, b = (kernels.splat(geometry, features, (8, 9), implementation=name)\n"
        "        for name in ('scan', 'reference'))\n"
        "print(float(abs(a - b).max()), kernels.__file__)"
    )
    difference, where = _run(fork, "-c", code).split()
    assert float(difference) < 1e-5
    assert where.startswith(str(fork))
