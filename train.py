"""Trains a GPSToken tokenizer.

    python train.py --config=configs/tiny.py --workdir=runs/tiny --data.folder=DIR

Every field of the config can be set: --config.SECTION.FIELD=VALUE. The same command again resumes
from the newest checkpoint. What it leaves: see gpstoken_jax/run_directory.py.
"""

import math
import time

import jax
from absl import flags
from clu import parameter_overview
from ml_collections import ConfigDict, config_flags

from gpstoken_jax import cli, data
from gpstoken_jax.checkpoint import Checkpoints
from gpstoken_jax.model import GPSToken
from gpstoken_jax.perceptual.weights import load_lpips
from gpstoken_jax.run_directory import open_run
from gpstoken_jax.training.chronometer import Chronometer, format_seconds
from gpstoken_jax.training.metric_log import MetricLog
from gpstoken_jax.training.optimizer import create_optimizer
from gpstoken_jax.training.preview import Preview
from gpstoken_jax.training.state import create_state, from_trees, to_trees
from gpstoken_jax.training.step import make_train_step, replicate, shard

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.")
DATA = cli.define_data_flags()
WORKDIR = flags.DEFINE_string("workdir", None, "Where results go, e.g. runs/tiny.", required=True)
flags.mark_flag_as_required("config")


def main() -> None:
    started = time.perf_counter()
    config = CONFIG.value
    cli.apply_flags(config.data, DATA.value)
    run = open_run(WORKDIR.value, config)
    devices = jax.local_device_count()
    print(
        f"{devices} {jax.default_backend()} device(s), JAX {jax.__version__}; results: {run.root}"
    )

    # ---- Data: endless batches with a position that is part of the checkpoint -------------------
    batches = open_batches(config)

    # ---- Model and state: fresh, then the newest checkpoint over it -----------------------------
    model = GPSToken(config.model)
    optimizer = create_optimizer(config.optimizer, config.train.steps)
    state = create_state(model, optimizer, jax.random.key(config.seed))
    frozen = {"lpips": load_lpips()} if config.loss.lpips_weight else {}
    chronometer = Chronometer(config.train.steps, config.train.batch_size)
    checkpoints = Checkpoints(run.checkpoints, keep=config.checkpoint.keep)
    first_step = 0
    if restored := checkpoints.restore_latest(to_trees(state)):
        first_step, trees, progress = restored
        state = from_trees(trees)
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
    preview = Preview(model, config)
    train_step = make_train_step(model, config)
    for step in range(first_step + 1, config.train.steps + 1):
        images = shard(next(batches)["image"], devices)
        state, metrics = train_step(state, images, frozen)
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
            log.image(step, "held out: original, Gaussians, reconstruction", preview(state))
        if step % config.checkpoint.every_steps == 0 or last:
            progress = {"data": batches.get_state(), "train_seconds": chronometer.train_seconds}
            checkpoints.save(step, to_trees(state), progress)

    # ---- The end --------------------------------------------------------------------------------
    checkpoints.close()
    log.close()
    batches.close()
    print(f"done: {config.train.steps} steps in {format_seconds(chronometer.train_seconds)}")
    print(f"evaluate: python eval.py --checkpoint={run.root}")


def open_batches(config: ConfigDict) -> data.TrainBatches:
    """This process's share of the training images."""
    if config.train.batch_size % jax.device_count():
        raise ValueError(
            f"train.batch_size={config.train.batch_size} does not divide over "
            f"{jax.device_count()} devices"
        )
    source = data.open_source(config.data, config.data.train_split)
    print(source.description)
    return data.train_batches(
        source,
        config.data,
        config.model.image_size,
        config.train.batch_size // jax.process_count(),
        config.seed,
        jax.process_index(),
        jax.process_count(),
    )


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
