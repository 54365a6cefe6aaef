r"""Kills a program again and again, and compares it with a call that nobody disturbed.

    python scripts/kill_and_resume.py train.py --config=configs/tiny.py:smoke --data.folder=DIR \
        --workdir=runs/kills --kills=20
    python scripts/kill_and_resume.py generate --workdir=DIR --images=2000,8000 --kills=10
    python scripts/kill_and_resume.py eval --workdir=DIR --images=2000,8000 --kills=10

SIGKILL comes at moments drawn from --seed: while the program starts, while it works, or in the
middle of writing. It is started again each time, and runs to its end after the last kill. Then all
has to be the same, bit by bit. Of a training these are the arrays of its newest checkpoint and the
lines of its log, but times and memory; every other flag goes to it. Of eval.py it is what it
measured, of `gpstoken generate` every image and every shard of tokens: of random weights of the
smoke configurations and random images, as it is the program around the model that is tried; the
peak memory of each number of --images is measured, too. The exit code is 0 if all was the same.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gpstoken_jax.configs import sit_tiny, tiny  # noqa: E402
from gpstoken_jax.generation import sit  # noqa: E402
from gpstoken_jax.generation.layouts import Layouts, write_layouts  # noqa: E402
from gpstoken_jax.model.gpstoken import GPSToken, init_params  # noqa: E402
from gpstoken_jax.runtime import checkpoint  # noqa: E402
from gpstoken_jax.runtime.files import TEMPORARY_SUFFIX  # noqa: E402
from gpstoken_jax.runtime.run_directory import RunDirectory, write_config  # noqa: E402
from gpstoken_jax.training.metric_log import MEASURED, read_metrics  # noqa: E402

MOMENTS = {"starting": 1, "working": 2, "saving": 2}  # and how often of five


@dataclass(frozen=True)
class Program:
    """A program that is killed, and how to look at what it leaves in its directory.

    Attributes:
      arguments: of the command, after Python's name.
      progress: a number that grows while it works.
      outcome: all that has to be the same, by name.
      describe: how far it has come, in words.
      unfinished: the pattern of what is there only while it is written.
    """

    arguments: Callable[[Path], list[str]]
    progress: Callable[[Path], int]
    outcome: Callable[[Path], dict[str, Any]]
    describe: Callable[[Path], str]
    unfinished: str = f"**/.*{TEMPORARY_SUFFIX}"

    def is_saving(self, directory: Path) -> bool:
        """Tells whether it is writing right now."""
        return any(directory.glob(self.unfinished))


def training(program: str, flags: list[str]) -> Program:
    """``train.py``, or a program with its flags."""

    def outcome(directory: Path) -> dict[str, Any]:
        run = RunDirectory(directory)
        step = checkpoint.latest_step(run.checkpoints)
        trees = checkpoint.load_trees(run.checkpoints, step)
        lines = [
            {key: value for key, value in line.items() if key not in MEASURED}
            for line in read_metrics(run.metrics)
        ]
        return {"step": step, "log": lines} | {
            jax.tree_util.keystr(path): (x.shape, x.dtype, x.tobytes())
            for path, x in jax.tree_util.tree_flatten_with_path(trees)[0]
        }

    def describe(directory: Path) -> str:
        steps = checkpoint.steps(RunDirectory(directory).checkpoints)
        return f"checkpoint {max(steps, default=0)}"

    return Program(
        lambda directory: [str(ROOT / program), *flags, f"--workdir={directory}"],
        lambda directory: _size(RunDirectory(directory).metrics),
        outcome,
        describe,
        "checkpoints/*tmp*",
    )


def evaluation(inputs: Path, count: int) -> Program:
    """``eval.py`` on so many random images."""
    if not (images := inputs / str(count)).exists():
        write_images(images, count)
    flags = [f"--checkpoint={inputs / 'tokenizer'}", f"--data.folder={images}"]
    flags += ["--eval.batch_size=16", "--report_images=8"]
    flags += ["--nolpips", "--nofrechet", "--baselines=bicubic"]

    def progress(directory: Path) -> int:
        return sum(map(_size, directory.glob(".gpstoken-progress/rows-*.jsonl")))

    def outcome(directory: Path) -> dict[str, Any]:
        found = json.loads((directory / "metrics.json").read_text())
        return {name: found[name] for name in ("images", "metrics", "protocol")}

    return Program(
        lambda directory: [str(ROOT / "eval.py"), *flags, f"--output={directory}"],
        progress,
        outcome,
        lambda directory: f"{progress(directory)} bytes of numbers",
    )


def generation(inputs: Path, count: int) -> Program:
    """``gpstoken generate``, so many images of two classes."""
    flags = [f"--generator={inputs / 'generator'}", f"--tokenizer={inputs / 'tokenizer'}"]
    flags += [f"--layouts={inputs / 'layouts.safetensors'}", f"--count={count // 2}"]
    flags += ["--steps=2", "--method=ode_euler", "--guidance_scale=1", "--batch_size=16"]

    def outcome(directory: Path) -> dict[str, Any]:
        # How fast it was is in generation.json, and so the checksum of that in the manifest.
        skipped = {directory / "generation.json", directory / "manifest.json"}
        files = {path for path in directory.rglob("*") if path.is_file()} - skipped
        return {str(p.relative_to(directory)): sha256(p.read_bytes()).digest() for p in files}

    return Program(
        lambda directory: ["-m", "gpstoken_jax", "generate", *flags, f"--output={directory}"],
        lambda directory: _size(directory / "journal-00000.txt"),
        outcome,
        lambda directory: f"{sum(1 for _ in directory.glob('*/*.png'))} images",
    )


def main() -> int:
    """Runs undisturbed, kills, compares; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run, too
    arguments, others = _parse()
    workdir = arguments.workdir
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    kinds = {"eval": evaluation, "generate": generation}
    if (kind := kinds.get(arguments.program)) is None:
        program, label = training(arguments.program, others), ""
    else:
        if others:
            raise SystemExit(f"error: {others[0]} is no flag of {arguments.program} here")
        write_inputs(workdir)
        program, *larger = (kind(workdir, int(n)) for n in arguments.images.split(","))
        if larger:  # compiling takes memory of its own
            run_whole(kind(workdir, 16), workdir / "of_16")
        for more, count in zip(larger, arguments.images.split(",")[1:], strict=True):
            _, memory = run_whole(more, workdir / f"of_{count}")
            print(f"{count} images: peak memory {memory:.0f} MB", flush=True)
        label = f"{arguments.images.split(',')[0]} images, "
    began = time.monotonic()
    start_seconds, memory = run_whole(program, workdir / "undisturbed")
    seconds = time.monotonic() - began
    print(f"undisturbed: {label}{seconds:.0f} s, peak memory {memory:.0f} MB", flush=True)
    working = min(3.0, (seconds - start_seconds) / 2)
    rng = random.Random(arguments.seed)
    return kill_often(program, workdir, arguments.kills, rng, start_seconds, working)


