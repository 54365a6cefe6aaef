"""Reports as HTML files that stand alone: pictures, style and script are inside, nothing is loaded.

The pages are Jinja2 templates beside this file, which escape all text that they are given.
"""

import base64
import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from gpstoken_jax.evaluation.measurement import Outcome
from gpstoken_jax.evaluation.methods import MODEL, UNFOCUSED, coder_label, rate_label, split_name
from gpstoken_jax.evaluation.results import CellResult
from gpstoken_jax.evaluation.tables import (
    PUBLISHED,
    PUBLISHED_METRICS,
    PUBLISHED_NOTE,
    common_protocol,
    failures,
    focus_effect,
    lead_columns,
    method_label,
)
from gpstoken_jax.metrics.baselines import SHORT_LABELS
from gpstoken_jax.metrics.catalogue import (
    METRICS,
    arrow,
    direction,
    format_number,
    heading,
    in_order,
    is_better,
)
from gpstoken_jax.runtime.outputs import Output
from gpstoken_jax.tokens.visualize import (
    draw_density,
    draw_error,
    draw_features,
    draw_gaussians,
    draw_outline,
    to_uint8,
    token_colours,
)

PAGE_NAME = "report.html"
MAX_ERROR = 0.25
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
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 280, 52, 16, 34, 40  # of a rate curve
_COLOURS = 6  # as many as the style sheet has

Picture = UInt8[np.ndarray, "h w 3"]
Metrics = Mapping[str, float]


