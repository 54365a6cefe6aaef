"""Programs that are killed while they write to a bucket, and called again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.runtime import buckets, checkpoint, run_directory
from gpstoken_jax.runtime.buckets import file_system
from gpstoken_jax.runtime.lease import LeaseError
from gpstoken_jax.runtime.run_directory import RunDirectory
from gpstoken_jax.tokens import open_tokens
from gpstoken_jax.training.metric_log import MEASURED
from tests import emulators, forked

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["s3"])
def bucket(request):
    with emulators.bucket(request.param) as url:
        yield url


@pytest.mark.parametrize(
    "bucket", [pytest.param("s3", marks=pytest.mark.slow), "gs"], indirect=True
)
def test_encode_goes_on_where_it_was_killed(bucket, random_run, program, env, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{i}.png")
    flags = [f"--checkpoint={random_run}", f"--data.folder={tmp_path / 'photos'}"]
    flags += ["--batch_size=1", "--shard_size=1"]
    output = f"{bucket}/tokens"
    code = (
        "import runpy, sys, time; from gpstoken_jax.runtime import mirror\n"
        "mirror.PAUSE, mirror.SPARING = 0.05, 1\n"
        "from gpstoken_jax.tokens import TokenWriter; write = TokenWriter.write\n"
        "TokenWriter.write = lambda *a: (write(*a), time.sleep(1))\n"
        "runpy.run_module('gpstoken_jax.programs.encode', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *flags, f"--output={output}"]
    process = forked.Program(command, cwd=ROOT, env={**env, **os.environ})
    files = file_system(output)
    while not any(name.endswith(".safetensors") for name in files.find(output)):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    there = emulators.contents(output)
    shards = {name: data for name, data in there.items() if name.startswith("tokens-")}
    assert 1 <= len(shards) < 3
    assert f"{len(shards)} of 3 shards are there" in program("encode", *flags, f"--output={output}")
    program("encode", *flags, f"--output={tmp_path / 'local'}")
    made = emulators.contents(output)
    assert {path.name for path in (tmp_path / "local").iterdir()} == made.keys()
    assert shards.items() <= made.items()
    for ours, theirs in zip(open_tokens(output), open_tokens(tmp_path / "local"), strict=True):
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)


# ---- Training -----------------------------------------------------------------------------------

TOY = ["--config=tests/toy_training.py", "--config.checkpoint.best_metric=val_step"]
TOY += ["--config.toy.held_out=True", "--config.checkpoint.keep=2"]


@pytest.fixture
def toy(env, started):
    """Starts the toy training; what is still running at the end is killed."""

    def start(workdir, *flags):
        started.append(_start(env, workdir, *flags))
        return started[-1]

    return start


def _start(env, workdir, *flags):
    code = (
        "import runpy; from gpstoken_jax.runtime import mirror\n"
        "mirror.PAUSE, mirror.SPARING = 0.05, 1\n"
        "runpy.run_path('tests/toy_training.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *TOY, f"--workdir={workdir}", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return forked.Program(command, cwd=ROOT, env={**env, **os.environ}, **pipes)


def finish(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def trees(run):
    """Checksums of all that a run has: the newest checkpoints, the best, the log."""
    found = {}
    for place in (RunDirectory(run), RunDirectory(run / "best")):
        for step in checkpoint.steps(place.checkpoints):
            loaded = checkpoint.load_trees(place.checkpoints, step)
            found[place.root.name == "best", step] = {
                name: checkpoint.checksum(tree) for name, tree in loaded.items()
            }
    lines = map(json.loads, RunDirectory(run).metrics.read_text().splitlines())
    return found, [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bits(bucket, toy, tmp_path):
    run = f"{bucket}/run"
    undisturbed = toy(tmp_path / "local")
    files = file_system(run)
    for step in (4, 8):
        process = toy(run, f"--config.toy.waits_at={step + 3}")
        while f"bucket/run/checkpoints/{step}/manifest.json" not in files.find(run):
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)  # the emulator is in this process: it has copies to take, too
        if step == 4:
            with pytest.raises(LeaseError, match=f"{run} is in use by process {process.pid} on "):
                run_directory.open_place_of_run(run)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    out, _ = finish(toy(run))
    assert f"results: {run}" in out
    assert "resuming after step 8" in out
    finish(undisturbed)
    assert trees(buckets.fetch(run)) == trees(tmp_path / "local")
    there = emulators.contents(run)
    assert {"config.json", "metrics.jsonl", "parameters.txt"} <= there.keys()
    assert {name.split("/")[1] for name in there if name.startswith("checkpoints/")} == {"8", "12"}
    assert not [name for name in there if "lease" in name or "tmp" in name]


def test_a_training_that_is_told_to_stop_leaves_everything_in_the_bucket(bucket, toy):
    run = f"{bucket}/stopped"
    process = toy(run, "--config.toy.seconds=0.3", "--config.checkpoint.every_steps=1000")
    files = file_system(run)
    while "bucket/stopped/metrics.jsonl" not in files.find(run):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.terminate()
    out, _ = finish(process, 75)
    assert "stopped and saved after step" in out
    assert len(checkpoint.steps(RunDirectory(buckets.fetch(run)).checkpoints)) == 1
    with run_directory.open_place_of_run(run) as place:  # which is free
        assert RunDirectory(place.directory).metrics.is_file()
