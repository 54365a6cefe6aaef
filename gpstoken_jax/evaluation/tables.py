"""Results of a grid as tables: CSV for scripts, Markdown for a paper, text for the screen."""

import csv
import io
from collections.abc import Iterable, Sequence

from gpstoken_jax.evaluation.baselines import LABELS
from gpstoken_jax.evaluation.methods import UNFOCUSED
from gpstoken_jax.evaluation.results import CellResult

HEADINGS = {
    "psnr": "PSNR",
    "psnr_inside": "inside",
    "psnr_outside": "outside",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "rfid": "rFID",
    "fid": "FID",
    "sfid": "sFID",
    "vgg16_frechet": "Fréchet (VGG16)",
    "bytes": "bytes",
}
_DECIMALS = dict.fromkeys(("psnr", "psnr_inside", "psnr_outside", "rfid", "fid", "sfid"), 2)
_DECIMALS["bytes"] = 0
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


def format_metric(name: str, value: float | None) -> str:
    """A number as tables have it."""
    return "–" if value is None else f"{value:.{_DECIMALS.get(name, 3)}f}"


def metric_names(results: Iterable[CellResult]) -> list[str]:
    """The metrics that any method has, the known ones first, without the mean squared error."""
    found = dict.fromkeys(
        name
        for result in results
        if result.summary
        for values in result.summary["metrics"].values()
        for name in values
    )
    found.pop("mse", None)
    return [n for n in HEADINGS if n in found] + [n for n in found if n not in HEADINGS]


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


def table_rows(results: Sequence[CellResult]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, a row for every method of every cell that was measured.

    What is the same in all rows of all cells is left out: it is the protocol's to say.
    """
    measured = [result for result in results if result.summary]
    names = metric_names(measured)
    keys = {"run": _run, "data": _data, "size": _size}
    shown = [key for key, of in keys.items() if len({of(result) for result in measured}) > 1]
    headings = [*shown, "method", "values", *(HEADINGS.get(name, name) for name in names)]
    rows = []
    for result in measured:
        lead = [keys[key](result) for key in shown]
        values = str(result.summary["protocol"].get("values_per_image") or "–")
        for method, metrics in result.summary["metrics"].items():
            numbers = [format_metric(name, metrics.get(name)) for name in names]
            stored = "–" if method in ("jpeg", "webp") else values
            rows.append([*lead, method_label(method, result), stored, *numbers])
    return headings, rows


def _run(result: CellResult) -> str:
    protocol = result.summary["protocol"]
    return f"{protocol.get('checkpoint', protocol.get('images_folder'))}"


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
