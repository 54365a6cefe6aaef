"""A work directory of version 0.1, made before the modules moved, still loads, resumes and decodes.

``tests/golden/run_0.1.tar.xz`` was written at commit f76d302 by

    python train.py --config=configs/tiny.py:smoke --data.folder=DIR --config.train.steps=4 \
        --config.checkpoint.keep=1 --config.gan.weight=0

on ten photos of 60 x 70 pixels.
"""

import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from gpstoken_jax import Tokenizer
from tests import forked

ROOT = Path(__file__).parents[2]


@pytest.fixture
def old_run(tmp_path, golden_dir):
    with tarfile.open(golden_dir / "run_0.1.tar.xz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def test_it_loads(old_run):
    tokenizer = Tokenizer.from_pretrained(old_run)
    assert tokenizer.step == 4
    image = photos.coffee()[:32, :32]
    assert np.isfinite(tokenizer.decode(tokenizer.encode(image))).all()


@pytest.mark.slow
def test_it_resumes(old_run, env, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(10):
        crop = photos.coffee()[20 * i : 20 * i + 60, 25 * i : 25 * i + 70]
        Image.fromarray(crop).save(tmp_path / "photos" / f"{i}.png")
    command = ["train.py", "--config=configs/tiny.py:smoke", f"--workdir={old_run}"]
    flags = [f"--data.folder={tmp_path / 'photos'}", "--config.gan.weight=0"]
    flags += ["--config.eval.every_steps=0", "--config.log.images_every_steps=0"]
    command = [sys.executable, *command, *flags, "--config.train.steps=5"]
    result = forked.run(command, cwd=ROOT, env=env)
    assert result.returncode == 0, result.stderr
    assert "resuming after step 4" in result.stdout
    lines = (old_run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 5
