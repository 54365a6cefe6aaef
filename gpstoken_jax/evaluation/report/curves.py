"""Rate curves: a metric against the number of tokens, as SVG inside the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from gpstoken_jax.evaluation.report.numbers import UNITS, arrow, format_number, heading

_WIDTH, _HEIGHT = 420, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 34, 40
_COLOURS = 6  # as many as the style sheet has


@dataclass(frozen=True)
class Series:
    """One line: metrics by number of tokens; `colour` is a number."""

    label: str
    colour: int
    points: Mapping[int, Mapping[str, float]]
    dashed: bool = False

    def line(self, metric: str) -> list[tuple[int, float]]:
        """The points that have a metric, by number of tokens."""
        return sorted((n, values[metric]) for n, values in self.points.items() if metric in values)


def rate_curves(series: Sequence[Series], metrics: Sequence[str]) -> str:
    """A key, and a diagram for each metric that at least one line has at two token counts."""
    diagrams = [_diagram(series, metric) for metric in metrics if _is_drawn(series, metric)]
    if not diagrams:
        return ""
    keys = "".join(
        f'<li><svg viewBox="0 0 26 10"><polyline class="{_kind(one)}" stroke-width="2" '
        f'points="0,5 26,5"/></svg>{escape(one.label)}</li>\n'
        for one in series
    )
    return f'<ul class="keys">\n{keys}</ul>\n<div class="curves">\n{"".join(diagrams)}</div>\n'


def _is_drawn(series: Sequence[Series], metric: str) -> bool:
    return any(len(one.line(metric)) > 1 for one in series)


def _kind(one: Series) -> str:
    return f"c{one.colour % _COLOURS}" + " dashed" * one.dashed


def _diagram(series: Sequence[Series], metric: str) -> str:
    lines = [
        (
            one,
            sorted(
                (count, values[metric]) for count, values in one.points.items() if metric in values
            ),
        )
        for one in series
    ]
    counts = sorted({count for _, points in lines for count, _ in points})
    ticks = nice_ticks([value for _, points in lines for _, value in points])

    def x(count: int) -> float:
        first, last = math.log(counts[0]), math.log(counts[-1])
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log(count) - first) / (last - first)

    def y(value: float) -> float:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    name = f"{heading(metric)}{',' + UNITS[metric] if metric in UNITS else ''} {arrow(metric)}"
    parts = [f'<text class="name" x="12" y="20">{escape(name)}</text>']
    for tick in ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" '
            f'y2="{y(tick):.1f}"/><text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" '
            f'text-anchor="end">{tick:g}</text>'
        )
    for count in counts:
        parts.append(
            f'<text x="{x(count):.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
            f'text-anchor="middle">{count}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" '
        'text-anchor="middle">tokens an image</text>'
    )
    for one, points in lines:
        path = " ".join(f"{x(count):.1f},{y(value):.1f}" for count, value in points)
        parts.append(f'<polyline class="{_kind(one)}" points="{path}"/>')
        parts += [
            f'<circle class="{_kind(one)}" cx="{x(count):.1f}" cy="{y(value):.1f}" r="3.5">'
            f"<title>{escape(one.label)}: {count} tokens, "
            f"{format_number(metric, value, unit=True)}</title></circle>"
            for count, value in points
        ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(heading(metric))} against the number of tokens">'
        f"{''.join(parts)}</svg>\n"
    )


def nice_ticks(values: Sequence[float]) -> list[float]:
    """Three to seven round numbers that enclose the values."""
    low, high = min(values), max(values)
    span = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-9)
    power = 10 ** math.floor(math.log10(span / 3))
    step = next(power * k for k in (1, 2, 5, 10) if span / (power * k) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
