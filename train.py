"""Trains a model: a tokenizer, or whatever else ``config.task`` names.

    python train.py --config=configs/tiny.py --workdir=runs/tiny --data.folder=DIR

Every field of the config can be set: --config.SECTION.FIELD=VALUE. The same command again resumes
from the newest checkpoint. What it leaves: see gpstoken_jax/run_directory.py.
"""

import functools
import math
import time

import jax
from absl import flags
from clu import parameter_overview
from ml_collections import config_flags

from gpstoken_jax import cli
from gpstoken_jax.checkpoint import Checkpoints
from gpstoken_jax.run_directory import open_run
from gpstoken_jax.training.chronometer import Chronometer, format_seconds
from gpstoken_jax.training.metric_log import MetricLog
from gpstoken_jax.training.step import on_all_devices, replicate, shard
from gpstoken_jax.training.task import create_task

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.")
DATA = cli.define_data_flags()
WORKDIR = flags.DEFINE_string("workdir", None, "Where results go, e.g. runs/tiny.", required=True)
flags.mark_flag_as_required("config")


def main() -> None:
    started = time.perf_counter()
    config = CONFIG.value
    cli.apply_flags(config.data, DATA.value)
    task = create_task(config)
    run = open_run(WORKDIR.value, config)
    devices = jax.local_device_count()
    print(
        f"{devices} {jax.default_backend()} device(s), JAX {jax.__version__}; results: {run.root}"
    )

    # ---- Data: endless batches with a position that is part of the checkpoint -------------------
    batches = task.open_batches()

    # ---- State: fresh, then the newest checkpoint over it ---------------------------------------
    state = task.create_state(jax.random.key(config.seed))
    frozen = task.load_frozen()
    chronometer = Chronometer(config.train.steps, config.train.batch_size)
    checkpoints = Checkpoints(run.checkpoints, keep=config.checkpoint.keep)
    first_step = 0
    if restored := checkpoints.restore_latest(task.to_trees(state)):
        first_step, trees, progress = restored
        state = task.from_trees(trees)
        if progress["data"]:  # converted weights come without a place in the data
            batches.set_state(progress["data"])
        chronometer.train_seconds = progress["train_seconds"]
        print(f"resuming after step {first_step}")
    else:
        for name, part in state.params["params"].items():
            print(f"{name}: {parameter_overview.count_parameters(part):,} parameters")

    # ---- The loop: the host only feeds the device; it waits where it logs or saves --------------
    state, frozen = replicate((state, frozen))
    log = MetricLog(run, step=first_step)
    compiled = functools.cache(on_all_devices)
    for step in range(first_step + 1, config.train.steps + 1):
        batch = shard(next(batches), devices)
        state, metrics = compiled(task.step_at(step))(state, batch, frozen)
        first, last = step == first_step + 1, step == config.train.steps
        if first:
            jax.block_until_ready(metrics)
            print(f"first step after {format_seconds(time.perf_counter() - started)}", flush=True)
            chronometer.start(step)
        if step % config.log.every_steps == 0 or last:
            metrics = jax.device_get(metrics)  # waits for the device, so that times are its own
            times = {} if first else chronometer.tick(step)
            report(log, step, config.train.steps, metrics, times, batches.unreadable.count)
        if step % config.log.images_every_steps == 0 or last:
            picture = task.preview(state)
            if picture is not None:
                log.image(step, "held out", picture)
        if step % config.checkpoint.every_steps == 0 or last:
            progress = {"data": batches.get_state(), "train_seconds": chronometer.train_seconds}
            checkpoints.save(step, task.to_trees(state), progress)

    # ---- The end --------------------------------------------------------------------------------
    checkpoints.close()
    log.close()
    batches.close()
    print(f"done: {config.train.steps} steps in {format_seconds(chronometer.train_seconds)}")
    if task.after_training:
        print(task.after_training.format(workdir=run.root))


def report(
    log: MetricLog, step: int, steps: int, metrics: dict, times: dict, unreadable: int
) -> None:
    """Logs a step and prints its progress line.

    Raises:
      FloatingPointError: if the loss is not finite.
    """
    metrics = {name: float(value) for name, value in metrics.items()}
    log.scalars(step, {**metrics, **times, "unreadable_images": unreadable})
    line = f"step {step}/{steps}  " + "  ".join(f"{k} {v:.4f}" for k, v in metrics.items())
    if times:
        eta = format_seconds(times["eta_seconds"])
        line += f"  {times['images_per_second']:.1f} images/s  ETA {eta}"
    print(line, flush=True)
    if not math.isfinite(metrics["loss"]):
        raise FloatingPointError(f"the loss of step {step} is {metrics['loss']}")


if __name__ == "__main__":
    cli.run(main)
