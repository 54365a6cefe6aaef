"""The same training on one device, on several, and in several processes.

Real runs of train.py on virtual CPU devices and over loopback: a tokenizer against a discriminator
whose batch norms see one image a device.
"""

import functools
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from gpstoken_jax.runtime import checkpoint
from gpstoken_jax.runtime.run_directory import RunDirectory
from tests import forked
from tests.smallest import SMALLEST

ROOT = Path(__file__).parents[2]
STEPS = 5


@pytest.fixture(scope="module")
def start(env):
    """Starts a training in one process of some virtual devices."""

    def start(arguments, devices=1, cwd=ROOT):
        flags = f"{env.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        flags = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return forked.Program([sys.executable, *arguments], cwd=cwd, env=env | flags, **pipes)

    return start


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Arguments of a training whose first checkpoint tells the gradients."""
    folder = tmp_path_factory.mktemp("photos")
    photo = photos.astronaut()
    for i in range(8):
        crop = photo[40 * i : 40 * i + 100, 50 * i : 50 * i + 100]
        Image.fromarray(crop).save(folder / f"{i}.png")
    config = SMALLEST | {
        "train.steps": STEPS,
        "optimizer.clip_norm": 0,
        "optimizer.warmup_steps": 40,
        "gan.weight": 0.3,
        "gan.start_step": 0,
        "checkpoint.every_steps": 1,
        "checkpoint.keep": 9,
        "log.images_every_steps": 0,
        "eval.every_steps": 0,
    }
    flags = [f"--config.{name}={value}" for name, value in config.items()]
    return ["train.py", "--config=configs/tiny.py:smoke", f"--data.folder={folder}", *flags]


@pytest.fixture(scope="module")
def runs(start, tokenizer, tmp_path_factory):
    """Directories of the same training by what it ran on."""
    root = tmp_path_factory.mktemp("runs")
    for devices in (1, 4):
        _finish(start([*tokenizer, f"--workdir={root}/{devices}"], devices))
    _finish_all(_in_two_processes(start, [*tokenizer, f"--workdir={root}/2x1"]))
    return root


def _in_two_processes(start, arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [*arguments, f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return [start([*arguments, f"--process_id={i}"]) for i in range(2)]


def _finish(process, code=0):
    try:
        out, err = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == code, out + err
    return out, err


def _finish_all(processes, code=0):
    try:
        return [_finish(process, code) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@functools.cache
def _trees(run, step):
    return checkpoint.load_trees(RunDirectory(run).checkpoints, step)


def _distance(trees, expected):
    """Norm of the difference, relative, over all leaves together."""
    flat, other = (
        np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])
        for tree in (trees, expected)
    )
    return np.linalg.norm(flat - other) / np.linalg.norm(other)


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["4", "2x1"])
def test_the_gradients_are_those_of_one_device(runs, devices):
    """Adam's first moment after one step is a tenth of the gradient."""
    ours, expected = _trees(runs / devices, 1), _trees(runs / "1", 1)
    for network in ("optimizer", "discriminator"):
        moment, other = (trees[network]["opt_state"][0]["mu"] for trees in (ours, expected))
        assert np.linalg.norm(np.concatenate([x.ravel() for x in jax.tree.leaves(other)])) > 1e-3
        assert _distance(moment, other) < 1e-5, network


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["4", "2x1"])
def test_the_parameters_are_those_of_one_device(runs, devices):
    ours, expected = _trees(runs / devices, STEPS), _trees(runs / "1", STEPS)
    assert ours.keys() == expected.keys()
    for name in ours:
        assert _distance(ours[name], expected[name]) < 1e-4, name
    moved = _distance(ours["params"], _trees(runs / devices, 1)["params"])
    assert moved > 1e-3


# ---- What does not depend on the model: the toy task ----

TOY = ["tests/toy_training.py", "--config=tests/toy_training.py"]


@pytest.fixture(scope="module")
def toy_run(start, tmp_path_factory):
    """On one device; a step is skipped."""
    workdir = tmp_path_factory.mktemp("toy")
    _finish(start([*TOY, f"--workdir={workdir}", "--config.toy.nan_steps=(6,)"]))
    return workdir


