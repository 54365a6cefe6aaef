r"""Kills a training run again and again, and compares it with one that nobody disturbed.

    python scripts/kill_and_resume.py --config=configs/tiny.py:smoke --data.folder=DIR \
        --workdir=runs/kills --kills=20

Every other flag goes to train.py. SIGKILL comes at moments drawn from --seed: while the program
starts or restores, between steps, or in the middle of writing a checkpoint. The run is started
again each time, and runs to its end after the last kill. Then all arrays of its newest checkpoint
and all lines of its log (but times and memory) have to be the same, bit by bit, as those of the
other run. The exit code is 0 if they are.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gpstoken_jax.runtime import checkpoint  # noqa: E402
from gpstoken_jax.runtime.run_directory import RunDirectory  # noqa: E402
from gpstoken_jax.training.metric_log import MEASURED  # noqa: E402

MOMENTS = {"starting": 1, "training": 2, "saving": 2}  # and how often of five


def main() -> int:
    """Kills, resumes and compares; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run, too
    arguments, training = _parse()
    rng = random.Random(arguments.seed)
    disturbed, quiet = (RunDirectory(arguments.workdir / n) for n in ("killed", "undisturbed"))
    for run in (disturbed, quiet):
        shutil.rmtree(run.root, ignore_errors=True)
    started = time.monotonic()
    print("running undisturbed ...", flush=True)
    start_seconds = finish(training, quiet)
    print(
        f"done in {time.monotonic() - started:.0f} s; now with {arguments.kills} kills", flush=True
    )

    kills = rounds = same = 0
    started = time.monotonic()
    while kills < arguments.kills:
        rounds += 1
        shutil.rmtree(disturbed.root, ignore_errors=True)
        for moment in kill_until_finished(training, disturbed, rng, start_seconds):
            kills += 1
            seconds = time.monotonic() - started
            eta = seconds / kills * (arguments.kills - kills)
            print(f"[{kills}/{arguments.kills}] killed {moment}  ETA {eta:.0f} s", flush=True)
            if kills == arguments.kills:
                break
        finish(training, disturbed)
        difference = first_difference(quiet, disturbed)
        same += difference is None
        print(f"run {rounds}, {kills} kills so far: {difference or 'the same bits'}", flush=True)
    print(f"{kills} kills in {rounds} run(s); {same} of them the same as undisturbed, to the bit")
    return 0 if same == rounds else 1


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="emptied first")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--program", default="train.py", help="one with the flags of train.py")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments, training = parser.parse_known_args()
    return arguments, [str(ROOT / arguments.program), *training]


def start(training: list[str], run: RunDirectory) -> subprocess.Popen:
    """Starts (or resumes) a run: program and flags; what it prints goes into a file beside it."""
    run.root.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *training, f"--workdir={run.root}"]
    with output_of(run).open("a") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)


def output_of(run: RunDirectory) -> Path:
    """Path of a run's output."""
    return run.root.with_suffix(".txt")


def finish(training: list[str], run: RunDirectory) -> float:
    """Runs to the end; returns the seconds until it wrote to its log.

    Raises:
      SystemExit: with the program's last words, if it fails.
    """
    size, begun, first_line = _size(run.metrics), time.monotonic(), None
    process = start(training, run)
    try:
        while process.poll() is None:
            if first_line is None and _size(run.metrics) > size:
                first_line = time.monotonic()
            time.sleep(0.02)
    finally:
        process.kill()
    if process.returncode:
        last = output_of(run).read_text().splitlines()[-5:]
        last.append(f"error: {run.root} ended with exit code {process.returncode}")
        raise SystemExit("\n".join(last))
    return (first_line or time.monotonic()) - begun


def kill_until_finished(
    training: list[str], run: RunDirectory, rng: random.Random, start_seconds: float
) -> Iterator[str]:
    """Starts and kills a run, until it is finished before its kill; yields the moments in words."""
    while True:
        before = newest_step(run)
        moment = rng.choices(list(MOMENTS), MOMENTS.values())[0]
        process = start(training, run)
        try:
            waited = wait_for(moment, process, run, rng, start_seconds)
        finally:
            process.kill()
            process.wait()
        if process.returncode == 0:
            return
        if process.returncode != -9:
            raise SystemExit(f"error: it failed by itself, see {output_of(run)}")
        yield f"while {moment} ({waited}); checkpoint {before} before, {newest_step(run)} now"


def wait_for(
    moment: str,
    process: subprocess.Popen,
    run: RunDirectory,
    rng: random.Random,
    start_seconds: float,
) -> str:
    """Returns at a random moment of the given kind, or when the process has ended."""
    if moment == "starting":
        return _wait(process, rng.uniform(0, start_seconds))
    size, names = _size(run.metrics), set(_names(run.checkpoints))
    if moment == "training":
        while process.poll() is None and _size(run.metrics) <= size:
            time.sleep(0.01)
        return "after its first step " + _wait(process, rng.uniform(0, 3.0))
    while process.poll() is None and not any(
        "tmp" in name for name in set(_names(run.checkpoints)) - names
    ):
        time.sleep(0.0005)
    return "after it began " + _wait(process, rng.uniform(0, 0.15))


def _wait(process: subprocess.Popen, seconds: float) -> str:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"{seconds:.3f} s"
    return "the end"


def _names(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def newest_step(run: RunDirectory) -> int:
    """0 if there is none."""
    return max(checkpoint.steps(run.checkpoints), default=0)


def first_difference(one: RunDirectory, other: RunDirectory) -> str | None:
    """The first thing that is not the same in two finished runs; None if there is none."""
    step = newest_step(one)
    if newest_step(other) != step:
        return f"newest checkpoint: {step} and {newest_step(other)}"
    ours, theirs = (checkpoint.load_trees(run.checkpoints, step) for run in (one, other))
    ours, theirs = (dict(jax.tree_util.tree_flatten_with_path(tree)[0]) for tree in (ours, theirs))
    for path in ours.keys() | theirs.keys():
        if path not in ours or path not in theirs or not _same(ours[path], theirs[path]):
            return f"step {step}, {jax.tree_util.keystr(path)} differs"
    for our, their in zip(metrics(one), metrics(other), strict=True):
        if our != their:
            return f"metrics: {our} and {their}"
    return None


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def metrics(run: RunDirectory) -> list[dict]:
    """The lines of the log without times."""
    lines = map(json.loads, run.metrics.read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


if __name__ == "__main__":
    sys.exit(main())
