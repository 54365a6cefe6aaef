"""Survival of a training run, as a user meets it: through programs, signals and exit codes."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gpstoken_jax.runtime import checkpoint
from gpstoken_jax.runtime.run_directory import RunDirectory
from gpstoken_jax.training.metric_log import MEASURED
from tests import forked
from tests.kills import kill_and_resume

ROOT = Path(__file__).parents[2]


@pytest.fixture
def toy(env, started):
    """Starts the training of tests/toy_training.py; what is still running at the end is killed."""

    def start(workdir, *more, prefix=(), **options):
        program = [sys.executable, "tests/toy_training.py", "--config=tests/toy_training.py"]
        command = [*prefix, *program, f"--workdir={workdir}", *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = forked.Program(command, cwd=ROOT, env=env, **pipes, **options)
        started.append(process)
        return process

    return start


def _finish(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def _wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _lines(workdir):
    lines = map(json.loads, RunDirectory(workdir).metrics.read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def _steps(workdir):
    return sorted(checkpoint.steps(RunDirectory(workdir).checkpoints))


def _trees(workdir, step):
    trees = checkpoint.load_trees(RunDirectory(workdir).checkpoints, step)
    return {name: checkpoint.checksum(tree) for name, tree in trees.items()}


@pytest.fixture(scope="module")
def undisturbed(env, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    program = [sys.executable, "tests/toy_training.py", "--config=tests/toy_training.py"]
    forked.run([*program, f"--workdir={workdir}"], cwd=ROOT, env=env).check_returncode()
    return workdir


# ---- Where nothing can be written ----


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB; skipped where this user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def _fill(disk, leave):
    """Fills a disk but for some bytes; what a run writes meanwhile may take the last of them."""
    free = shutil.disk_usage(disk).free
    try:
        (disk / "filler").write_bytes(b"x" * max(free - leave, 0))
    except OSError as error:
        if error.errno != errno.ENOSPC or leave:
            raise


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_it_goes_on_later(
    toy, undisturbed, small_disk
):
    workdir = small_disk / "run"
    process = toy(workdir, "--config.toy.seconds=0.3", "--config.checkpoint.keep=2")
    _wait_for(lambda: 4 in _steps(workdir), process)
    _fill(small_disk, 0)
    _, err = _finish(process, 1)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in err
    assert "could not be written" in lines[0] and "step 4 is the newest complete one" in lines[0]
    (small_disk / "filler").unlink()
    _finish(toy(workdir, "--config.checkpoint.keep=2"))
    assert _trees(workdir, 12) == _trees(undisturbed, 12)


def test_a_disk_that_is_full_for_a_while_costs_lines_of_the_log(toy, small_disk):
    workdir = small_disk / "run"
    flags = "--config.toy.seconds=0.02", "--config.checkpoint.every_steps=0"
    process = toy(workdir, *flags, "--config.train.steps=300")
    _wait_for(lambda: (workdir / "metrics.jsonl").exists() and _lines(workdir), process)
    _fill(small_disk, 0)
    time.sleep(3)
    (small_disk / "filler").unlink()
    out, err = _finish(process)
    assert "done: 300 steps" in out
    for part in ("metrics.jsonl", "tensorboard"):
        assert err.count(f"the log goes on without {part}") == 1
        assert f"entries of {part} that were not written" in err
    steps = [line["step"] for line in _lines(workdir)]
    assert steps == sorted(set(steps)) and len(steps) < 300


def test_a_disk_too_small_for_a_checkpoint_is_refused_at_the_start(toy, small_disk):
    _fill(small_disk, 100_000)
    _, err = _finish(toy(small_disk / "run", "--config.model.width=200000"), 1)
    assert "a checkpoint takes" in err and "are free in" in err
    assert os.listdir(small_disk) == ["filler"]


@pytest.mark.parametrize("part", ["metrics.jsonl", "tensorboard", "samples"])
def test_a_log_that_cannot_be_written_does_not_stop_the_run(toy, undisturbed, tmp_path, part):
    """A directory where a file should be, and the other way round, is an error for root, too."""
    if part == "metrics.jsonl":
        (tmp_path / part).mkdir()
    else:
        (tmp_path / part).write_text("in the way")
    out, err = _finish(toy(tmp_path))
    if part != "samples":  # this run draws no pictures
        assert err.count(f"the log goes on without {part}") == 1
        assert f"entries of {part} that were not written" in err
    assert "done: 12 steps" in out
    assert _trees(tmp_path, 12) == _trees(undisturbed, 12)


# ---- Starts that are refused ----


def _snapshot(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--config.checkpoint.best_metric=psnr", "--config.toy.held_out=True"], "is none of"),
        (["--config.log.every_steps=-1"], "log.every_steps is -1"),
        (["--config.checkpoint.every_steps=-4"], "checkpoint.every_steps is -4"),
        (["--config.checkpoint.keep=-1"], "checkpoint.keep is -1"),
        (["--config.train.batch_size=3", "--config.model.width=5"], "another model"),
        (["--config.task=nothing"], "config.task must be one of"),
    ],
)
def test_a_refused_start_changes_nothing(toy, finished, flags, said):
    before = _snapshot(finished)
    _, err = _finish(toy(finished, *flags), 1)
    assert said in err and len(err.strip().splitlines()) == 1
    assert _snapshot(finished) == before


@pytest.mark.parametrize(
    "flags",
    [
        ["--config.log.every_steps=-1"],
        ["--config.checkpoint.best_metric=psnr", "--config.toy.held_out=True"],
        ["--config.task=nothing"],
    ],
)
def test_a_refused_start_leaves_no_directory(toy, tmp_path, flags):
    _finish(toy(tmp_path / "a" / "b", *flags), 1)
    assert not list(tmp_path.iterdir())


def test_mistakes_of_the_config_come_all_at_once_a_line_each(toy, tmp_path):
    flags = ["--config.log.every_steps=-1", "--config.ema.decay=2", "--config.train.steps=0"]
    _, err = _finish(toy(tmp_path / "run", *flags), 1)
    lines = err.strip().splitlines()
    assert [line.split()[1] for line in lines] == [
        "config.ema.decay", "config.log.every_steps", "config.train.steps",
    ]  # fmt: skip
    assert all(line.startswith("error: ") for line in lines)


def test_a_run_in_a_directory_of_any_name(toy, undisturbed, tmp_path):
    """With all that shells, globs, URLs and file systems find odd."""
    workdir = tmp_path / "a [1]*?\n\\'\"{x} %20$HOME;#&é🎈~" / ("[" * 255)
    _finish(toy(workdir, "--config.train.steps=4"))
    out, err = _finish(toy(workdir))
    assert "resuming after step 4" in out and not err
    assert _trees(workdir, 12) == _trees(undisturbed, 12)
    assert _lines(workdir) == _lines(undisturbed)


def test_a_second_training_with_another_config_leaves_the_first_ones(toy, tmp_path):
    process = toy(tmp_path, "--config.toy.seconds=0.5")
    _wait_for(lambda: (tmp_path / "config.json").exists(), process)
    before = (tmp_path / "config.json").read_bytes()
    _, err = _finish(toy(tmp_path, "--config.train.steps=99", "--config.model.width=5"), 1)
    assert "another process is training" in err
    assert (tmp_path / "config.json").read_bytes() == before


def test_intervals_of_0_are_never(toy, tmp_path):
    never = ["log.every_steps", "log.images_every_steps", "checkpoint.every_steps"]
    out, _ = _finish(toy(tmp_path, *(f"--config.{name}=0" for name in never)))
    assert "done: 12 steps" in out and "step 12/12" not in out
    assert _steps(tmp_path) == [12]
    assert not _lines(tmp_path)


def test_a_run_that_is_done_says_so(toy, finished):
    before = _trees(finished, 12)
    for steps in (12, 5):
        out, _ = _finish(toy(finished, f"--config.train.steps={steps}"))
        assert "nothing to do" in out and "12 steps are done" in out
    assert _trees(finished, 12) == before


# ---- The best checkpoint ----


def test_the_best_checkpoint_belongs_to_the_history_of_the_run(toy, tmp_path):
    best = RunDirectory(RunDirectory(tmp_path).best)
    held_out = "--config.toy.held_out=True", "--config.checkpoint.best_metric=val_step"
    _finish(toy(tmp_path, *held_out))
    assert checkpoint.steps(best.checkpoints) == [12]
    for step in (8, 12):  # the run goes on from step 4
        shutil.rmtree(RunDirectory(tmp_path).checkpoints / str(step))
    out, _ = _finish(toy(tmp_path, *held_out, "--config.train.steps=6"))
    assert f"dropping {best.checkpoints / '12'}: the run goes on from step 4" in out
    assert checkpoint.steps(best.checkpoints) == [6]


def test_a_run_saves_before_it_evaluates(toy, tmp_path):
    process = toy(tmp_path, "--config.toy.held_out=True", "--config.toy.evaluation_fails=True")
    _, err = _finish(process, 1)
    assert "the evaluation failed" in err
    assert _steps(tmp_path) == [4]


# ---- Signals ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_75_and_the_run_goes_on(toy, undisturbed, tmp_path, number):
    process = toy(tmp_path, "--config.toy.seconds=0.5")
    _wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and _lines(tmp_path), process)
    process.send_signal(number)
    out, _ = _finish(process, 75)
    saved = _steps(tmp_path)[-1]
    assert 1 <= saved < 12
    assert number.name in out and f"saved after step {saved}" in out
    out, _ = _finish(toy(tmp_path))
    assert f"resuming after step {saved}" in out
    assert _lines(tmp_path) == _lines(undisturbed)
    assert _trees(tmp_path, 12) == _trees(undisturbed, 12)


def test_a_second_signal_exits_at_once(toy, tmp_path):
    process = toy(tmp_path, "--config.toy.seconds=600")
    _wait_for(lambda: _listens_to(process.pid, signal.SIGTERM), process)
    process.send_signal(signal.SIGTERM)
    while "once more stops at once" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    process.send_signal(signal.SIGTERM)
    _finish(process, 128 + signal.SIGTERM)


def _listens_to(pid, number):
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_killed_at_random_moments_it_ends_with_the_same_bits(monkeypatch, capsys, tmp_path):
    """The script that users can run; the tokenizer's own test is in test_train_eval.py."""
    run = ["--config=tests/toy_training.py", "--config.model.width=200000"]
    run += ["--config.train.steps=40", "--config.toy.seconds=0.05"]
    flags = f"--workdir={tmp_path}", "--kills=3", *run
    code = kill_and_resume(monkeypatch, "tests/toy_training.py", *flags)
    said = capsys.readouterr().out
    assert code == 0, said
    assert "[3/3] killed while" in said and "the same bits" in said


