"""Writes the page of a training run: pictures, curves and config, in one HTML file.

    gpstoken report runs/mine
    gpstoken report runs/mine --against=runs/other --output=mine.html

Also of a run that is still going on. The file stands alone and loads nothing.
"""

from __future__ import annotations

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
    from gpstoken_jax.runtime import files, run_directory
    from gpstoken_jax.training import metric_log

AGAINST = flags.DEFINE_string("against", None, "Another run, whose curves and config stand beside.")
OUTPUT = flags.DEFINE_string("output", None, "The file; RUN/report.html by default.")
SAMPLES = flags.DEFINE_integer("samples", 12, "Pictures over time, at most.", lower_bound=1)

_START = b"<!doctype html>"


def main(arguments: list[str]) -> None:
    """Writes the report of the run that is named."""
    if len(arguments) != 1:
        raise ValueError(f"one run must be named, not {len(arguments)}: gpstoken report RUN")
    run = run_directory.RunDirectory(Path(arguments[0]).expanduser())
    output = Path(OUTPUT.value).expanduser() if OUTPUT.value else run.root / "report.html"
    check_output(output)
    names = {run.root.name: run}
    if AGAINST.value:
        other = run_directory.RunDirectory(Path(AGAINST.value).expanduser())
        names[other.root.name if other.root.name not in names else str(other.root)] = other
    page = run_page.training_page(
        f"Training of {run.root.name}",
        {name: read_curves(run) for name, run in names.items()},
        {name: read_fields(run) for name, run in names.items()},
        read_samples(run.samples, SAMPLES.value),
    )
    files.write_file(output, b"".join(page))
    say(f"{output}: open it in a browser")


def check_output(path: Path) -> None:
    """Checks that no file is replaced that is no page.

    Raises:
      ValueError: if one would be, or the directory is not there.
    """
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
    cli.run(main, takes_arguments=True)
