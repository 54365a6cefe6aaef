"""Tables of metrics that the page's script makes sortable."""

from collections.abc import Mapping, Sequence
from html import escape

from gpstoken_jax.report.numbers import LOWER_IS_BETTER, format_number, heading, in_order

Lead = tuple[str, ...]


def metrics_table(
    headings: Sequence[str],
    rows: Sequence[tuple[Lead, Mapping[str, float]]],
    *,
    mark_best: bool = True,
    sortable: bool = True,
) -> str:
    """A row for each of some methods.

    headings: of the columns before the metrics
    rows: the cells of those columns, and the metrics by name; where one has none there is a dash
    mark_best: the best of every metric stands out
    """
    names = in_order(name for _, metrics in rows for name in metrics)
    best = {name: _best(name, rows) for name in names} if mark_best else {}
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in headings) + "".join(
        f'<th scope="col" class="number">{escape(heading(n))} '
        f"{'↓' if n in LOWER_IS_BETTER else '↑'}</th>"
        for n in names
    )
    body = "".join(
        "<tr>"
        + _lead(lead)
        + "".join(_cell(name, metrics.get(name), best.get(name)) for name in names)
        + "</tr>\n"
        for lead, metrics in rows
    )
    kind = ' class="sortable"' if sortable and len(rows) > 1 else ""
    return (
        f'<div class="scroll"><table{kind}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _best(name: str, rows: Sequence[tuple[Lead, Mapping[str, float]]]) -> float:
    values = [metrics[name] for _, metrics in rows if name in metrics]
    return min(values) if name in LOWER_IS_BETTER else max(values)


def _lead(texts: Lead) -> str:
    first, *others = texts
    cells = "".join(f'<td class="text">{escape(text)}</td>' for text in others)
    return f'<th scope="row">{escape(first)}</th>{cells}'


def _cell(name: str, value: float | None, best: float | None) -> str:
    kind = ' class="best"' if value is not None and value == best else ""
    return f"<td{kind}>{format_number(name, value)}</td>"