def kill_often(
    program: Program,
    workdir: Path,
    wanted: int,
    rng: random.Random,
    start_seconds: float,
    working_seconds: float,
) -> int:
    """Kills until there were enough, begins anew where it was finished before; the exit code."""
    kills = rounds = same = 0
    directory, began = workdir / "killed", time.monotonic()
    while kills < wanted:
        rounds += 1
        shutil.rmtree(directory, ignore_errors=True)
        for moment in kill_until_finished(program, directory, rng, start_seconds, working_seconds):
            kills += 1
            eta = (time.monotonic() - began) / kills * (wanted - kills)
            print(f"[{kills}/{wanted}] killed {moment}  ETA {eta:.0f} s", flush=True)
            if kills == wanted:
                break
        run_whole(program, directory)
        difference = compare(program, workdir / "undisturbed", directory)
        same += difference is None
        print(f"run {rounds}, {kills} kills so far: {difference or 'the same bits'}", flush=True)
    print(f"{kills} kills in {rounds} run(s); {same} of them the same as undisturbed, to the bit")
    return 0 if same == rounds else 1


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", help="train.py or one with its flags, eval, or generate")
    parser.add_argument("--workdir", type=Path, required=True, help="emptied first")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", default="2000", help="the first number is the one with kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_known_args()


def start(program: Program, directory: Path) -> subprocess.Popen:
    """Starts (or resumes) a call; what it prints goes into a file beside its directory."""
    command = [sys.executable, *program.arguments(directory)]
    with directory.with_suffix(".txt").open("a") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)


