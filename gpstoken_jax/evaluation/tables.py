"""Results as tables: CSV for scripts, Markdown for a paper, text for the screen, and for pages."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from gpstoken_jax.evaluation.methods import UNFOCUSED, rate_label, split_name
from gpstoken_jax.evaluation.results import CellResult, Metrics
from gpstoken_jax.metrics.baselines import COMPRESSED, LABELS
from gpstoken_jax.metrics.catalogue import direction, format_number, heading, in_order
from gpstoken_jax.runtime.text import csv_text, markdown_text, terminal_text

_PROTOCOL_COLUMNS = (
    "checkpoint", "step", "weights", "images_folder", "data", "size", "num_tokens", "tiles",
    "values_per_image", "focus", "num_images", "rounding", "commit",
)  # fmt: skip
_TEXT_COLUMNS = ("run", "data", "size", "method", "method, as published")

# Figures of the tables of arXiv 2509.01109 (GPSToken), which has those of other methods too, to
# place a measurement; none of them is measured here.
PUBLISHED_NOTE = (
    "As published, ImageNet val, 256 x 256 unless the name says otherwise; not measured here. "
    "Another data set, crop or rounding gives other figures."
)
PUBLISHED_METRICS = ("psnr", "ssim", "lpips", "rfid", "rsfid")
PUBLISHED = {  # tokens, then the metrics above
    "GPSToken-S64": ("64", 22.18, 0.578, 0.111, 1.31, None),
    "GPSToken-M128": ("128", 24.06, 0.657, 0.080, 0.65, None),
    "GPSToken-L256": ("256", 28.81, 0.809, 0.043, 0.22, None),
    "SDXL-VAE": ("32 x 32", 25.55, 0.727, 0.066, 0.73, None),
    "VA-VAE": ("16 x 16", 25.76, 0.742, 0.050, 0.27, None),
    "DC-AE": ("8 x 8", 23.62, 0.644, 0.092, 0.98, None),
    "TiTok-B64": ("64", 17.01, 0.390, 0.263, 1.75, None),
    "TiTok-S128": ("128", 17.66, 0.413, 0.220, 1.73, None),
    "MAETok": ("128", 23.25, 0.626, 0.096, 0.65, None),
    "FlexTok": ("256", 17.69, 0.475, 0.257, 4.02, None),
    "GPSToken-M128, 512 x 512": ("512", 26.74, 0.764, 0.073, 0.367, 1.93),
    "GPSToken-L256, 512 x 512": ("1024", 32.00, 0.887, 0.039, 0.175, 0.699),
    "GPSToken-M128, 1024 x 1024": ("2048", 31.22, 0.873, 0.072, 0.236, 1.24),
    "GPSToken-L256, 1024 x 1024": ("4096", 37.71, 0.955, 0.031, 0.055, 0.276),
}


def method_label(method: str, result: CellResult) -> str:
    """Name of a method for a reader."""
    if method == UNFOCUSED:
        return f"{result.label}, without the focus"
    return rate_label(method) or LABELS.get(method, result.label)


def metric_names(results: Iterable[CellResult]) -> list[str]:
    """The metrics that any method has, without the mean squared error, which PSNR says better."""
    of = (values for result in results if result.summary for values in result.metrics.values())
    return in_order(name for values in of for name in values if name != "mse")


def to_csv(results: Sequence[CellResult]) -> str:
    """A line for every method of every cell; for a cell that failed, one with the reason."""
    names = ["mse", *metric_names(results)]
    columns = ["cell", "status", "method", *names, *_PROTOCOL_COLUMNS, "seconds", "error"]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()

    def write(row: dict[str, Any]) -> None:
        texts = {key: csv_text(value) for key, value in row.items() if isinstance(value, str)}
        writer.writerow(row | texts)

    for result in results:
        if result.summary is None:
            write({"cell": result.name, "status": "failed", "error": result.error})
            continue
        shared = {k: result.protocol[k] for k in _PROTOCOL_COLUMNS if k in result.protocol}
        shared |= {"cell": result.name, "status": "ok", "seconds": result.summary["seconds"]}
        for method, values in result.metrics.items():
            write(shared | {"method": method} | values)
    return file.getvalue()


def lead_columns(results: Sequence[CellResult]) -> tuple[list[str], dict[str, list[str]]]:
    """Headings of what tells cells apart besides their method, and by cell what stands there.

    What is the same in all cells is left out: it is the protocol's to say.
    """
    values = {
        "run": lambda protocol: protocol.get("checkpoint") or protocol["images_folder"],
        "data": lambda protocol: protocol["data_name"],
        "size": lambda protocol: protocol["size"],
    }
    shown = [n for n, of in values.items() if len({of(one.protocol) for one in results}) > 1]
    return shown, {one.name: [values[name](one.protocol) for name in shown] for one in results}


def table_rows(results: Sequence[CellResult]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, a row for every method of every cell that was measured."""
    measured = [result for result in results if result.summary]
    names = metric_names(measured)
    shown, lead = lead_columns(measured)
    headings = [*shown, "method", "values", *map(heading, names)]
    rows = []
    for result in measured:
        values = str(result.protocol.get("values_per_image") or "–")
        for method, metrics in result.metrics.items():
            numbers = [format_number(name, metrics.get(name)) for name in names]
            stored = "–" if method in COMPRESSED or split_name(method) else values
            rows.append([*lead[result.name], method_label(method, result), stored, *numbers])
    return headings, rows


