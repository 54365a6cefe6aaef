"""The programs as a user runs them: train, be killed, resume, evaluate."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from gpstoken_jax.tokenizer import Tokenizer
from tests import forked

ROOT = Path(__file__).parents[2]
TIMES = {"seconds", "images_per_second", "seconds_per_step", "train_seconds", "eta_seconds"}
TIMES |= {"data_wait", "device_wait", "tflops", "host_memory_gb", "crc32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Crops of real photos, with one file that is no image and one that breaks off."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee", "chelsea"):
        photo = getattr(photos, name)()
        for i in range(3):
            crop = Image.fromarray(photo[60 * i : 60 * i + 120, 70 * i : 70 * i + 150])
            crop.save(folder / f"{name}_{i}.png")
    (folder / "notes.txt").write_text("not an image")
    (folder / "broken.png").write_bytes((folder / "coffee_0.png").read_bytes()[:900])
    return folder


def _command(folder, workdir, *more):
    arguments = [
        "--config=configs/tiny.py:smoke",
        f"--workdir={workdir}",
        f"--data.folder={folder}",
    ]
    return [sys.executable, "train.py", *arguments, *more]


def _run(command, env, **options):
    return forked.run(command, cwd=ROOT, env=env, **options)


@pytest.fixture(scope="module")
def trained(folder, env, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    result = _run(_command(folder, workdir), env)
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def test_training_says_what_it_does_and_leaves_what_it_promises(trained):
    workdir, said = trained
    assert "first step after" in said
    assert "step 12/12" in said and "images/s  ETA" in said
    lines = [line for line in _metrics(workdir) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert all(np.isfinite(line["loss"]) and line["mse"] > 0 for line in lines)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["12", "4", "8"]
    assert any((workdir / "tensorboard").iterdir())
    evaluations = [line for line in _metrics(workdir) if "val_psnr" in line]
    assert [line["step"] for line in evaluations] == [6, 12]
    best = max(evaluations, key=lambda line: line["val_psnr"])["step"]
    assert Tokenizer.from_pretrained(workdir / "best").step == best
    assert {path.name for path in (workdir / "samples").iterdir()} == {"6.png", "12.png"}
    assert "| encoder/feature_head/bias" in (workdir / "parameters.txt").read_text()
    assert json.loads((workdir / "config.json").read_text())["model"]["image_size"] == 32


def test_a_killed_run_resumes_to_the_same_bits(trained, folder, env, tmp_path):
    """SIGKILL once a checkpoint is there and training went on past it."""
    process = forked.Program(
        _command(folder, tmp_path),
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = tmp_path / "checkpoints" / "4"
    deadline = time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    result = _run(_command(folder, tmp_path), env)
    assert result.returncode == 0, result.stderr
    assert "resuming after step 4" in result.stdout
    workdir, _ = trained
    assert _metrics(tmp_path, TIMES)[-8:] == _metrics(workdir, TIMES)[-8:]
    for weights in ("params", "ema_params"):
        ours, theirs = (
            Tokenizer.from_pretrained(d, weights=weights).params for d in (tmp_path, workdir)
        )
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_finished_run_does_nothing_more(trained, folder, env):
    workdir, _ = trained
    before = _metrics(workdir)
    result = _run(_command(folder, workdir), env)
    assert result.returncode == 0, result.stderr
    assert _metrics(workdir) == before


def test_evaluation_writes_metrics_and_a_report(trained, folder, env, tmp_path):
    workdir, _ = trained
    arguments = [f"--checkpoint={workdir}", f"--data.folder={folder}", f"--output={tmp_path}"]
    result = _run([sys.executable, "eval.py", *arguments, "--num_tokens=12"], env)
    assert result.returncode == 0, result.stderr
    assert "dB PSNR against the baseline" in result.stdout
    assert "skipped 1 unreadable" in result.stdout
    measured = json.loads((tmp_path / "metrics.json").read_text())
    assert measured["protocol"]["num_images"] == len(measured["images"]) == 9
    assert measured["protocol"]["num_tokens"] == 12
    assert measured["protocol"]["step"] == 12
    assert list(measured["unreadable"]) == ["broken.png"]
    mean = np.mean([image["model"]["psnr"] for image in measured["images"]])
    assert measured["metrics"]["model"]["psnr"] == pytest.approx(mean)
    report = (tmp_path / "report.html").read_text()
    assert report.count("astronaut_0.png") >= 1
    assert "broken.png" not in report


def test_mistakes_are_named_in_one_line(trained, folder, env, tmp_path):
    workdir, _ = trained
    nowhere = _run([sys.executable, "eval.py", f"--checkpoint={tmp_path}"], env)
    assert nowhere.returncode == 1
    assert "config.json" in nowhere.stderr and "Traceback" not in nowhere.stderr
    other = _run(_command(folder, workdir, "--config.model.feature_channels=7"), env)
    assert other.returncode == 1
    assert "model.feature_channels was 16 and is now 7" in other.stderr
    missing = _run(_command(tmp_path / "gone", tmp_path / "run"), env)
    assert missing.returncode == 1
    assert "gone" in missing.stderr and "Traceback" not in missing.stderr


def _metrics(workdir, without=()):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in without} for line in lines]
