"""The page of a grid: a table of all cells, rate curves, examples, and links to their pages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from gpstoken_jax.evaluation.report.curves import Series, rate_curves
from gpstoken_jax.evaluation.report.figures import Picture
from gpstoken_jax.evaluation.report.html import definitions, page, write_whole
from gpstoken_jax.evaluation.report.numbers import in_order
from gpstoken_jax.evaluation.report.photos import compare_card
from gpstoken_jax.evaluation.report.published import published_block
from gpstoken_jax.evaluation.report.table import Lead, metrics_table


@dataclass(frozen=True)
class Example:
    """A photo of a cell: why it is shown, its name, and pictures by what they are called.

    The first picture is the original.
    """

    tag: str
    name: str
    pictures: Mapping[str, Picture]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class CellLink:
    """A cell with its own page, at `page` relative to the overview."""

    title: str
    page: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class Overview:
    """What the page of a grid shows.

    headings, rows, compared: of the table, see `metrics_table`
    series: lines of the rate curves
    protocol: what all cells have in common
    failures: what went wrong, by cell
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[tuple[Lead, Mapping[str, float]]]
    compared: Sequence[Lead]
    series: Sequence[Series]
    protocol: Mapping[str, object]
    cells: Sequence[CellLink]
    failures: Mapping[str, str]


def write_overview(path: str | Path, overview: Overview) -> Path:
    """Write the page to `path` and return it; an older one is replaced when it is whole."""
    return write_whole(path, page(overview.title, _body(overview)))


def _body(overview: Overview) -> Iterable[str]:
    yield f"<h1>{escape(overview.title)}</h1>\n"
    if overview.failures:
        yield f"<h2>Failed</h2>\n{definitions(overview.failures, 'wide bad')}"
    table = metrics_table(overview.headings, overview.rows, compared=overview.compared)
    yield f"<h2>Means over all images</h2>\n{table}"
    yield published_block()
    names = in_order(
        n for _, metrics in overview.rows for n in metrics if n not in ("mse", "bytes")
    )
    if curves := rate_curves(overview.series, names):
        yield f"<h2>Rate curves</h2>\n{curves}"
    yield f"<h2>What was measured</h2>\n{definitions(overview.protocol)}"
    for cell in overview.cells:
        yield (
            f'<h2>{escape(cell.title)}</h2>\n<p class="lead quiet">All pictures and the protocol: '
            f'<a href="{escape(cell.page)}">{escape(cell.page)}</a></p>\n<div class="cards">\n'
        )
        for example in cell.examples:
            yield compare_card(example.tag, example.name, example.pictures, example.metrics)
        yield "</div>\n"
