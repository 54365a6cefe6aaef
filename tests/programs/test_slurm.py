"""The batch scripts of scripts/cluster under stand-ins of srun and scontrol."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Starts two tasks on this host with the variables that srun gives them, hands signals on, and ends
# with the largest code.
SRUN = """
import os, signal, subprocess, sys
command = sys.argv[2:]
assert sys.argv[1] == "--kill-on-bad-exit=1"
step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
tasks = [
    subprocess.Popen(command, env={**os.environ, **step, "SLURM_PROCID": i, "SLURM_LOCALID": "0"})
    for i in "01"
]
signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in tasks])
open(os.environ["SRUN_PID"], "w").write(str(os.getpid()))
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.fixture
def submit(tmp_path, env, started):
    """Runs a batch script as a job of two tasks; returns its process."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "srun": f"#!{sys.executable}\n{SRUN}",
        "scontrol": f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol.txt\n',
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    job = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "TRAIN": "tests/toy_training.py",
        "SRUN_PID": str(tmp_path / "srun.pid"),
        "SLURM_JOB_ID": "77",
    }

    def submit(script, *arguments, **variables):
        with open(tmp_path / "slurm.out", "a") as output:
            process = subprocess.Popen(
                ["bash", str(ROOT / "scripts/cluster" / script), *arguments],
                cwd=ROOT,
                env={**env, **job, **variables},
                stdout=output,
                stderr=output,
            )
        started.append(process)
        return process

    return submit


@pytest.mark.slow
def test_a_preempted_training_is_queued_again_and_goes_on(submit, tmp_path):
    run = tmp_path / "run"
    arguments = ["--config=tests/toy_training.py", f"--workdir={run}", "--config.train.steps=60"]
    job = submit("train.sbatch", *arguments, "--config.toy.seconds=0.1")
    out = tmp_path / "slurm.out"
    deadline = time.monotonic() + 120
    while "step 8/" not in out.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGTERM)
    assert job.wait(60) == 75, out.read_text()
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 77\n"
    stopped = int(re.search(r"saved after step (\d+)", out.read_text())[1])
    again = submit("train.sbatch", *arguments, SLURM_RESTART_COUNT="1")
    assert again.wait(120) == 0, out.read_text()
    assert f"resuming after step {stopped}\n" in out.read_text()
    assert "in 2 process(es)" in out.read_text() and "step 60/60" in out.read_text()
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 77\n"  # done: not again


@pytest.mark.parametrize(
    "code, restarts, queued", [(75, 0, True), (76, 0, True), (75, 3, False), (1, 0, False)]
)
def test_only_what_can_go_on_is_queued_again(code, restarts, queued, submit, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(f"raise SystemExit({code})")
    job = submit("train.sbatch", TRAIN=str(script), RESTARTS="3", SLURM_RESTART_COUNT=str(restarts))
    assert job.wait(60) == code
    assert (tmp_path / "scontrol.txt").exists() == queued


def test_a_task_of_an_array_encodes_its_share(submit, tmp_path):
    """The program knows the share by the variables of the array, see `share_of_array`."""
    command = tmp_path / "gpstoken"
    command.write_text(f"#!/bin/bash\necho $SLURM_ARRAY_TASK_ID: $* >> {tmp_path}/calls.txt\n")
    command.chmod(stat.S_IRWXU)
    task = {"SLURM_ARRAY_TASK_ID": "3", "GPSTOKEN": str(command)}
    job = submit("encode.sbatch", "--checkpoint=RUN", "--output=a b", **task)
    assert job.wait(60) == 0
    assert set((tmp_path / "calls.txt").read_text().splitlines()) == {
        "3: encode --checkpoint=RUN --output=a b"
    }
