"""From what a cell has measured to its report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gpstoken_jax.evaluation.baselines import SHORT_LABELS
from gpstoken_jax.evaluation.evaluator import ImageResult
from gpstoken_jax.evaluation.job import Subject
from gpstoken_jax.evaluation.methods import UNFOCUSED
from gpstoken_jax.evaluation.report import (
    FOCUS_NOTE,
    MAP_NOTE,
    Figure,
    ReportRow,
    ReportSummary,
    make_row,
    map_figures,
    unfocused_figures,
    write_report,
)
from gpstoken_jax.evaluation.report.overview import Example
from gpstoken_jax.evaluation.results import CellResult
from gpstoken_jax.evaluation.tables import method_label
from gpstoken_jax.tokens.visualize import to_uint8

PAGE_NAME = "report.html"
EXAMPLES = "examples"


@dataclass(frozen=True)
class Pages:
    """Draws and writes reports.

    Attributes:
      pictured: how many of the first images of a cell are shown.
      maps: whether token density and feature maps are.
    """

    pictured: int = 32
    maps: bool = True

    def draw(self, result: ImageResult, subject: Subject) -> ReportRow:
        """One photo of the report."""
        (_, model), *others = result.outcomes.items()
        if not model.metrics:  # nothing to compare it with
            return ReportRow(result.name, to_uint8(result.image))
        others = dict(others)
        more: list[Figure] = []
        if (before := others.pop(UNFOCUSED, None)) is not None:
            more += unfocused_figures(
                result.image,
                before.reconstruction,
                before.tokens["initial"],
                before.tokens["refined"],
                before.metrics,
                subject.inside,
            )
        baseline = next(iter(others), None)
        first = others.pop(baseline, None)
        more += [
            Figure(SHORT_LABELS[name], to_uint8(one.reconstruction), True, one.metrics, True)
            for name, one in others.items()
        ]
        if self.maps and model.tokens:
            more += map_figures(model.tokens["refined"], model.tokens["feature_map"])
        return make_row(
            result.name,
            result.image,
            model.reconstruction,
            first.reconstruction if first else None,
            model.tokens.get("initial"),
            model.tokens.get("refined"),
            model.metrics,
            first.metrics if first else {},
            baseline_name=SHORT_LABELS.get(baseline, ""),
            inside=subject.inside,
            more=more,
        )

    def write(
        self,
        result: CellResult,
        subject: Subject,
        rows: list[ReportRow],
        examples: list[tuple[str, ReportRow]],
    ) -> Path:
        """The report of one cell."""
        means, protocol = result.summary["metrics"], result.summary["protocol"]
        focused, tokens = UNFOCUSED in means, "num_tokens" in protocol
        summary = ReportSummary(
            title=subject.title,
            methods={method_label(method, result): values for method, values in means.items()},
            protocol={name.replace("_", " "): value for name, value in protocol.items()},
            lead=focus_effect(means) if focused else "",
            notes=(MAP_NOTE,) * (self.maps and tokens) + (FOCUS_NOTE,) * focused,
            definitions=result.summary["definitions"],
            warnings=tuple(result.summary["warnings"]),
            published=True,
        )
        return write_report(result.directory / PAGE_NAME, summary, rows, examples)


def write_examples(directory: Path, examples: list[tuple[str, ReportRow]]) -> list[dict]:
    """Writes their originals and reconstructions as PNG files below a cell's directory.

    Returns what the cell's JSON file says of them, with paths relative to it.
    """
    (directory / EXAMPLES).mkdir(parents=True, exist_ok=True)
    written = []
    for number, (tag, row) in enumerate(examples, 1):
        pictures = {"Original": row.original, "Reconstruction": row.reconstruction}
        files = {text: f"{EXAMPLES}/{number}_{tag}_{text.lower()}.png" for text in pictures}
        for text, file in files.items():
            Image.fromarray(pictures[text]).save(directory / file)
        written.append({"tag": tag, "name": row.name, "files": files, "metrics": dict(row.metrics)})
    return written


def read_examples(directory: Path, written: list[dict]) -> list[Example]:
    """The examples that ``write_examples`` wrote, but for those whose files are gone."""
    examples = []
    for one in written:
        try:
            pictures = {
                text: np.asarray(Image.open(directory / file))
                for text, file in one["files"].items()
            }
        except OSError:
            continue
        examples.append(Example(one["tag"], one["name"], pictures, one["metrics"]))
    return examples


def focus_effect(means: dict) -> str:
    """What the focus changes, in a sentence."""
    before, after = means[UNFOCUSED], next(iter(means.values()))
    parts = (
        f"{place} it changes PSNR from {before[name]:.2f} to {after[name]:.2f} dB"
        for place, name in (("inside", "psnr_inside"), ("outside", "psnr_outside"))
    )
    return f"The focus: {', '.join(parts)}."
