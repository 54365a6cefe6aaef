"""Measures how much memory eval.py takes for many images, and that kills change no result.

    python -m tests.bench_eval --images=2000,8000 --kills=10 --output=eval_memory.json

Random weights of the smoke configuration and random images of 32 pixels a side: what is measured is
the program around the model. Needs no accelerator.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from gpstoken_jax.configs import tiny
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.runtime.checkpoint import Checkpoints
from gpstoken_jax.runtime.run_directory import RunDirectory, write_config

IMAGES = flags.DEFINE_list("images", ["2000", "8000"], "Numbers of images.")
KILLS = flags.DEFINE_integer("kills", 10, "Kills of a run over the fewest images.")
OUTPUT = flags.DEFINE_string("output", None, "Where the figures go, as JSON.", required=True)
ROOT = Path(__file__).parents[1]


def main(_: list[str]) -> None:
    counts, figures = sorted(map(int, IMAGES.value)), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "run")
        for count in [16, *counts]:  # the first one compiles
            write_images(folder / str(count), count)
            process = start(folder, count, f"whole_{count}")
            figures[count] = {"peak_rss_mb": round(watch_memory(process), 1)}
            print(count, figures[count], flush=True)
        kills = kill_often(folder, counts[0]) if KILLS.value else 0
        whole, killed = (
            json.loads((folder / f"{kind}_{counts[0]}" / "metrics.json").read_text())
            for kind in ("whole", "killed" if KILLS.value else "whole")
        )
        same = all(whole[key] == killed[key] for key in ("images", "metrics", "protocol"))
        figures["kills"] = {"survived": kills, "same results": same}
    Path(OUTPUT.value).write_text(json.dumps(figures, indent=2) + "\n")
    print(figures)
    if not same:
        raise SystemExit("the killed run has other results")


def write_run(directory: Path) -> None:
    """A work directory with random weights."""
    run, config = RunDirectory(directory), tiny.get_config("smoke")
    directory.mkdir()
    write_config(run, config)
    shapes = jax.eval_shape(lambda key: init_params(GPSToken(config.model), key), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: 0.1 * rng.standard_normal(s.shape, np.float32), shapes)
    with Checkpoints(run.checkpoints, keep=1) as checkpoints:
        checkpoints.save(1, {"ema_params": params}, {})


def write_images(directory: Path, count: int) -> None:
    """Random images, so small that the model is fast."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(directory / f"{i:06d}.png")


def start(folder: Path, count: int, output: str) -> subprocess.Popen:
    """Starts eval.py on so many images."""
    command = [sys.executable, "eval.py", f"--checkpoint={folder / 'run'}", "--nolpips"]
    command += [f"--data.folder={folder / str(count)}", f"--output={folder / output}"]
    command += ["--nofrechet", "--baselines=bicubic", "--report_images=8", "--eval.batch_size=16"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def watch_memory(process: subprocess.Popen) -> float:
    """Waits for a process; its highest resident memory in MB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"eval.py ended with {process.returncode}")
    return usage.ru_maxrss / 1024


def kill_often(folder: Path, count: int) -> int:
    """Kills a run at random moments after it has begun to measure; then lets it end."""
    random.seed(0)
    output, kills = f"killed_{count}", 0
    state = folder / output / ".gpstoken-progress" / "state-00000.npz"
    while kills < KILLS.value:
        process, before = start(folder, count, output), _changed(state)
        while process.poll() is None and _changed(state) == before:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1))
        if process.poll() is not None:
            break  # it was done before it was killed
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        print(f"kill {kills}", flush=True)
    if start(folder, count, output).wait():
        raise SystemExit("the killed run does not go on")
    return kills


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


if __name__ == "__main__":
    app.run(main)
