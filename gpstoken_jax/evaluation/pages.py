"""Reports as HTML files that stand alone: pictures, style and script are inside, nothing is loaded.

The pages are Jinja2 templates beside this file, which escape all text that they are given.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2

from gpstoken_jax.evaluation.curves import Series, rate_curve, rate_series, storage_series
from gpstoken_jax.evaluation.methods import UNFOCUSED
from gpstoken_jax.evaluation.pictures import MAX_ERROR, Photo, data_uri
from gpstoken_jax.evaluation.results import CellResult, Metrics
from gpstoken_jax.evaluation.tables import (
    common_protocol,
    failures,
    focus_effect,
    lead_columns,
    method_label,
    metrics_table,
    published_table,
)
from gpstoken_jax.metrics.catalogue import (
    METRICS,
    arrow,
    format_number,
    heading,
    in_order,
    is_better,
)

PAGE_NAME = "report.html"
MAP_NOTE = (
    "The density is how many tokens there are around a place, bright where there are many. The "
    "feature map is what the tokens draw and the decoder reads; its colours are its three "
    "principal components, taken anew in each photo."
)
FOCUS_NOTE = (
    "A focus, outlined in the drawings, asks for tokens in a part of the image. The figures "
    "without it show what the same weights and as many tokens make of the photo if left alone."
)
_PIXELS_VISIBLE_BELOW = 160
_NOT_SHOWN = ("mse", "bytes")  # where there is little room


def report_page(
    *,
    title: str,
    methods: Mapping[str, Metrics],
    protocol: Mapping[str, object],
    photos: Iterable[Photo] = (),
    examples: Iterable[Photo] = (),
    lead: str = "",
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    published: bool = False,
    series: Sequence[Series] = (),
) -> Iterator[bytes]:
    """Makes the report of a cell, in pieces: no more than one photo is ever held as text.

    Args:
      title: a line; ``lead``: a sentence or two below it.
      methods: mean metrics by name of the method; the evaluated one first.
      protocol: what was measured and how, in the order shown.
      photos: may be a generator: one photo at a time is encoded.
      examples: photos that come first, each with a tag.
      notes: paragraphs on how to read what the photos have besides.
      warnings: what to beware of.
      published: whether the published figures follow.
      series: lines over bytes.

    Raises:
      ValueError: if there is no method to show.
    """
    if not methods:
        raise ValueError("a report needs the mean metrics of at least one method")
    (_, model), *others = methods.items()
    names = [name for name in in_order(model) if name not in _NOT_SHOWN]
    curves = [rate_curve(name, series, "bytes") for name in names] if series else []
    return render(
        "report.html",
        title=title,
        lead=lead,
        tiles=[(name, _change(name, model, others[0] if others else None)) for name in names],
        model=model,
        warnings=warnings,
        table=metrics_table(["Method"], [((name,), m) for name, m in methods.items()]),
        published=published_table() if published else None,
        series=series,
        curves=[curve for curve in curves if curve],
        protocol=protocol,
        notes=notes,
        definitions_of_metrics={
            heading(n): METRICS[n].definition for n in in_order(model) if n in METRICS
        },
        max_error=MAX_ERROR,
        examples=list(examples),
        photos=photos,
    )


def cell_page(
    title: str,
    result: CellResult,
    photos: Iterable[Photo],
    examples: Iterable[Photo],
    maps: bool = True,
) -> Iterator[bytes]:
    """Makes the report of a cell's result. See ``report_page``."""
    focused, tokens = UNFOCUSED in result.metrics, "num_tokens" in result.protocol
    return report_page(
        title=title,
        methods={method_label(method, result): means for method, means in result.metrics.items()},
        protocol={name.replace("_", " "): value for name, value in result.protocol.items()},
        photos=photos,
        examples=examples,
        lead=focus_effect(result),
        notes=(MAP_NOTE,) * (maps and tokens) + (FOCUS_NOTE,) * focused,
        warnings=result.summary["warnings"],
        published=True,
        series=storage_series(result.metrics),
    )


def overview_page(
    results: Sequence[CellResult], examples: Mapping[str, Sequence[Photo]]
) -> Iterator[bytes]:
    """Makes the page of a grid: a table of all cells, rate curves, examples, links to their pages.

    Args:
      results: of all cells.
      examples: photos by name of the cell.
    """
    measured = [result for result in results if result.summary]
    shown, lead = lead_columns(measured)
    rows = [
        ((*lead[result.name], method_label(method, result)), metrics)
        for result in measured
        for method, metrics in result.metrics.items()
    ]
    compared = [
        tuple(str(result.protocol.get(key)) for key in ("data", "size", "values_per_image"))
        for result in measured
        for _ in result.metrics
    ]
    names = in_order(n for _, metrics in rows for n in metrics if n not in _NOT_SHOWN)
    series = rate_series(measured)
    return render(
        "overview.html",
        title=f"Evaluation of {len(results)} combinations",
        failures=failures(results),
        table=metrics_table([*shown, "method"], rows, compared),
        published=published_table(),
        series=series,
        curves=[curve for name in names if (curve := rate_curve(name, series))],
        protocol={n.replace("_", " "): text for n, text in common_protocol(measured).items()},
        cells=[
            {
                "title": " · ".join([*lead[result.name], result.label]),
                "page": result.file(PAGE_NAME),
                "examples": examples.get(result.name, ()),
            }
            for result in measured
        ],
    )


def render(template: str, **context: Any) -> Iterator[bytes]:
    """Fills in a template, in pieces."""
    for piece in _environment().get_template(template).generate(**context):
        yield piece.encode("utf-8", "backslashreplace")


@lru_cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("gpstoken_jax.evaluation")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for kind in ("style", "script"):
        source, *_ = loader.get_source(environment, f"{kind}.{'css' if kind == 'style' else 'js'}")
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")
        environment.globals |= {kind: jinja2.filters.Markup(source), f"{kind}_hash": digest}
    environment.filters |= {
        "heading": heading,
        "arrow": arrow,
        "number": lambda value, name: format_number(name, value, unit=True),
        "numbers": _numbers,
        "change": lambda photo: _change("psnr", photo.metrics, photo.baseline),
        "data_uri": data_uri,
        "is_small": lambda picture: min(picture.shape[:2]) < _PIXELS_VISIBLE_BELOW,
    }
    return environment


def _numbers(metrics: Metrics) -> str:
    shown = (name for name in in_order(metrics) if name not in _NOT_SHOWN)
    parts = [f"{heading(name)} {format_number(name, metrics[name], unit=True)}" for name in shown]
    parts += [f"{metrics['bytes']:.0f} bytes"] if "bytes" in metrics else []
    return " · ".join(parts)


def _change(name: str, model: Metrics, other: tuple[str, Metrics] | None) -> dict[str, str] | None:
    """The difference to another method, and which of the two is better."""
    method, means = other or ("", {})
    if name not in means or name not in model:
        return None
    difference = format_number(name, model[name] - means[name], unit=True, sign=True)
    kind = "good" if is_better(name, model[name], means[name]) else "bad"
    return {"kind": kind, "difference": difference, "method": method}
