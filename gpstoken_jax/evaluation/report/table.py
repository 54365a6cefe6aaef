"""Tables of metrics that the page's script makes sortable."""

from collections.abc import Mapping, Sequence
from html import escape

from gpstoken_jax.evaluation.report.numbers import BETTER, arrow, format_number, heading, in_order

Lead = tuple[str, ...]


def metrics_table(
    headings: Sequence[str],
    rows: Sequence[tuple[Lead, Mapping[str, float]]],
    *,
    compared: Sequence[Lead] | None = None,
    sortable: bool = True,
) -> str:
    """A row for each of some methods.

    headings: of the columns before the metrics
    rows: the cells of those columns, and the metrics by name; where one has none there is a dash
    compared: for each row what it may be compared by: the best of every metric among those of one
        kind stands out. None: all are of one kind
    """
    names = in_order(name for _, metrics in rows for name in metrics)
    kinds = list(compared) if compared is not None else [()] * len(rows)
    of_kind = {kind: [r for r, k in zip(rows, kinds, strict=True) if k == kind] for kind in kinds}
    best = {(name, kind): _best(name, of_kind[kind]) for kind in of_kind for name in names}
    head = "".join(f'<th scope="col" class="text">{escape(t)}</th>' for t in headings) + "".join(
        f'<th scope="col">{escape(f"{heading(n)} {arrow(n)}".strip())}</th>' for n in names
    )
    body = "".join(
        "<tr>"
        + _lead(lead)
        + "".join(_cell(name, metrics.get(name), best[name, kind]) for name in names)
        + "</tr>\n"
        for (lead, metrics), kind in zip(rows, kinds, strict=True)
    )
    sorting = ' class="sortable"' if sortable and len(rows) > 1 else ""
    return (
        f'<div class="scroll"><table{sorting}>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _best(name: str, rows: Sequence[tuple[Lead, Mapping[str, float]]]) -> float | None:
    """The best value, if there is one to be better than."""
    values = [metrics[name] for _, metrics in rows if name in metrics]
    if len(values) < 2 or name not in BETTER:
        return None
    return min(values) if BETTER[name] == "lower" else max(values)


def _lead(texts: Lead) -> str:
    first, *others = texts
    cells = "".join(f'<td class="text">{escape(text)}</td>' for text in others)
    return f'<th scope="row">{escape(first)}</th>{cells}'


def _cell(name: str, value: float | None, best: float | None) -> str:
    kind = ' class="best"' if value is not None and value == best else ""
    return f"<td{kind}>{format_number(name, value)}</td>"
