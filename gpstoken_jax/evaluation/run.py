"""Goes through the cells of a grid: past those that are there already, and those that fail."""

import pickle
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from gpstoken_jax.data.loader import Unreadable
from gpstoken_jax.evaluation.clock import GridClock
from gpstoken_jax.evaluation.examples import choose_examples
from gpstoken_jax.evaluation.features import ORIGINAL
from gpstoken_jax.evaluation.job import Batches, Job, Subject
from gpstoken_jax.evaluation.measurement import Measurement
from gpstoken_jax.evaluation.pages import PAGE_NAME, Pages, write_examples
from gpstoken_jax.evaluation.report import ReportRow
from gpstoken_jax.evaluation.report.numbers import format_number, heading
from gpstoken_jax.evaluation.results import (
    FILE_NAME,
    CellResult,
    first_change,
    read_summary,
    summarise,
    write_result,
)
from gpstoken_jax.evaluation.settings import Settings
from gpstoken_jax.metrics.frechet_files import save_statistics
from gpstoken_jax.runtime.processes import from_first, gather, is_first


@dataclass(frozen=True)
class Unplanned:
    """A cell that cannot even be looked at, and why."""

    name: str
    error: str


@dataclass(frozen=True)
class Run:
    """Where results go and how.

    Attributes:
      output: the directory of the whole run; of a grid's cells, ``cells/NAME`` in it.
      settings: of all cells.
      pages: makes their reports.
      again: measure also what is there already.
      user_errors: exceptions that say all in their message; others come with a traceback.
    """

    output: Path
    settings: Settings
    pages: Pages
    again: bool = False
    user_errors: tuple[type[Exception], ...] = ()

    def measure_all(self, jobs: Sequence[Job | Unplanned]) -> list[CellResult]:
        """Measures every cell. One that fails does not stop the others."""
        pixels = sum(job.pixels for job in jobs if isinstance(job, Job))
        clock = GridClock(pixels, len(jobs))
        results = []
        for number, job in enumerate(jobs, 1):
            directory = self.output if len(jobs) == 1 else self.output / "cells" / job.name
            result = CellResult(job.name, job.name, directory)
            if isinstance(job, Unplanned):
                result = replace(result, error=job.error)
            else:
                clock.begin(number, job.num_images, job.pixels)
                result = self._one(job, result, clock)
            results.append(result)
            if len(jobs) > 1:
                print(f"cell {number}/{len(jobs)}: {_describe(result)}", flush=True)
        return results

    def _one(self, job: Job, result: CellResult, clock: GridClock) -> CellResult:
        """Measures a cell, unless it is there already or cannot be opened."""
        subject, problem = self._try(job.open)
        if problem is None:
            result = replace(result, label=subject.label)
            there = self._find(subject, result.directory)
            if there is None:
                print(job.description)
                return self._measure(subject, result, clock)
            result = replace(result, summary=there, reused=True)
        clock.skip(job.pixels)
        return replace(result, error=problem)

    def _find(self, subject: Subject, directory: Path) -> dict | None:
        """The summary of a cell that was measured before in the same way."""
        return from_first(lambda: self._find_here(subject, directory))

    def _find_here(self, subject: Subject, directory: Path) -> dict | None:
        path, saved = directory / FILE_NAME, self.settings.save_statistics
        whole = (directory / PAGE_NAME).exists() and (saved is None or saved.exists())
        there = read_summary(path) if whole and not self.again else None
        if there is None:
            return None
        if change := first_change(there.get("protocol", {}), subject.protocol):
            print(f"{path} is measured again, since {change}")
            return None
        return there

    def _measure(self, subject: Subject, result: CellResult, clock: GridClock) -> CellResult:
        """Measures this process's share, brings all shares together, and writes."""
        began = time.perf_counter()
        share, problem = self._try(lambda: self._measure_share(subject, clock))
        clock.end()
        if problem:
            return replace(result, error=problem)
        measurement, unreadable, rows = _merge_shares(*share)
        summary, problem = self._try(
            lambda: self._write(subject, result, measurement, unreadable, rows, began)
        )
        return replace(
            result, summary=None if problem else from_first(lambda: summary), error=problem
        )

    def _measure_share(
        self, subject: Subject, clock: GridClock
    ) -> tuple[Measurement, Batches, dict[int, ReportRow]]:
        """Every image of this process once; pictures of the first ones, by position."""
        measurement, rows = Measurement(), {}
        batches = subject.batches(None)
        wanted = self.pages.pictured if is_first() else 0
        for batch in subject.evaluator(batches):
            measurement.add(batch)
            for i, position in enumerate(batch.positions[: wanted - len(rows)]):
                rows[int(position)] = self.pages.draw(batch.image(i), subject)
            clock.advance(len(batch.names) * jax.process_count())
        return measurement, batches.unreadable, rows

    def _write(
        self,
        subject: Subject,
        result: CellResult,
        measurement: Measurement,
        unreadable: Unreadable,
        rows: dict[int, ReportRow],
        began: float,
    ) -> dict | None:
        """Process 0 writes report and JSON file, that one last: with it the cell is finished."""
        if not is_first():
            return None
        if not len(measurement):
            raise ValueError(f"none of the images could be read: {unreadable.reasons}")
        seconds = time.perf_counter() - began
        summary = summarise(measurement, subject.protocol, self.settings) | {
            "unreadable": unreadable.reasons,
            "num_unreadable": unreadable.count,
            "seconds": round(seconds, 1),
            "seconds_per_image": round(seconds / len(measurement), 4),
        }
        result.directory.mkdir(parents=True, exist_ok=True)
        if (path := self.settings.save_statistics) is not None:
            originals = {name: of[ORIGINAL].gaussian() for name, of in measurement.features.items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            save_statistics(path, originals)
        tags = choose_examples(measurement) if self.pages.pictured else {}
        rows |= self._draw_again(subject, [position for position in tags if position not in rows])
        examples = [(tag, rows.pop(position)) for position, tag in tags.items()]
        summary["examples"] = write_examples(result.directory, examples)
        self.pages.write(replace(result, summary=summary), subject, list(rows.values()), examples)
        write_result(result.directory / FILE_NAME, summary, measurement.images())
        return summary

    def _draw_again(self, subject: Subject, positions: list[int]) -> dict[int, ReportRow]:
        """Pictures that nobody knew to be wanted when their images went by."""
        rows = {}
        for batch in subject.evaluator(subject.batches(positions) if positions else ()):
            for i in range(len(batch.names)):
                rows[positions[batch.positions[i]]] = self.pages.draw(batch.image(i), subject)
        return rows

    def _try(self, function):
        """(result, None), or (None, problem) if it raised in this or any other process.

        So a cell that fails in one process fails in all of them, and none waits for it.
        """
        value, problem = None, ""
        try:
            value = function()
        except Exception as error:
            problem = self._explain(error)
        problems = [text.decode() for text in gather(problem.encode())]
        return value, next(filter(None, problems), None)

    def _explain(self, error: Exception) -> str:
        if isinstance(error, self.user_errors):
            return str(error) or type(error).__name__
        traceback.print_exception(error, file=sys.stderr)
        lines = str(error).strip().splitlines() or ["no message"]
        return f"{type(error).__name__}: {lines[0]}"


def _merge_shares(
    measurement: Measurement, unreadable: Unreadable, rows: dict
) -> tuple[Measurement, Unreadable, dict]:
    """The measurement of all processes, and what none of them could read."""
    if jax.process_count() == 1:
        return measurement, unreadable, rows
    everywhere, missing = Measurement(), Unreadable()
    for part in gather(pickle.dumps((measurement, unreadable))):
        theirs, unread = pickle.loads(part)
        everywhere = everywhere.merge(theirs)
        missing = Unreadable(missing.count + unread.count, missing.reasons | unread.reasons)
    return everywhere, missing, rows


def _describe(result: CellResult) -> str:
    if result.error:
        return f"{result.name} FAILED: {result.error}"
    metrics = next(iter(result.summary["metrics"].values()))
    shown = (name for name in ("psnr", "ssim", "lpips") if name in metrics)
    numbers = "".join(f"  {heading(name)} {format_number(name, metrics[name])}" for name in shown)
    return f"{result.name}{numbers}{'  (there already)' if result.reused else ''}"