# ---- Photos --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    Attributes:
      exact: stored without loss.
      metrics: stand below it.
      compared: the page's slider can show it beside the original.
    """

    caption: str
    picture: Picture
    exact: bool = False
    metrics: Metrics = field(default_factory=dict)
    compared: bool = False


class Photo(NamedTuple):
    """An image on a page.

    Attributes:
      name: of its file.
      figures: the original first.
      metrics: of the evaluated method.
      baseline: name and metrics of what it is compared with.
      tag: reason why it is shown.
    """

    name: str
    figures: Sequence[Figure]
    metrics: Metrics = {}  # noqa: RUF012 - never written to
    baseline: tuple[str, Metrics] | None = None
    tag: str = ""


def draw_photo(
    name: str,
    image: Float[np.ndarray, "h w 3"],
    outcomes: Mapping[str, Outcome],
    *,
    inside: Bool[np.ndarray, "h w"] | None = None,
    maps: bool = True,
) -> Photo:
    """Draws all that a report shows of an image.

    Args:
      name: of the image.
      image: in [-1, 1].
      outcomes: of the methods, the evaluated one first. One without tokens has no drawings of
        Gaussians; one without metrics has no original, and only the image itself is shown.
      inside: a focus, to be outlined in the drawings.
      maps: whether token density and feature map are shown.
    """
    (_, model), *others = outcomes.items()
    if not model.metrics:
        return Photo(name, [Figure("Image", to_uint8(image), True, compared=True)])
    others = dict(others)
    unfocused = others.pop(UNFOCUSED, None)
    baselines = [
        Figure(
            rate_label(n, True) or SHORT_LABELS.get(n, n),
            to_uint8(one.reconstruction),
            True,
            one.metrics,
            True,
        )
        for n, one in others.items()
    ]
    figures = [
        Figure("Original", to_uint8(image), True, compared=True),
        *_draw_tokens(image, model, inside),
        Figure("Reconstruction", to_uint8(model.reconstruction), True, model.metrics, True),
        *baselines[:1],
        Figure("Error", draw_error(image, model.reconstruction, max_error=MAX_ERROR), True),
    ]
    if unfocused is not None:
        text = " without the focus"
        again = to_uint8(unfocused.reconstruction)
        figures += _draw_tokens(image, unfocused, inside, text)
        figures.append(Figure(f"Reconstruction{text}", again, True, unfocused.metrics, True))
    figures += baselines[1:]
    if maps and model.tokens:
        features = model.tokens["feature_map"]
        size = (4 * features.shape[0], 4 * features.shape[1])
        figures.append(Figure("Token density", draw_density(model.tokens["refined"], size)))
        figures.append(Figure("Feature map", draw_features(features[None])[0], exact=True))
    first = (baselines[0].caption, baselines[0].metrics) if baselines else None
    return Photo(name, figures, model.metrics, first)


def _draw_tokens(
    image: Float[np.ndarray, "h w 3"],
    outcome: Outcome,
    inside: Bool[np.ndarray, "h w"] | None,
    text: str = "",
) -> list[Figure]:
    """The Gaussians before and after the encoder, a token in one colour."""
    if not outcome.tokens:
        return []
    colours = token_colours(outcome.tokens["initial"])
    drawn = [
        draw_gaussians(image, outcome.tokens[kind], colours=colours)
        for kind in ("initial", "refined")
    ]
    if inside is not None:
        drawn = [draw_outline(picture, inside) for picture in drawn]
    kinds = (f"Initial Gaussians{text}", f"Refined Gaussians{text}")
    return [Figure(kind, picture) for kind, picture in zip(kinds, drawn, strict=True)]


def write_examples(output: Output, cell: CellResult, photos: Iterable[Photo]) -> list[dict]:
    """Writes originals and reconstructions as PNG files into a cell's directory.

    Returns:
      What the cell's JSON file says of them, with paths relative to it.
    """
    written = []
    for number, photo in enumerate(photos, 1):
        files = {}
        for figure in photo.figures:
            if figure.caption in ("Original", "Reconstruction"):
                file = f"examples/{number}_{photo.tag}_{figure.caption.lower()}.png"
                output.write(cell.file(file), _encode(figure.picture, "png"), durable=False)
                files[figure.caption] = file
        one = {"tag": photo.tag, "name": photo.name, "metrics": dict(photo.metrics)}
        written.append(one | {"files": files})
    return written


def read_examples(output: Output, cell: CellResult) -> list[Photo]:
    """The examples that ``write_examples`` wrote, but for those whose files are gone or damaged."""
    photos = []
    for one in cell.summary["examples"]:
        try:
            figures = [
                Figure(
                    caption, np.asarray(Image.open(output.check(cell.file(file)))), True, {}, True
                )
                for caption, file in one["files"].items()
            ]
        except (OSError, ValueError):
            continue
        photos.append(Photo(one["name"], figures, one["metrics"], tag=one["tag"]))
    return photos


# ---- Pages ---------------------------------------------------------------------------------------


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
    series: "Sequence[Series]" = (),
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
        published=_published() if published else None,
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
        published=_published(),
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
        "data_uri": _data_uri,
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


def _data_uri(figure: Figure) -> str:
    """PNG for what must be exact; WebP, far smaller, for drawings."""
    kind = "png" if figure.exact else "webp"
    data = base64.b64encode(_encode(figure.picture, kind)).decode("ascii")
    return f"data:image/{kind};base64,{data}"


def _encode(picture: Picture, kind: str) -> bytes:
    options = {"optimize": True} if kind == "png" else {"quality": 88}
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


# ---- Tables and curves ---------------------------------------------------------------------------


def metrics_table(
    headings: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Metrics]],
    compared: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """A table of metrics that the page's script makes sortable, for its template.

    Args:
      headings: of the columns before the metrics.
      rows: the cells of those columns, and the metrics by name; where one has none there is a dash.
      compared: kind of each row: the best of every metric among those of one kind stands out. None:
        all are of one kind.
    """
    names = in_order(name for _, metrics in rows for name in metrics)
    kinds = list(compared) if compared is not None else [()] * len(rows)
    values: dict[tuple, list[float]] = {}
    for (_, metrics), kind in zip(rows, kinds, strict=True):
        for name, value in metrics.items():
            values.setdefault((name, kind), []).append(value)
    best = {
        key: min(some) if direction(key[0]) == "lower" else max(some)
        for key, some in values.items()
        if len(some) > 1 and direction(key[0])
    }
    return {
        "headings": headings,
        "names": names,
        "rows": [
            {
                "lead": lead,
                "cells": [
                    (
                        format_number(name, metrics.get(name)),
                        name in metrics and metrics[name] == best.get((name, kind)),
                    )
                    for name in names
                ],
            }
            for (lead, metrics), kind in zip(rows, kinds, strict=True)
        ],
    }


def _published() -> dict[str, Any]:
    rows = [
        ((name, tokens), {n: v for n, v in zip(PUBLISHED_METRICS, values, strict=True) if v})
        for name, (tokens, *values) in PUBLISHED.items()
    ]
    table = metrics_table(["Method, as published", "Tokens"], rows, [lead for lead, _ in rows])
    return table | {"note": PUBLISHED_NOTE}


class Series(NamedTuple):
    """A line over the number of tokens, or of bytes: metrics by that number."""

    label: str
    colour: int
    points: Mapping[int, Metrics]
    dashed: bool = False

    @property
    def kind(self) -> str:
        """Classes of the style sheet."""
        return f"c{self.colour % _COLOURS}" + " dashed" * self.dashed

    def line(self, metric: str) -> list[tuple[int, float]]:
        """The points that have a metric, by number of tokens."""
        return sorted((n, values[metric]) for n, values in self.points.items() if metric in values)


def rate_series(results: Sequence[CellResult]) -> list[Series]:
    """Lines of every checkpoint, data set and size, and of their baselines."""
    shown, lead = lead_columns(results)
    own = {MODEL: "GPSToken", UNFOCUSED: "GPSToken without the focus"}
    groups: dict[tuple[str, ...], list[CellResult]] = {}
    for result in results:
        if result.protocol.get("num_tokens"):
            groups.setdefault(tuple(lead[result.name]), []).append(result)
    series: list[Series] = []
    for of, cells in groups.items():
        names = dict.fromkeys(name for cell in cells for name in cell.metrics)
        for method in (name for name in names if not split_name(name)):
            points = {
                cell.protocol["num_tokens"]: cell.metrics[method]
                for cell in cells
                if method in cell.metrics
            }
            parts = [
                part for name, part in zip(shown, of, strict=True) if method in own or name != "run"
            ]
            label = " · ".join([*parts, own.get(method) or SHORT_LABELS[method]])
            if method in own or not any(points == other.points for other in series):
                series.append(Series(label, len(series), points, dashed=method != MODEL))
    return series


def storage_series(methods: Mapping[str, Metrics]) -> list[Series]:
    """Lines of the tokens in bits and of the files of as many bytes, over the bytes of an image."""
    lines: dict[str, dict[int, Metrics]] = {}
    for method, metrics in methods.items():
        if parts := split_name(method):
            lines.setdefault(parts[0], {})[round(metrics["bytes"])] = metrics
    return [
        Series(coder_label(coder), number, points, dashed=number > 0)
        for number, (coder, points) in enumerate(lines.items())
    ]


def rate_curve(metric: str, series: Sequence[Series], of: str = "tokens") -> dict[str, Any] | None:
    """A diagram of a metric, for its template; None if no line has it at two numbers of tokens.

    ``of`` is what is counted, tokens or bytes; of bytes only every other number may be written.
    """
    lines = [(one, one.line(metric)) for one in series]
    if not any(len(points) > 1 for _, points in lines):
        return None
    counts = sorted({count for _, points in lines for count, _ in points})
    written = counts if of == "tokens" else [count for count, _ in lines[0][1]]
    unit = METRICS[metric].unit if metric in METRICS else ""

    def text(one: Series, count: int, value: float) -> str:
        return f"{one.label}: {count} {of}, {format_number(metric, value, unit=True)}"

    return diagram(
        name=f"{heading(metric)}{',' + unit if unit else ''} {arrow(metric)}",
        label=f"{heading(metric)} against the number of {of}",
        below=f"{of} an image",
        lines=[(one.kind, [(n, v, text(one, n, v)) for n, v in points]) for one, points in lines],
        written=[(count, str(count)) for count in written],
        scale=math.log,
    )


def diagram(
    *,
    name: str,
    label: str,
    below: str,
    lines: Sequence[tuple[str, Sequence[tuple[float, float, str]]]],
    written: Sequence[tuple[float, str]],
    scale: Callable[[float], float] = float,
) -> dict[str, Any]:
    """Makes a diagram for its template.

    Args:
      name: stands above it.
      label: says what it is to those who do not see it.
      below: what the horizontal axis counts.
      lines: classes of the style sheet and points (x, y, text); those with a text are marked.
      written: numbers that stand on the horizontal axis, with their text.
      scale: of that axis.
    """
    ticks = nice_ticks([value for _, points in lines for _, value, _ in points])
    sides = [scale(x) for _, points in lines for x, _, _ in points]
    first, width = min(sides), (max(sides) - min(sides)) or 1.0

    def across(value: float) -> str:
        return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * (scale(value) - first) / width:.1f}"

    def up(value: float) -> str:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return f"{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share:.1f}"

    return {
        "name": name,
        "label": label,
        "below": below,
        "size": (_WIDTH, _HEIGHT),
        "sides": (_LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM),
        "ticks": [(up(tick), f"{tick:g}") for tick in ticks],
        "counts": [(across(number), text) for number, text in written],
        "lines": [
            {"kind": kind, "points": [(across(x), up(y), text) for x, y, text in points]}
            for kind, points in lines
        ],
    }


def nice_ticks(values: Sequence[float]) -> list[float]:
    """Three to seven round numbers that enclose the values."""
    low, high = min(values), max(values)
    span = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-9)
    power = 10 ** math.floor(math.log10(span / 3))
    step = next(power * k for k in (1, 2, 5, 10) if span / (power * k) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
