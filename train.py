"""Trains a model: a tokenizer, or whatever else ``config.task`` names.

    python train.py --config=configs/tiny.py --workdir=runs/tiny --data.folder=DIR

Every field of the config can be set: --config.SECTION.FIELD=VALUE. The same command again resumes
from the newest checkpoint; SIGTERM and Ctrl-C save first and exit with code 75. What it leaves is
told in gpstoken_jax/runtime/run_directory.py, several processes and what may go wrong in
docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import functools
import time
from typing import Any

from absl import flags
from etils import epy
from ml_collections import config_flags

from gpstoken_jax.configs.check import check_config
from gpstoken_jax.programs import cli

with epy.lazy_imports():  # --help answers before JAX is there
    import jax

    from gpstoken_jax import training
    from gpstoken_jax.runtime import checkpoint, mirror, processes, run_directory

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/.")
DATA = cli.define_data_flags()
cli.define_process_flags()
WORKDIR = flags.DEFINE_string("workdir", None, "Where results go, e.g. runs/tiny.", required=True)
INIT_FROM = flags.DEFINE_string(
    "init_from", None, "Start from these weights, whatever from_pretrained takes: init.source."
)
cli.allow_buckets("workdir", "init_from")
PROFILE = flags.DEFINE_bool("profile", False, "Record a few steps for TensorBoard's profiler.")
flags.mark_flag_as_required("config")


def main() -> int:
    """Trains what the config describes; returns the exit code."""
    started = time.perf_counter()
    config = CONFIG.value
    cli.apply_flags(config.data, DATA.value)
    if INIT_FROM.value:
        config.init.source = INIT_FROM.value
    check_config(config, devices=jax.device_count())
    processes.check_same("the config", config.to_dict())
    task = training.create_task(config)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(run_directory.open_place_of_run(WORKDIR.value))
        run = run_directory.RunDirectory(place.directory)
        # Before anything is written, so that a refused start changes nothing.
        stack.enter_context(run_directory.lock_run(run))
        run_directory.open_run(run.root, config)
        evaluates = training.check_evaluation(task)
        print(
            f"{jax.device_count()} {jax.default_backend()} device(s) in {jax.process_count()} "
            f"process(es), JAX {jax.__version__}; results: {place}"
        )

        # ---- Data: endless batches with a position that is part of the checkpoint ----------------
        batches = stack.enter_context(contextlib.closing(task.open_batches()))
        processes.check_same("the data", task.describe_data)
        return train(task, run, place, batches, evaluates, stack, started)


def train(
    task: training.Task,
    run: run_directory.RunDirectory,
    place: mirror.Place,
    batches: training.Batches,
    evaluates: bool,
    stack: contextlib.ExitStack,
    started: float,
) -> int:
    """From the newest checkpoint to the end, or until someone stops it; returns the exit code."""
    config = task.config

    # ---- State: fresh, then the newest checkpoint over it ---------------------------------------
    state = task.create_state(jax.random.key(config.seed))
    training.check_free_space(run.root, task.to_trees(state))
    frozen = task.load_frozen()
    checkpoints = stack.enter_context(
        checkpoint.Checkpoints(run.checkpoints, keep=config.checkpoint.keep)
    )
    timer = training.StepTimer(config.train.steps, config.train.batch_size)
    skipped = training.SkippedSteps(config.train.get("max_skipped", 10), run.failed_steps)
    first_step = 0
    latest = {}  # of each metric: a step need not compute all
    if restored := checkpoints.restore_latest(task.to_trees(state)):
        first_step, trees, loop_state = restored
        state = task.from_trees(trees)
        latest = training.restore_loop_state(loop_state, batches, timer, skipped)
        if first_step >= config.train.steps:
            print(f"nothing to do: {first_step} steps are done, train.steps={config.train.steps}")
            return 0
        print(f"resuming after step {first_step}")
    else:
        state, start = task.start(state)
        if start:
            print(f"from {config.init.source}: {start.report()}")
        for name, part in state.params["params"].items():
            print(f"{name}: {sum(x.size for x in jax.tree.leaves(part)):,} parameters")
        run_directory.write_parameters(run, state.params)
    run_directory.write_config(run, config)

    # ---- The loop: the host only feeds the device; it waits where it logs or saves --------------
    state, frozen = training.replicate((state, frozen))
    prefetcher = training.DevicePrefetcher(batches, timer)
    signals, vote = training.StopSignals(), training.StopVote()
    stack.callback(signals.close)  # after the log, whose end may take its time
    log = stack.enter_context(
        contextlib.closing(training.MetricLog(run, step=first_step, config=config))
    )
    best = training.BestCheckpoint(run_directory.RunDirectory(run.best), config, step=first_step)
    compiled, work = functools.cache(training.on_all_devices), training.Work()
    profile = training.Profile(run.profile if PROFILE.value else None, first_step)
    evaluate_every = evaluates and training.evaluation_interval(config)

    def here() -> dict[str, Any]:
        skipped.catch_up()
        return training.get_loop_state(prefetcher, timer, skipped, latest)

    def save(step: int) -> None:
        checkpoints.save(step, task.to_trees(state), here())

    saved, stop = first_step, False
    for step in range(first_step + 1, config.train.steps + 1):
        first, last = step == first_step + 1, step == config.train.steps
        try:
            batch = next(prefetcher)
        except Exception:  # the data is gone; what was learnt from it shall not be
            if step - 1 > saved and jax.process_count() == 1:  # others would not join in saving
                save(step - 1)
            raise
        run_step = compiled(task.step_at(step))
        work.follow(run_step, state, batch, frozen)
        state, metrics = run_step(state, batch, frozen)
        if not last:
            prefetcher.fetch()  # while the device works
        with timer.waiting("device"):
            skipped.follow(step, batch, metrics)
            if timer.is_slow:  # none ahead: a signal is answered when this one ends
                skipped.catch_up()
        profile.follow(step, metrics)
        latest |= metrics
        if first:
            jax.block_until_ready(metrics)
            print(
                f"first step after {training.format_seconds(time.perf_counter() - started)}",
                flush=True,
            )
            timer.start(step)
            work.tick(1.0)
        if training.is_due(step, config.log.every_steps, last):
            with timer.waiting("device"):
                skipped.catch_up()  # waits for the device, so that times are its own
            times = {} if first else timer.tick(step)
            if times:
                times |= work.tick(times["seconds"])
            counts = {
                "unreadable_images": processes.total(prefetcher.unreadable.count),
                "skipped_steps": skipped.count,
            }
            values = jax.device_get(latest) | times | counts | training.memory_in_use()
            report(task, log, step, values)
            checkpoints.check()
            place.check()
        stop = vote(signals.requested)  # after the waits, in which a signal comes most often
        if training.is_due(step, config.checkpoint.every_steps) or last or stop:
            save(step)  # first, as what follows may fail
            saved = step
        if training.is_due(step, evaluate_every, last):
            jax.block_until_ready(metrics)
            with timer.paused():
                figures = task.evaluate(state, frozen)
                report_evaluation(log, step, figures)
                best.consider(step, figures, functools.partial(task.to_trees, state), here)
        if training.is_due(step, config.log.images_every_steps, last):
            jax.block_until_ready(metrics)
            with timer.paused():
                picture = task.preview(state)
                if picture is not None:
                    log.image(step, "held out", picture)
        if stop:
            break

    # ---- The end --------------------------------------------------------------------------------
    checkpoints.close()
    profile.close()
    best.close()
    place.push()
    processes.wait_for_all("the last checkpoint is written")
    if config.log.get("checkpoint", False):
        log.checkpoint(saved)
    if saved < config.train.steps:
        print(f"stopped and saved after step {saved}; the same command goes on from there")
        return training.EXIT_CODE
    print(f"done: {config.train.steps} steps in {training.format_seconds(timer.train_seconds)}")
    if task.after_training:
        print(task.after_training.format(workdir=place))
    return 0


def report(task: training.Task, log: training.MetricLog, step: int, values: dict) -> None:
    """Logs a step and prints the main of it."""
    values = {name: float(value) for name, value in values.items() if name != "skipped"}
    log.scalars(step, values)
    shown = [f"{name} {values[name]:.4f}" for name in task.on_screen if name in values]
    if "eta_seconds" in values:
        rate = values["images_per_second"]
        slow = f"{values['seconds_per_step']:.0f} s a step"
        shown.append(f"{rate:.1f} images/s" if rate >= 0.1 else slow)
        shown.append(f"ETA {training.format_seconds(values['eta_seconds'])}")
    print(f"step {step}/{task.config.train.steps}  " + "  ".join(shown), flush=True)


def report_evaluation(log: training.MetricLog, step: int, figures: dict[str, float]) -> None:
    """Logs and prints an evaluation, if there was one."""
    if figures:
        log.scalars(step, figures)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"step {step}, held out: {shown}", flush=True)


if __name__ == "__main__":
    cli.run(main)
