"""Diagrams of a page: lines over the number of tokens, of bytes or of steps, with their axes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gpstoken_jax.evaluation.methods import MODEL, UNFOCUSED, coder_label, split_name
from gpstoken_jax.evaluation.results import CellResult, Metrics
from gpstoken_jax.evaluation.tables import lead_columns
from gpstoken_jax.metrics.baselines import SHORT_LABELS
from gpstoken_jax.metrics.catalogue import METRICS, arrow, format_number, heading

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 280, 52, 16, 34, 40  # of a diagram
_COLOURS = 6  # as many as the style sheet has


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
