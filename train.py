"""Trains a model: a tokenizer, or whatever else ``config.task`` names.

    python train.py --config=configs/tiny.py --workdir=runs/tiny --data.folder=DIR

Every field of the config can be set: --config.SECTION.FIELD=VALUE. The same command again resumes
from the newest checkpoint; SIGTERM and Ctrl-C save first and exit with code 75. What it leaves is
told in gpstoken_jax/run_directory.py, several processes and what may go wrong in docs/survival.md.
"""

import contextlib
import functools
import time

import jax
from absl import flags
from ml_collections import config_flags

from gpstoken_jax import cli, processes
from gpstoken_jax.checkpoint import Checkpoints
from gpstoken_jax.run_directory import RunDirectory, lock_run, open_run, write_config
from gpstoken_jax.training.chronometer import Chronometer, format_seconds
from gpstoken_jax.training.metric_log import MetricLog
from gpstoken_jax.training.non_finite import SkippedSteps
from gpstoken_jax.training.place import get_place, set_place
from gpstoken_jax.training.step import on_all_devices, replicate, shard
from gpstoken_jax.training.stop_signals import EXIT_CODE, StopSignals, StopVote
from gpstoken_jax.training.task import Batches, Task, create_task

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.")
DATA = cli.define_data_flags()
cli.define_process_flags()
WORKDIR = flags.DEFINE_string("workdir", None, "Where results go, e.g. runs/tiny.", required=True)
flags.mark_flag_as_required("config")


def main() -> int:
    started = time.perf_counter()
    config = CONFIG.value
    cli.apply_flags(config.data, DATA.value)
    task = create_task(config)
    processes.check_same("the config", config.to_json_best_effort())
    run = open_run(WORKDIR.value, config)
    _lock = lock_run(run)  # until this process ends
    print(
        f"{jax.device_count()} {jax.default_backend()} device(s) in {jax.process_count()} "
        f"process(es), JAX {jax.__version__}; results: {run.root}"
    )

    # ---- Data: endless batches with a position that is part of the checkpoint -------------------
    batches = task.open_batches()
    with (
        contextlib.closing(batches),
        Checkpoints(run.checkpoints, keep=config.checkpoint.keep) as checkpoints,
    ):
        return train(task, run, batches, checkpoints, started)


def train(
    task: Task, run: RunDirectory, batches: Batches, checkpoints: Checkpoints, started: float
) -> int:
    """From the newest checkpoint to the end, or until someone stops it; returns the exit code."""
    config, devices = task.config, jax.local_device_count()

    # ---- State: fresh, then the newest checkpoint over it ---------------------------------------
    state = task.create_state(jax.random.key(config.seed))
    frozen = task.load_frozen()
    chronometer = Chronometer(config.train.steps, config.train.batch_size)
    skipped = SkippedSteps(config.train.get("max_skipped", 10), run.failed_steps)
    first_step = 0
    latest = {}  # of each metric: a step need not compute all
    if restored := checkpoints.restore_latest(task.to_trees(state)):
        first_step, trees, place = restored
        state = task.from_trees(trees)
        latest = set_place(place, batches, chronometer, skipped)
        write_config(run, config)
        print(f"resuming after step {first_step}")
    else:
        for name, part in state.params["params"].items():
            print(f"{name}: {sum(x.size for x in jax.tree.leaves(part)):,} parameters")

    # ---- The loop: the host only feeds the device; it waits where it logs or saves --------------
    state, frozen = replicate((state, frozen))
    log = MetricLog(run, step=first_step)
    compiled = functools.cache(on_all_devices)
    signals, vote = StopSignals(), StopVote()

    def save(step: int) -> None:
        skipped.catch_up()
        place = get_place(batches, chronometer, skipped, latest)
        checkpoints.save(step, task.to_trees(state), place)

    saved, stop = first_step, False
    for step in range(first_step + 1, config.train.steps + 1):
        try:
            batch = shard(next(batches), devices)
        except Exception:  # the data is gone; what was learnt from it shall not be
            if step - 1 > saved:
                save(step - 1)
            raise
        state, metrics = compiled(task.step_at(step))(state, batch, frozen)
        skipped.follow(step, batch, metrics)
        latest |= metrics
        stop = vote(signals.requested)
        first, last = step == first_step + 1, step == config.train.steps
        if first:
            jax.block_until_ready(metrics)
            print(f"first step after {format_seconds(time.perf_counter() - started)}", flush=True)
            chronometer.start(step)
        if step % config.log.every_steps == 0 or last:
            skipped.catch_up()  # waits for the device, so that times are its own
            times = {} if first else chronometer.tick(step)
            counts = {
                "unreadable_images": processes.total(batches.unreadable.count),
                "skipped_steps": skipped.count,
            }
            report(log, step, config.train.steps, jax.device_get(latest), times, counts)
            checkpoints.check()
        if step % config.log.images_every_steps == 0 or last:
            picture = task.preview(state)
            if picture is not None:
                log.image(step, "held out", picture)
        if step % config.checkpoint.every_steps == 0 or last or stop:
            save(step)
            saved = step
        if stop:
            break

    # ---- The end --------------------------------------------------------------------------------
    checkpoints.close()
    log.close()
    processes.wait_for_all("the last checkpoint is written")
    if saved < config.train.steps:
        print(f"stopped and saved after step {saved}; the same command goes on from there")
        return EXIT_CODE
    print(f"done: {config.train.steps} steps in {format_seconds(chronometer.train_seconds)}")
    if task.after_training:
        print(task.after_training.format(workdir=run.root))
    return 0


def report(log: MetricLog, step: int, steps: int, metrics: dict, times: dict, counts: dict) -> None:
    """Logs a step and prints its progress line."""
    metrics = {name: float(value) for name, value in metrics.items() if name != "skipped"}
    log.scalars(step, {**metrics, **times, **counts})
    line = f"step {step}/{steps}  " + "  ".join(f"{k} {v:.4f}" for k, v in metrics.items())
    if times:
        eta = format_seconds(times["eta_seconds"])
        line += f"  {times['images_per_second']:.1f} images/s  ETA {eta}"
    print(line, flush=True)


if __name__ == "__main__":
    cli.run(main)