def to_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, numbers to the right."""
    rule = ["---" if name in _TEXT_COLUMNS and name != "size" else "---:" for name in headings]
    lines = [headings, rule, *([markdown_text(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_text(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for a screen."""
    rows = [[terminal_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if name in _TEXT_COLUMNS else cell.rjust(width)
            for cell, width, name in zip(line, widths, headings, strict=True)
        ).rstrip()
        for line in (headings, *rows)
    ]
    return "\n".join(lines) + "\n"


def markdown_page(results: Sequence[CellResult]) -> str:
    """The table, what it measured, the published figures, and what failed."""
    measured = [result for result in results if result.summary]
    parts = ["# Evaluation\n", to_markdown(*table_rows(results))]
    if measured:
        parts.append("## Protocol\n\n" + "".join(f"- {line}\n" for line in _protocol(measured)))
    head = ["method, as published", "tokens", *map(heading, PUBLISHED_METRICS)]
    rows = [
        [name, tokens, *map(format_number, PUBLISHED_METRICS, values)]
        for name, (tokens, *values) in PUBLISHED.items()
    ]
    parts.append(f"## Published figures\n\n{PUBLISHED_NOTE}\n\n{to_markdown(head, rows)}")
    if failed := failures(results):
        lines = (f"- {markdown_text(f'{n}: {error}')}\n" for n, error in failed.items())
        parts.append(f"## Failed\n\n{''.join(lines)}")
    return "\n".join(parts)


def _protocol(results: Sequence[CellResult]) -> Iterable[str]:
    """Lines on what all cells have in common, and what each has for itself."""
    common = common_protocol(results)
    entries = {key.replace("_", " "): value for key, value in common.items()}
    for key, value in (entries | results[0].summary["definitions"]).items():
        yield f"{key}: {markdown_text(value)}"
    for result in results:
        if own := {key: value for key, value in result.protocol.items() if key not in common}:
            text = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in own.items())
            yield markdown_text(f"{result.name}: {text}")


def common_protocol(results: Sequence[CellResult]) -> dict[str, object]:
    """Entries that the protocols of all cells have in common."""
    first, *others = (result.protocol for result in results) if results else ({},)
    return {
        key: value for key, value in first.items() if all(one.get(key) == value for one in others)
    }


def failures(results: Sequence[CellResult]) -> dict[str, str]:
    """Errors by the cells that failed of them: a broken checkpoint is one mistake."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.error:
            found.setdefault(result.error, []).append(result.name)
    return {", ".join(names): error for error, names in found.items()}


def describe_gain(result: CellResult) -> str:
    """The evaluated method beside the first baseline, in a sentence."""
    model, *others = (
        values
        for method, values in result.metrics.items()
        if method != UNFOCUSED and not split_name(method)
    )
    count = f"{result.protocol['num_images']} images"
    if not others:
        return count
    gain = model["psnr"] - others[0]["psnr"]
    return f"{count}, {gain:+.2f} dB PSNR against the baseline"


def focus_effect(result: CellResult) -> str:
    """The change that a focus makes, in a sentence; empty without one."""
    if UNFOCUSED not in result.metrics:
        return ""
    before, after = result.metrics[UNFOCUSED], next(iter(result.metrics.values()))
    parts = (
        f"{place} it changes PSNR from {before[name]:.2f} to {after[name]:.2f} dB"
        for place, name in (("inside", "psnr_inside"), ("outside", "psnr_outside"))
    )
    return f"The focus: {', '.join(parts)}."


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


def published_table() -> dict[str, Any]:
    """The published figures as a table for its template, with their note."""
    rows = [
        ((name, tokens), {n: v for n, v in zip(PUBLISHED_METRICS, values, strict=True) if v})
        for name, (tokens, *values) in PUBLISHED.items()
    ]
    table = metrics_table(["Method, as published", "Tokens"], rows, [lead for lead, _ in rows])
    return table | {"note": PUBLISHED_NOTE}
