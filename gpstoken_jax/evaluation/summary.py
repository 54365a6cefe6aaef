"""What is written of all cells together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpstoken_jax.evaluation.baselines import SHORT_LABELS
from gpstoken_jax.evaluation.methods import MODEL, UNFOCUSED
from gpstoken_jax.evaluation.pages import PAGE_NAME, read_examples
from gpstoken_jax.evaluation.report.curves import Series
from gpstoken_jax.evaluation.report.html import write_whole
from gpstoken_jax.evaluation.report.overview import CellLink, Overview, write_overview
from gpstoken_jax.evaluation.report.published import published_markdown
from gpstoken_jax.evaluation.results import CellResult
from gpstoken_jax.evaluation.tables import (
    lead_columns,
    method_label,
    table_rows,
    to_csv,
    to_markdown,
    to_text,
)

CSV_NAME, MARKDOWN_NAME = "results.csv", "results.md"
_METHOD_NAMES = {MODEL: "GPSToken", UNFOCUSED: "GPSToken without the focus"}


@dataclass(frozen=True)
class Summary:
    """The table as text, and the files that were written."""

    text: str
    csv: Path
    markdown: Path
    page: Path


def write_summary(output: Path, results: Sequence[CellResult]) -> Summary:
    """Writes results.csv and results.md, and for a grid its report."""
    output.mkdir(parents=True, exist_ok=True)
    headings, rows = table_rows(results)
    files = Summary(
        text=to_text(headings, rows),
        csv=output / CSV_NAME,
        markdown=output / MARKDOWN_NAME,
        page=output / PAGE_NAME,
    )
    write_whole(files.csv, [to_csv(results)])
    write_whole(files.markdown, [markdown_page(results, to_markdown(headings, rows))])
    if len(results) > 1:
        write_overview(files.page, overview(output, results))
    return files


def overview(output: Path, results: Sequence[CellResult]) -> Overview:
    """The page of a grid."""
    measured = [result for result in results if result.summary]
    shown, lead = lead_columns(measured)
    rows = [
        ((*lead[result.name], method_label(method, result)), metrics)
        for result in measured
        for method, metrics in result.summary["metrics"].items()
    ]
    links = [
        CellLink(
            " · ".join([*lead[result.name], result.label]),
            (result.directory / PAGE_NAME).relative_to(output).as_posix(),
            read_examples(result.directory, result.summary["examples"]),
        )
        for result in measured
    ]
    return Overview(
        title=f"Evaluation of {len(results)} combinations",
        headings=[*shown, "method"],
        rows=rows,
        compared=[
            tuple(str(protocol.get(key)) for key in ("data", "size", "values_per_image"))
            for result in measured
            for protocol in [result.summary["protocol"]]
            for _ in result.summary["metrics"]
        ],
        series=rate_series(measured),
        protocol={name.replace("_", " "): text for name, text in common_protocol(measured).items()},
        cells=links,
        failures={", ".join(names): error for error, names in failures(results).items()},
    )


def failures(results: Sequence[CellResult]) -> dict[str, list[str]]:
    """The cells that failed, by what went wrong: a broken checkpoint is one mistake."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.error:
            found.setdefault(result.error, []).append(result.name)
    return found


def rate_series(results: Sequence[CellResult]) -> list[Series]:
    """Lines over the number of tokens of every checkpoint, data set and size, and baselines."""
    shown, lead = lead_columns(results)
    groups: dict[tuple[str, ...], list[CellResult]] = {}
    for result in results:
        if "num_tokens" in result.summary["protocol"]:
            groups.setdefault(tuple(lead[result.name]), []).append(result)
    series: list[Series] = []
    for of, cells in groups.items():
        for method in dict.fromkeys(m for cell in cells for m in cell.summary["metrics"]):
            points = {
                cell.summary["protocol"]["num_tokens"]: cell.summary["metrics"][method]
                for cell in cells
                if method in cell.summary["metrics"]
            }
            own = method in _METHOD_NAMES  # baselines know no checkpoint
            parts = [part for name, part in zip(shown, of, strict=True) if own or name != "run"]
            label = " · ".join([*parts, _METHOD_NAMES.get(method) or SHORT_LABELS[method]])
            if own or not any(points == other.points for other in series):
                series.append(Series(label, len(series), points, dashed=method != MODEL))
    return series


def common_protocol(results: Sequence[CellResult]) -> dict[str, object]:
    """What the protocols of all cells have in common."""
    first, *others = (result.summary["protocol"] for result in results) if results else ({},)
    return {
        key: value for key, value in first.items() if all(one.get(key) == value for one in others)
    }


def markdown_page(results: Sequence[CellResult], table: str) -> str:
    """The table, what it measured, and what failed."""
    measured = [result for result in results if result.summary]
    parts = ["# Evaluation\n", table]
    if measured:
        parts.append("## Protocol\n\n" + _protocol(measured))
    parts.append(published_markdown())
    if failed := failures(results):
        lines = "".join(f"- {', '.join(names)}: {error}\n" for error, names in failed.items())
        parts.append(f"## Failed\n\n{lines}")
    return "\n".join(parts)


def _protocol(results: Sequence[CellResult]) -> str:
    """What all cells have in common, and what each has for itself."""
    common = common_protocol(results)
    definitions = results[0].summary["definitions"]
    lines = [f"- {key.replace('_', ' ')}: {value}\n" for key, value in common.items()]
    lines += [f"- {name}: {text}\n" for name, text in definitions.items()]
    for result in results:
        protocol = result.summary["protocol"]
        if own := {key: value for key, value in protocol.items() if key not in common}:
            text = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in own.items())
            lines.append(f"- {result.name}: {text}\n")
    return "".join(lines)


def describe_gain(result: CellResult) -> str:
    """How the evaluated method does beside the first baseline."""
    means = result.summary["metrics"]
    model, *others = (values for method, values in means.items() if method != "unfocused")
    count = f"{result.summary['protocol']['num_images']} images"
    if not others:
        return count
    gain = model["psnr"] - others[0]["psnr"]
    return f"{count}, {gain:+.2f} dB PSNR against the baseline"
