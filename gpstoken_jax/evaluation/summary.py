"""What is written of all cells together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpstoken_jax.evaluation.pages import PAGE_NAME
from gpstoken_jax.evaluation.results import CellResult
from gpstoken_jax.evaluation.tables import table_rows, to_csv, to_markdown, to_text

CSV_NAME, MARKDOWN_NAME = "results.csv", "results.md"


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
    _write(files.csv, to_csv(results))
    _write(files.markdown, markdown_page(results, to_markdown(headings, rows)))
    return files


def markdown_page(results: Sequence[CellResult], table: str) -> str:
    """The table, what it measured, and what failed."""
    measured = [result for result in results if result.summary]
    failed = [result for result in results if result.error]
    parts = ["# Evaluation\n", table]
    if measured:
        parts.append("## Protocol\n\n" + _protocol(measured))
    if failed:
        lines = "".join(f"- {result.name}: {result.error}\n" for result in failed)
        parts.append(f"## Failed\n\n{lines}")
    return "\n".join(parts)


def _protocol(results: Sequence[CellResult]) -> str:
    """What all cells have in common, and what each has for itself."""
    protocols = [result.summary["protocol"] for result in results]
    common = {
        key: value
        for key, value in protocols[0].items()
        if all(protocol.get(key) == value for protocol in protocols)
    }
    definitions = results[0].summary["definitions"]
    lines = [f"- {key.replace('_', ' ')}: {value}\n" for key, value in common.items()]
    lines += [f"- {name}: {text}\n" for name, text in definitions.items()]
    for result, protocol in zip(results, protocols, strict=True):
        own = {key: value for key, value in protocol.items() if key not in common}
        if own:
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


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