def test_two_processes_do_not_train_in_one_directory(toy, tmp_path):
    first = toy(tmp_path, "--config.toy.seconds=600")
    _wait_for(lambda: _listens_to(first.pid, signal.SIGTERM), first)
    _, err = _finish(toy(tmp_path), 1)
    assert "another process is training in" in err


# ---- Damage, another config ----


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of a finished run, to do things to."""
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(
    toy, undisturbed, finished
):
    for file in (finished / "checkpoints" / "12" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:5])
    out, err = _finish(toy(finished))
    assert "resuming after step 8" in out
    assert "checkpoints/12/params/" in err
    assert (finished / "checkpoints" / "12.damaged").is_dir()
    assert _lines(finished) == _lines(undisturbed)
    assert _trees(finished, 12) == _trees(undisturbed, 12)


def test_a_config_that_does_not_fit_is_named_and_changes_nothing(toy, finished):
    before = (finished / "config.json").read_text()
    _, err = _finish(toy(finished, "--config.model.width=9"), 1)
    assert "error: " in err and "model.width was 8 and is now 9" in err
    out, err = _finish(toy(finished, "--config.optimizer.momentum=0.9"), 1)
    assert "config.optimizer.momentum was 0.0 and is now 0.9" in out
    assert "12/optimizer cannot be read with this config: opt_state/0/trace" in err
    assert "Traceback" not in err
    assert (finished / "config.json").read_text() == before
    assert _steps(finished) == [4, 8, 12]


def test_a_config_that_fits_is_taken_and_what_is_new_is_said(toy, finished):
    changes = ["--config.optimizer.learning_rate=0.01", "--config.train.steps=14"]
    out, _ = _finish(toy(finished, *changes, "--config.train.batch_size=6"))
    assert "config.optimizer.learning_rate was 0.5 and is now 0.01" in out
    assert "config.train.batch_size was 4 and is now 6" in out
    assert "resuming after step 12" in out
    assert json.loads((finished / "config.json").read_text())["train"]["steps"] == 14
    assert _steps(finished)[-1] == 14


# ---- Disks ----


def test_a_full_disk_is_one_line_and_costs_nothing_that_was_saved(toy, tmp_path):
    """Files may not grow beyond 256 KiB: to whom it happens that is a full disk, also to root."""
    large = "--config.model.width=200000"
    _finish(toy(tmp_path, large, "--config.train.steps=4"))
    before = _trees(tmp_path, 4)
    process = toy(tmp_path, large, "--config.toy.seconds=0.05")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (256 << 10, 256 << 10))
    _, err = _finish(process, 1)
    assert "error: a checkpoint of 2 MiB could not be written" in err
    assert "(step 4 is the newest complete one)" in err
    assert "Traceback" not in err
    assert _steps(tmp_path) == [4] and _trees(tmp_path, 4) == before
    out, _ = _finish(toy(tmp_path, large))
    assert "resuming after step 4" in out
    assert _steps(tmp_path) == [4, 8, 12]
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"4", "8", "12"}


def test_a_directory_that_cannot_be_written_is_one_line(toy, tmp_path):
    (tmp_path / "file").write_text("")
    _, err = _finish(toy(tmp_path / "file"), 1)
    assert err.strip().splitlines()[-1].startswith("error: ") and str(tmp_path / "file") in err
    assert "Traceback" not in err


def test_a_read_only_directory_is_one_line(toy, finished):
    """Root may write anywhere, unless it gives up that capability."""
    prefix = ()
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root needs setpriv (util-linux) to meet a read-only directory")
        prefix = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")
    before = _trees(finished, 12)
    directories = [finished, *(p for p in finished.rglob("*") if p.is_dir())]
    for directory in directories:
        directory.chmod(0o555)
    try:
        _, err = _finish(toy(finished, "--config.train.steps=16", prefix=prefix), 1)
    finally:
        for directory in directories:
            directory.chmod(0o755)
    assert err.strip().splitlines()[-1].startswith("error: ") and str(finished) in err
    assert "Traceback" not in err
    assert _trees(finished, 12) == before


def test_when_the_data_is_gone_what_was_learnt_is_saved(toy, undisturbed, tmp_path):
    _, err = _finish(toy(tmp_path, "--config.toy.data_ends_at=7"), 1)
    assert "error: the disk with the data is gone" in err and "Traceback" not in err
    assert _steps(tmp_path) == [4, 6]
    _finish(toy(tmp_path))
    assert _lines(tmp_path) == _lines(undisturbed)
    assert _trees(tmp_path, 12) == _trees(undisturbed, 12)


# ---- Losses that are not finite ----


def test_steps_that_are_not_finite_are_skipped_and_counted(toy, tmp_path):
    _, err = _finish(toy(tmp_path, "--config.toy.nan_steps=(3,4,9)"))
    assert "step 3 is skipped: grad_norm is nan, loss is nan" in err
    lines = _lines(tmp_path)
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3]
    assert [line["step"] for line in lines if line["loss"] is None] == [3, 4, 9]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_many_in_a_row_stop_the_run_and_leave_the_batch(toy, tmp_path):
    _, err = _finish(toy(tmp_path, "--config.toy.nan_steps=(2,6,7,8,9,10)"), 1)
    assert "error: 3 steps in a row were not finite; in step 8 grad_norm is nan, loss is nan" in err
    assert "Traceback" not in err
    batch = np.load(tmp_path / "failed_steps" / "8_process_0.npz")
    assert np.isnan(batch["x"]).sum() == 1
    terms = json.loads((tmp_path / "failed_steps" / "8.json").read_text())
    assert terms == {"grad_norm": "nan", "loss": "nan"}
    assert _steps(tmp_path) == [4]


def test_the_count_in_a_row_outlives_a_restart(toy, tmp_path):
    nan = "--config.toy.nan_steps=(7,8,9)"
    _finish(toy(tmp_path, nan, "--config.train.steps=8"))
    _, err = _finish(toy(tmp_path, nan), 1)
    assert "3 steps in a row were not finite; in step 9" in err
