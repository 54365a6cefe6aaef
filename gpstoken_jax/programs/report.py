"""Writes the page of a training run: pictures, curves and config, in one HTML file.

    gpstoken report runs/mine
    gpstoken report runs/mine --against=runs/other --output=mine.html

Also of a run that is still going on, or in a bucket. The file stands alone and loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from etils import epy
from PIL import Image

from gpstoken_jax.programs import cli
from gpstoken_jax.runtime.text import say

with epy.lazy_imports():  # --help answers before JAX is there
    from gpstoken_jax.programs import run_page
    from gpstoken_jax.runtime import buckets, files, run_directory
    from gpstoken_jax.training import metric_log

AGAINST = flags.DEFINE_string("against", None, "Another run, whose curves and config stand beside.")
OUTPUT = flags.DEFINE_string("output", None, "The file; RUN/report.html by default.")
cli.allow_buckets("against", "output")
SAMPLES = flags.DEFINE_integer("samples", 12, "Pictures over time, at most.", lower_bound=1)

_START = b"<!doctype html>"


def main(arguments: list[str]) -> None:
    """Writes the report of the run that is named."""
    if len(arguments) != 1:
        raise ValueError(
            f"one run must be named, not {len(arguments)}: gpstoken report RUN [--against=RUN]"
        )
    output = OUTPUT.value or f"{arguments[0].rstrip('/')}/report.html"
    run = open_run(arguments[0])
    check_output(output)
    names = {run.name: run}
    if AGAINST.value:
        other = open_run(AGAINST.value)
        possible = other.name, AGAINST.value, f"{AGAINST.value} (the other)"
        names[next(name for name in possible if name not in names)] = other
    page = run_page.training_page(
        f"Training of {run.name}",
        {name: read_curves(run) for name, run in names.items()},
        {name: read_fields(run) for name, run in names.items()},
        read_samples(run.samples, SAMPLES.value),
    )
    write_page(output, b"".join(page))
    say(f"{output}: open it in a browser")


def open_run(place: str) -> run_directory.RunDirectory:
    """A run, or of one in a bucket a copy of what a report shows.

    Raises:
      OSError: if there is nothing, or the bucket cannot be reached.
    """
    run = run_directory.RunDirectory(buckets.fetch(place, _to_show))
    if not run.root.is_dir():
        raise FileNotFoundError(f"there is no directory {run.root}: a run's is asked for")
    return run


def _to_show(_: Iterable[str]) -> buckets.Choose:
    shown = "config.json", "metrics.jsonl", "samples/"
    return lambda name: name.startswith(shown)


def write_page(output: str, page: bytes) -> None:
    """Writes the file, on a disk or in a bucket."""
    if buckets.is_url(output):
        buckets.write_object(buckets.check_url(output), page)
    else:
        files.write_file(Path(output).expanduser(), page)


def check_output(output: str) -> None:
    """Checks that no file is replaced that is no page.

    Raises:
      ValueError: if one would be, or the directory is not there.
    """
    if buckets.is_url(output):
        url = buckets.check_url(output)
        for name, found in buckets.list_objects(url).items():
            of_one = not name and buckets.open_file(buckets.RemoteFile(url, found), len(_START))
            if not of_one or of_one.read() != _START:
                raise ValueError(f"{url} is there and is no report: give another --output")
        return
    path = Path(output).expanduser()
    if not path.parent.is_dir():
        raise ValueError(f"there is no directory {path.parent}")
    if path.exists() and (path.is_dir() or not path.read_bytes().startswith(_START)):
        raise ValueError(f"{path} is there and is no report: give another --output")


def read_curves(run: run_directory.RunDirectory) -> run_page.Curves:
    """The figures of a run's log.

    Raises:
      ValueError: if it has none.
    """
    curves = metric_log.read_curves(run.metrics) if run.metrics.is_file() else {}
    if not curves:
        raise ValueError(
            f"{run.root} has no figures in {run.metrics.name}: it is no run's directory, has "
            "logged nothing yet, or its config.log.to leaves jsonl out"
        )
    return curves


def read_fields(run: run_directory.RunDirectory) -> dict[str, Any]:
    """The fields of a run's config by dotted name."""
    return dict(cli.flatten(run_directory.read_config(run)))


def read_samples(directory: Path, most: int) -> list[tuple[int, np.ndarray]]:
    """At most so many pictures by step, spread evenly, the newest among them."""
    steps = sorted(int(path.stem) for path in directory.glob("*.png") if path.stem.isdecimal())
    chosen = sorted(
        {steps[i] for i in np.linspace(len(steps) - 1, 0, most).astype(int)} if steps else ()
    )
    samples = []
    for step in chosen:
        try:
            with Image.open(directory / f"{step}.png") as image:
                samples.append((step, np.asarray(image.convert("RGB"))))
        except (OSError, ValueError) as error:
            say(f"{directory / f'{step}.png'} is left out: {error}")
    return samples


if __name__ == "__main__":
    cli.run(main, takes_arguments=True, in_buckets=True)