def _lines(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_goes_on_on_another_number_of_devices_and_processes(start, toy_run, tmp_path):
    """Four devices, then two processes, then one device; a NaN on one device is skipped on all."""
    toy = [*TOY, f"--workdir={tmp_path}", "--config.toy.nan_steps=(6,)"]
    _finish(start([*toy, "--config.train.steps=4"], devices=4))
    results = _finish_all(_in_two_processes(start, [*toy, "--config.train.steps=8"]))
    assert "resuming after step 4" in results[0][0] and "2 process(es)" in results[0][0]
    assert "step" not in results[1][0], "only process 0 prints"
    out, _ = _finish(start(toy))
    assert "resuming after step 8" in out
    assert [line["skipped_steps"] for line in _lines(tmp_path)] == [0] * 5 + [1] * 7
    losses, expected = (
        [(line["step"], line["loss"] or np.nan) for line in _lines(run)]
        for run in (tmp_path, toy_run)
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    ours, expected = _trees(tmp_path, 12), _trees(toy_run, 12)
    assert all(_distance(ours[name], expected[name]) < 1e-5 for name in expected)


def test_a_signal_to_one_process_stops_all_of_them_after_the_same_step(start, tmp_path):
    run = [*TOY, f"--workdir={tmp_path}", "--config.toy.seconds=0.1", "--config.train.steps=1000"]
    processes = _in_two_processes(start, run)
    while not (tmp_path / "checkpoints" / "4").exists():
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    results = _finish_all(processes, 75)
    newest = max(checkpoint.steps(tmp_path / "checkpoints"))
    assert f"saved after step {newest}" in results[0][0]
    assert _lines(tmp_path)[-1]["step"] == newest


def test_when_a_process_is_gone_the_other_ends_and_says_so(start, tmp_path):
    run = [*TOY, f"--workdir={tmp_path}", "--config.toy.seconds=0.1", "--config.train.steps=10000"]
    first, second = _in_two_processes(start, run)
    while not (tmp_path / "checkpoints" / "4").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    second.kill()
    second.communicate()
    _, err = _finish(first, 76)
    assert err.strip().splitlines()[-1] == (
        "process 0: error: another process is gone, look at its messages"
    )
    assert _lines(tmp_path)[-1]["step"] >= 4


def test_what_goes_wrong_in_one_process_is_said_and_ends_both(start, toy_run, tmp_path):
    workdir = shutil.copytree(toy_run, tmp_path / "run")
    other = [*TOY, f"--workdir={workdir}", "--config.model.width=9"]
    for i, (_, err) in enumerate(_finish_all(_in_two_processes(start, other), 1)):
        assert f"process {i}: error: " in err and "model.width was 8 and is now 9" in err
        assert "Traceback" not in err


def test_processes_of_different_configs_do_not_start(start, tmp_path):
    run = [*TOY, f"--workdir={tmp_path}"]
    processes = _in_two_processes(lambda args: start([*args, f"--config.seed={args[-1][-1]}"]), run)
    try:
        _, err = _finish(processes[1], 1)
    finally:
        processes[0].kill()
        processes[0].communicate()
    assert (
        "process 1: error: the config is not the same as that of process 0: the config.seed was 0 "
        "and is now 1 here"
    ) in err


def test_processes_with_other_data_under_the_same_path_do_not_start(start, tokenizer, tmp_path):
    folders = [tmp_path / "0", tmp_path / "1"]
    photo = photos.astronaut()
    for folder, size in zip(folders, (60, 61), strict=True):
        (folder / "data").mkdir(parents=True)
        for i in range(6):
            Image.fromarray(photo[:size, :60]).save(folder / "data" / f"{i}.png")
    # The same path from two working directories.
    arguments = [str(ROOT / "train.py"), f"--config={ROOT}/configs/tiny.py:smoke"]
    arguments += ["--data.folder=data", f"--workdir={tmp_path / 'run'}"]
    places = iter(folders)
    first, second = _in_two_processes(lambda a: start(a, cwd=next(places)), arguments)
    try:
        _, err = _finish(second, 1)
    finally:
        first.kill()
        first.communicate()
    assert "process 1: error: the data is not the same as that of process 0: the data.files" in err
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_port_that_is_taken_is_one_line(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = [*TOY, f"--workdir={tmp_path}", f"--coordinator=127.0.0.1:{port}"]
        _, err = _finish(start([*run, "--num_processes=2", "--process_id=0"]), 1)
    assert f"error: cannot listen on port {port}" in err and "Traceback" not in err


def test_killed_while_saving_all_end_and_the_same_command_goes_on(start, toy_run, tmp_path):
    """Process 0, which writes, is killed in the middle of it."""
    run = [*TOY, f"--workdir={tmp_path}", "--config.toy.nan_steps=(6,)"]
    large = ["--config.model.width=2000000", "--config.train.steps=8"]
    first, second = _in_two_processes(start, [*run, *large])
    directory = tmp_path / "checkpoints"
    while not any(directory.glob("8*tmp*")) if directory.is_dir() else True:
        assert first.poll() is None, first.communicate()
        time.sleep(0.001)
    first.kill()
    first.communicate()
    _finish(second, 76)
    assert max(checkpoint.steps(directory)) == 4
    results = _finish_all(_in_two_processes(start, [*run, *large]))
    assert "resuming after step 4" in results[0][0]
    assert sorted(path.name for path in directory.iterdir()) == ["4", "8"]
