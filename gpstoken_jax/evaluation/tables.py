"""Results of a grid as tables: CSV for scripts, Markdown for a paper, text for the screen."""

import csv
import io
from collections.abc import Iterable, Sequence

from gpstoken_jax.evaluation.baselines import COMPRESSED, LABELS
from gpstoken_jax.evaluation.methods import UNFOCUSED
from gpstoken_jax.evaluation.report.numbers import format_number, heading, in_order
from gpstoken_jax.evaluation.results import CellResult

_PROTOCOL_COLUMNS = (
    "checkpoint",
    "step",
    "weights",
    "images_folder",
    "data",
    "size",
    "num_tokens",
    "tiles",
    "values_per_image",
    "focus",
    "num_images",
    "rounding",
    "commit",
)


def method_label(method: str, result: CellResult) -> str:
    """What a reader knows a method by."""
    if method == UNFOCUSED:
        return f"{result.label}, without the focus"
    return LABELS.get(method, result.label)


def metric_names(results: Iterable[CellResult]) -> list[str]:
    """The metrics that any method has, without the mean squared error, which PSNR says better."""
    found = dict.fromkeys(
        name
        for result in results
        if result.summary
        for values in result.summary["metrics"].values()
        for name in values
        if name != "mse"
    )
    return in_order(found)


def to_csv(results: Sequence[CellResult]) -> str:
    """A line for every method of every cell; for a cell that failed, one with the reason."""
    names = ["mse", *metric_names(results)]
    columns = ["cell", "status", "method", *names, *_PROTOCOL_COLUMNS, "seconds", "error"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for result in results:
        if result.summary is None:
            writer.writerow({"cell": result.name, "status": "failed", "error": result.error})
            continue
        protocol = result.summary["protocol"]
        shared = {key: protocol[key] for key in _PROTOCOL_COLUMNS if key in protocol}
        shared |= {"cell": result.name, "status": "ok", "seconds": result.summary["seconds"]}
        for method, values in result.summary["metrics"].items():
            writer.writerow(shared | {"method": method} | values)
    return file.getvalue()


def lead_columns(results: Sequence[CellResult]) -> tuple[list[str], dict[str, list[str]]]:
    """What tells cells apart besides their method: headings, and by cell what stands there.

    What is the same in all cells is left out: it is the protocol's to say.
    """
    ways = {"run": _run, "data": _data, "size": _size}
    shown = [name for name, of in ways.items() if len({of(result) for result in results}) > 1]
    return shown, {result.name: [ways[name](result) for name in shown] for result in results}


def table_rows(results: Sequence[CellResult]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, a row for every method of every cell that was measured."""
    measured = [result for result in results if result.summary]
    names = metric_names(measured)
    shown, lead = lead_columns(measured)
    headings = [*shown, "method", "values", *map(heading, names)]
    rows = []
    for result in measured:
        values = str(result.summary["protocol"].get("values_per_image") or "–")
        for method, metrics in result.summary["metrics"].items():
            numbers = [format_number(name, metrics.get(name)) for name in names]
            stored = "–" if method in COMPRESSED else values
            rows.append([*lead[result.name], method_label(method, result), stored, *numbers])
    return headings, rows


def _run(result: CellResult) -> str:
    protocol = result.summary["protocol"]
    return protocol.get("checkpoint") or protocol["images_folder"]


def _data(result: CellResult) -> str:
    return result.summary["protocol"]["data_name"]


def _size(result: CellResult) -> str:
    return result.summary["protocol"]["size"]


def to_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, numbers to the right."""
    rule = ["---" if name in ("run", "data", "method") else "---:" for name in headings]
    lines = [headings, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_text(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for a screen."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    left = [name in ("run", "data", "size", "method") for name in headings]
    lines = [
        "  ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in (headings, *rows)
    ]
    return "\n".join(lines) + "\n"