def run_whole(program: Program, directory: Path) -> tuple[float, float]:
    """Runs to the end; the seconds until it began to work, and the peak of its memory in MB.

    Raises:
      SystemExit: with the program's last words, if it fails.
    """
    before, begun, first = program.progress(directory), time.monotonic(), None
    process = start(program, directory)
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if first is None and program.progress(directory) > before:
                first = time.monotonic()
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        process.kill()
    if process.returncode:
        last = directory.with_suffix(".txt").read_text().splitlines()[-5:]
        last.append(f"error: {directory} ended with exit code {process.returncode}")
        raise SystemExit("\n".join(last))
    return (first or time.monotonic()) - begun, usage.ru_maxrss / 1024


def kill_until_finished(
    program: Program, directory: Path, rng: random.Random, start_seconds: float, working: float
) -> Iterator[str]:
    """Starts and kills, until it is finished before its kill; yields the moments in words."""
    while True:
        before = program.describe(directory)
        moment = rng.choices(list(MOMENTS), MOMENTS.values())[0]
        process = start(program, directory)
        try:
            if moment == "starting":
                waited = _wait(process, rng.uniform(0, start_seconds))
            else:
                waited = wait_for(moment, process, program, directory, rng, working)
        finally:
            process.kill()
            process.wait()
        if process.returncode == 0:
            return
        if process.returncode != -9:
            raise SystemExit(f"error: it failed by itself, see {directory.with_suffix('.txt')}")
        yield f"while {moment} ({waited}); {before} before, {program.describe(directory)} now"


def wait_for(
    moment: str,
    process: subprocess.Popen,
    program: Program,
    directory: Path,
    rng: random.Random,
    seconds: float,
) -> str:
    """Returns at a random moment of the given kind, or when the process has ended."""
    size, at_once = program.progress(directory), moment == "saving" and rng.random() < 0.3
    while process.poll() is None and program.progress(directory) <= size:
        if at_once and program.is_saving(directory):
            return "as it began"
        time.sleep(0.002)
    if moment == "working":
        return "after it began " + _wait(process, rng.uniform(0, seconds))
    while process.poll() is None and not program.is_saving(directory):
        time.sleep(0.0005)
    return "after it began " + _wait(process, rng.uniform(0, 0.15))


def _wait(process: subprocess.Popen, seconds: float) -> str:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"{seconds:.3f} s"
    return "the end"


def compare(program: Program, one: Path, other: Path) -> str | None:
    """The first thing that is not the same in two finished calls; None if there is none."""
    ours, theirs = program.outcome(one), program.outcome(other)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            return f"{name} is in one of them only"
        if ours[name] != theirs[name]:
            return f"{name} differs"
    return None


# ---- Inputs that cost nothing -------------------------------------------------------------------


def write_inputs(directory: Path) -> None:
    """A tokenizer's and a generator's run with random weights, and layouts of two classes."""
    config = tiny.get_config("smoke")
    _write_run(
        directory / "tokenizer", config, lambda key: init_params(GPSToken(config.model), key)
    )
    texture, tokens = sit_tiny.get_config("smoke"), 6
    channels = 5 + config.model.feature_channels
    texture.model.update(num_tokens=tokens, channels=channels, num_classes=2)
    texture.label_names = "cat", "dog"
    texture.statistics.update(mean=(0.0,) * channels, std=(0.02,) * 5 + (1.0,) * (channels - 5))
    model = sit.create_sit(texture.model)
    _write_run(directory / "generator", texture, lambda key: sit.init_params(model, key))
    geometry = np.random.default_rng(0).uniform(0.1, 0.8, (10, tokens, 5)).astype(np.float32)
    label, size = np.arange(10, dtype=np.int32) % 2, config.model.image_size
    layouts = Layouts(geometry, label, texture.label_names, size)
    write_layouts(directory / "layouts.safetensors", layouts)


def _write_run(directory: Path, config: ConfigDict, init: Any) -> None:
    run, rng = RunDirectory(directory), np.random.default_rng(0)
    directory.mkdir()
    write_config(run, config)
    shapes = jax.eval_shape(init, jax.random.key(0))
    params = jax.tree.map(lambda s: 0.1 * rng.standard_normal(s.shape, np.float32), shapes)
    with checkpoint.Checkpoints(run.checkpoints, keep=1) as checkpoints:
        checkpoints.save(1, {"ema_params": params}, {})


def write_images(directory: Path, count: int) -> None:
    """Random images, so small that the model is fast."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(directory / f"{i:06d}.png")


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


if __name__ == "__main__":
    sys.exit(main())
