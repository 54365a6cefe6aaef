"""Goes through the cells of a grid: past those that are there already, and those that fail."""

import contextlib
import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax

from gpstoken_jax.evaluation import pages, pictures
from gpstoken_jax.evaluation.measurement import MADE, Measurement, Share, choose_examples
from gpstoken_jax.evaluation.results import (
    FILE_NAME,
    CellResult,
    first_change,
    read_summary,
    summarise,
    write_result,
)
from gpstoken_jax.evaluation.subjects import Cell, Settings, Subject
from gpstoken_jax.evaluation.tables import markdown_page, table_rows, to_csv, to_text
from gpstoken_jax.metrics.catalogue import format_number, heading
from gpstoken_jax.runtime.files import DamagedFileError
from gpstoken_jax.runtime.outputs import Output
from gpstoken_jax.runtime.processes import check_same, from_first, gather, is_primary_process
from gpstoken_jax.runtime.progress import Progress
from gpstoken_jax.runtime.text import say
from gpstoken_jax.weights.feature_networks import ORIGINAL
from gpstoken_jax.weights.statistics import save_statistics

CSV_NAME, MARKDOWN_NAME = "results.csv", "results.md"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
    """The measuring of a grid, and where its results go.

    Attributes:
      directory: of the whole run; of a grid's cells, ``cells/NAME`` in it.
      output: the same, claimed by process 0; None in the others.
      settings: of all cells.
      pictured: how many of the first images of a cell are shown.
      maps: whether token density and feature maps are.
      again: measure also what is there already.
      user_errors: exceptions that say all in their message; others come with a traceback.
    """

    directory: Path
    output: Output | None
    settings: Settings
    pictured: int = 32
    maps: bool = True
    again: bool = False
    user_errors: tuple[type[Exception], ...] = ()

    def measure_all(self, cells: Sequence[Cell]) -> list[CellResult]:
        """Measures every cell. One that fails does not stop the others.

        Raises:
          OSError: if images or results can no longer be read or written: the same command goes on.
        """
        results = []
        for number, cell in enumerate(cells, 1):
            label = f"cell {number}/{len(cells)}  " if len(cells) > 1 else ""
            later = sum(other.pixels for other in cells[number:])
            per_image = max(1, cell.pixels) / max(1, cell.num_images)
            progress = Progress(cell.num_images, label=label, later=later / per_image)
            directory = "" if len(cells) == 1 else f"cells/{cell.name}"
            result = self._one(cell, CellResult(cell.name, cell.name, directory), progress)
            results.append(result)
            if len(cells) > 1:
                say(f"cell {number}/{len(cells)}: {_describe(result)}")
        return results

    def write_summary(self, results: Sequence[CellResult]) -> str:
        """Writes results.csv and results.md, and for a grid its page; returns the table as text."""
        self.output.write(CSV_NAME, to_csv(results))
        self.output.write(MARKDOWN_NAME, markdown_page(results))
        if len(results) > 1:
            examples = {
                one.name: pictures.read_examples(self.output, one) for one in results if one.summary
            }
            self._write_page(pages.PAGE_NAME, pages.overview_page(results, examples))
        return to_text(*table_rows(results))

    def _one(self, cell: Cell, result: CellResult, progress: Progress) -> CellResult:
        """Measures a cell, unless it is there already or cannot be opened."""
        subject, problem = self._try(cell.open)
        if problem is None:
            result = replace(result, label=subject.label)
            same = {k: v for k, v in subject.protocol.items() if k != "data_fingerprint"}
            check_same("the protocol", same)  # copies of the data have dates of their own
            there = from_first(lambda: self._find(subject, result))
            if there is None:
                say(cell.description)
                return self._measure(cell, subject, result, progress)
            result = replace(result, summary=there, reused=True)
        return replace(result, error=problem)

    def _find(self, subject: Subject, result: CellResult) -> dict | None:
        """The summary of a cell that was measured before in the same way, if it is whole."""
        saved = [self.settings.save_statistics, self.settings.save_batch]
        if self.again or not all(path is None or path.exists() for path in saved):
            return None
        if not all(map(self.output.has, (result.file(pages.PAGE_NAME), result.file(FILE_NAME)))):
            return None
        try:
            for name in self.output.names():
                if name.startswith(result.file("")) and name not in (CSV_NAME, MARKDOWN_NAME):
                    self.output.check(name)
        except DamagedFileError as error:
            say(f"{error}; it is measured again")
            return None
        there = read_summary(self.directory / result.file(FILE_NAME))
        if change := first_change(there["protocol"], subject.protocol):
            say(f"{self.directory / result.file(FILE_NAME)} is measured again, since {change}")
            return None
        return there

    def _measure(
        self, cell: Cell, subject: Subject, result: CellResult, progress: Progress
    ) -> CellResult:
        """Measures this process's share, brings all shares together, and writes."""
        began = time.perf_counter()
        photos, problem = self._try(
            lambda: self._share(cell, subject, result, progress), fatal=True
        )
        if problem is None:
            summary, problem = self._try(
                lambda: (
                    self._write(subject, result, photos, began) if is_primary_process() else None
                ),
                fatal=True,
            )
        if problem:
            return replace(result, error=problem)
        return replace(result, summary=from_first(lambda: summary))

    def _share(
        self, cell: Cell, subject: Subject, result: CellResult, progress: Progress
    ) -> dict[int, pictures.Photo]:
        """Measures every image of this process once; pictures of the first ones, by position."""
        process, processes = jax.process_index(), jax.process_count()
        own = range(process, cell.num_images, processes)
        identity = {"protocol": subject.protocol, "processes": processes, "images": cell.num_images}
        share = Share(self.directory / result.directory, identity, process, fresh=self.again)
        photos: dict[int, pictures.Photo] = {}
        with contextlib.closing(share):
            if share.done:
                say(f"{cell.name}: goes on after {share.done * processes} images")
                progress.start_at(share.done * processes)
            wanted = self.pictured if is_primary_process() and not share.done else 0
            batches = subject.batches(own[share.done :])
            for batch in subject.evaluator(batches):
                share.add(batch, batches.unreadable)
                for i, position in enumerate(batch.positions[: wanted - len(photos)]):
                    photos[int(position)] = self._draw(subject, batch.names[i], *batch.image(i))
                progress.advance(min(batch.through * processes, progress.total - progress.done))
        return photos

    def _write(
        self, subject: Subject, result: CellResult, photos: dict[int, pictures.Photo], began: float
    ) -> dict:
        """Writes pages and JSON file, that one last: with it the cell is finished."""
        measurement = Measurement.merge(self.directory / result.directory, jax.process_count())
        seconds = time.perf_counter() - began
        summary = summarise(measurement, subject.protocol, self.settings)
        count = summary["protocol"]["num_images"]
        summary |= {"seconds": round(seconds, 1), "seconds_per_image": round(seconds / count, 4)}
        self._save(measurement, next(iter(summary["metrics"])))
        tags = choose_examples(measurement) if self.pictured else {}
        first = [row["position"] for row in itertools.islice(measurement.rows(), self.pictured)]
        missing = sorted({*tags, *first} - photos.keys()) if self.pictured else []
        for batch in subject.evaluator(subject.batches(missing) if missing else ()):
            for i, position in enumerate(batch.positions):
                photos[int(position)] = self._draw(subject, batch.names[i], *batch.image(i))
        examples = [photos[place]._replace(tag=tag) for place, tag in tags.items()]
        summary["examples"] = pictures.write_examples(self.output, result, examples)
        others = [photo for place, photo in sorted(photos.items()) if place not in tags]
        page = pages.cell_page(
            subject.title, replace(result, summary=summary), others, examples, self.maps
        )
        self._write_page(result.file(pages.PAGE_NAME), page)
        write_result(self.output, result.file(FILE_NAME), summary, measurement.rows())
        measurement.remove()
        return summary

    def _save(self, measurement: Measurement, evaluated: str) -> None:
        """Writes statistics, and images, for other evaluations."""
        settings = self.settings
        for path, method, name in (
            (settings.save_statistics, ORIGINAL, f"pixels/{ORIGINAL}"),
            (settings.save_batch, evaluated, f"pixels/{MADE}"),
        ):
            if path is not None:
                of = {key: of[method].gaussian() for key, of in measurement.features.items()}
                path.parent.mkdir(parents=True, exist_ok=True)
                save_statistics(path, of, images=measurement.kept.get(name))

    def _draw(self, subject: Subject, name: str, image: Any, outcomes: Any) -> pictures.Photo:
        return pictures.draw_photo(name, image, outcomes, inside=subject.inside, maps=self.maps)

    def _write_page(self, name: str, pieces: Any) -> None:
        with self.output.create(name) as file:
            file.writelines(pieces)

    def _try(
        self, function: Callable[[], Result], *, fatal: bool = False
    ) -> tuple[Result | None, str | None]:
        """(result, None), or (None, problem) if it raised in this or any other process.

        So a cell that fails in one process fails in all of them, and none waits for it.

        Raises:
          OSError: in all of them, if it is fatal and came from the system in any.
        """
        value, problem = None, {}
        try:
            value = function()
        except Exception as error:
            problem = {"text": self._explain(error), "system": isinstance(error, OSError)}
        problems = [
            one for data in gather(json.dumps(problem).encode()) if (one := json.loads(data))
        ]
        for one in problems:
            if fatal and one["system"]:
                raise OSError(f"{one['text']}; the same command goes on from here")
        return value, problems[0]["text"] if problems else None

    def _explain(self, error: Exception) -> str:
        if isinstance(error, self.user_errors):
            return str(error) or type(error).__name__
        traceback.print_exception(error, file=sys.stderr)
        lines = str(error).strip().splitlines() or ["no message"]
        return f"{type(error).__name__}: {lines[0]}"


def _describe(result: CellResult) -> str:
    if result.error:
        return f"{result.name} FAILED: {result.error}"
    metrics = next(iter(result.metrics.values()))
    shown = (name for name in ("psnr", "ssim", "lpips") if name in metrics)
    numbers = "".join(f"  {heading(name)} {format_number(name, metrics[name])}" for name in shown)
    return f"{result.name}{numbers}{'  (there already)' if result.reused else ''}"
