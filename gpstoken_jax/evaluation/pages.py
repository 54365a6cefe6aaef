"""From what a cell has measured to its report."""

from dataclasses import dataclass
from pathlib import Path

from gpstoken_jax.evaluation.evaluator import ImageResult
from gpstoken_jax.evaluation.job import Subject
from gpstoken_jax.evaluation.methods import UNFOCUSED
from gpstoken_jax.evaluation.results import CellResult
from gpstoken_jax.evaluation.tables import method_label
from gpstoken_jax.report import (
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
from gpstoken_jax.visualize import to_uint8

PAGE_NAME = "report.html"


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
        baseline, *rest = others.items() if others else [(None, None)]
        more += [
            Figure(LABELS_SHORT.get(name, name), to_uint8(one.reconstruction), True, one.metrics)
            for name, one in rest
        ]
        if self.maps and model.tokens:
            more += map_figures(model.tokens["refined"], model.tokens["feature_map"])
        return make_row(
            result.name,
            result.image,
            model.reconstruction,
            baseline[1].reconstruction,
            model.tokens["initial"],
            model.tokens["refined"],
            model.metrics,
            baseline[1].metrics,
            inside=subject.inside,
            more=more,
        )

    def write(self, result: CellResult, subject: Subject, rows: list[ReportRow]) -> Path:
        """The report of one cell."""
        means = result.summary["metrics"]
        focused = UNFOCUSED in means
        summary = ReportSummary(
            title=subject.title,
            methods={method_label(method, result): values for method, values in means.items()},
            protocol={k.replace("_", " "): v for k, v in result.summary["protocol"].items()},
            lead=focus_effect(means) if focused else "",
            notes=(MAP_NOTE,) * self.maps + (FOCUS_NOTE,) * focused,
        )
        return write_report(result.directory / PAGE_NAME, summary, rows)


LABELS_SHORT = {"bicubic": "Bicubic", "jpeg": "JPEG", "webp": "WebP"}


def focus_effect(means: dict) -> str:
    """What the focus changes, in a sentence."""
    before, after = means[UNFOCUSED], next(iter(means.values()))
    parts = (
        f"{place} it changes PSNR from {before[name]:.2f} to {after[name]:.2f} dB"
        for place, name in (("inside", "psnr_inside"), ("outside", "psnr_outside"))
    )
    return f"The focus: {', '.join(parts)}."
