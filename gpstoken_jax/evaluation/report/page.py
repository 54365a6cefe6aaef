"""An evaluation as one HTML file: a summary on top, then photos and what became of them.

The file stands alone: pictures, style and script are inside it, and it loads nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import matplotlib
import numpy as np

from gpstoken_jax.evaluation.report.figures import MAX_ERROR, ReportRow
from gpstoken_jax.evaluation.report.html import definitions, page, write_whole
from gpstoken_jax.evaluation.report.numbers import format_number, heading, in_order
from gpstoken_jax.evaluation.report.photos import change_text, photo
from gpstoken_jax.evaluation.report.published import published_block
from gpstoken_jax.evaluation.report.table import metrics_table
from gpstoken_jax.metrics.image import METRIC_DEFINITIONS


@dataclass(frozen=True)
class ReportSummary:
    """What stands above the photos.

    title: a line; lead: a sentence or two below it
    notes: paragraphs on how to read what the rows have besides
    definitions: what each metric is, by its name
    methods: mean metrics by method name; the model first, then what it is compared with
    protocol: what was measured and how, in the order shown: crop, size, colour range, rounding,
        number of images, checkpoint step, commit, ...
    warnings: what to beware of
    published: whether the published figures follow
    """

    title: str
    methods: Mapping[str, Mapping[str, float]]
    protocol: Mapping[str, object]
    lead: str = ""
    notes: tuple[str, ...] = ()
    definitions: Mapping[str, str] = field(default_factory=lambda: METRIC_DEFINITIONS)
    warnings: tuple[str, ...] = ()
    published: bool = False


def write_report(
    path: str | Path,
    summary: ReportSummary,
    rows: Iterable[ReportRow],
    examples: Iterable[tuple[str, ReportRow]] = (),
) -> Path:
    """Write the report to `path` and return it; folders are made, an older file is replaced.

    rows: may be a generator: one photo at a time is encoded and written. The file appears under its
    name only when it is whole; after an error or a kill the older one is still there.
    examples: photos that come first, each with what it is an example of.
    Raises ValueError when there is no method to show, OSError when the place cannot be written.
    """
    if not summary.methods:
        raise ValueError("A report needs the mean metrics of at least one method.")
    return write_whole(path, page(summary.title, _body(summary, rows, list(examples))))


def _body(
    summary: ReportSummary, rows: Iterable[ReportRow], examples: list[tuple[str, ReportRow]]
) -> Iterable[str]:
    yield _headline(summary)
    yield "".join(f'<p class="lead bad">{escape(text)}</p>\n' for text in summary.warnings)
    table = metrics_table(["Method"], [((name,), m) for name, m in summary.methods.items()])
    yield f"<h2>Means over all images</h2>\n{table}"
    if summary.published:
        yield published_block()
    yield f"<h2>What was measured</h2>\n{definitions(summary.protocol)}"
    yield f"<h2>How to read this</h2>\n{_legend(summary)}"
    if examples:
        yield "<h2>Best, middle and worst by PSNR</h2>\n"
        yield from (photo(row, tag) for tag, row in examples)
    yield "<h2>Photos</h2>\n"
    yield from map(photo, rows)


def _headline(summary: ReportSummary) -> str:
    """Title and one tile a metric: the model's mean and how far it is from the baseline's."""
    (_, model), *others = summary.methods.items()
    tiles = "".join(
        f'<li><span class="name quiet">{escape(heading(name))}</span>'
        f'<span class="value">{format_number(name, model[name], unit=True)}</span>'
        f'<span class="change">{change_text(name, model, others[0]) if others else ""}</span>'
        "</li>\n"
        for name in in_order(model)
        if name not in ("mse", "bytes")
    )
    lead = f'<p class="lead quiet">{escape(summary.lead)}</p>\n' if summary.lead else ""
    return f'<h1>{escape(summary.title)}</h1>\n{lead}<ul class="tiles">\n{tiles}</ul>\n'


def _legend(summary: ReportSummary) -> str:
    model = next(iter(summary.methods.values()))
    metrics = {
        heading(name): summary.definitions[name]
        for name in in_order(model)
        if name in summary.definitions
    }
    return (
        '<p class="lead">Ellipses are the contours of the Gaussians at one sigma. Their colour '
        "says how much area a token covered at the start, warm for the smallest, and stays with "
        "the token when the encoder moves and reshapes it. The error is the absolute difference "
        "between original and reconstruction, mean over colours: "
        f'<span class="range">0 <span class="scale" style="background: {_error_gradient()}">'
        f"</span> {MAX_ERROR:.0%}</span> of the colour range or more.</p>\n"
        + "".join(f'<p class="lead">{escape(note)}</p>\n' for note in summary.notes)
        + definitions(metrics, "wide")
    )


def _error_gradient() -> str:
    stops = matplotlib.colormaps["inferno"](np.linspace(0, 1, 9), bytes=True)[:, :3]
    colours = ", ".join("#" + bytes(stop.tolist()).hex() for stop in stops)
    return f"linear-gradient(to right, {colours})"
