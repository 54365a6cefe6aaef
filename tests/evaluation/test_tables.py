"""CSV, Markdown and text of the results of a grid."""

import csv
import io

from gpstoken_jax.evaluation.results import CellResult
from gpstoken_jax.evaluation.run import Run
from gpstoken_jax.evaluation.subjects import Settings
from gpstoken_jax.evaluation.tables import (
    common_protocol,
    failures,
    markdown_page,
    table_rows,
    to_csv,
    to_text,
)
from gpstoken_jax.runtime.outputs import open_output


def cell(run, tokens, psnr, size="64 x 64"):
    protocol = {
        "checkpoint": f"runs/{run}",
        "data_name": "photos",
        "size": size,
        "num_tokens": tokens,
        "values_per_image": 21 * tokens,
        "rounding": "round",
    }
    metrics = {
        "model": {"bytes": 42.0 * tokens, "psnr": psnr, "mse": 0.01, "lpips": 0.2},
        "jpeg": {"bytes": 999.5, "psnr": 20.0, "mse": 0.02, "lpips": 0.3},
    }
    summary = {
        "metrics": metrics,
        "protocol": protocol,
        "definitions": {"psnr": "in dB"},
        "seconds": 1.5,
    }
    return CellResult(f"{run}-{tokens}", f"GPSToken, {tokens} tokens", "c", summary)


FAILED = [CellResult(f"c-{n}", "c", "c", error="no readable config.json") for n in (32, 64)]
RESULTS = [cell("a", 32, 23.456), cell("a", 64, 25.0), cell("b", 32, 24.0), *FAILED]


def test_a_line_for_every_method_and_every_failure():
    lines = list(csv.DictReader(io.StringIO(to_csv(RESULTS))))
    assert len(lines) == 3 * 2 + 2
    assert lines[0]["method"] == "model" and float(lines[0]["psnr"]) == 23.456
    assert lines[0]["checkpoint"] == "runs/a" and lines[1]["num_tokens"] == "32"
    assert [line["status"] for line in lines] == ["ok"] * 6 + ["failed"] * 2
    assert lines[-1]["error"] == "no readable config.json" and lines[-1]["psnr"] == ""


def test_the_table_has_what_tells_rows_apart():
    headings, rows = table_rows(RESULTS)
    assert headings == ["run", "method", "values", "Bytes", "PSNR", "LPIPS"]
    assert rows[0] == ["runs/a", "GPSToken, 32 tokens", "672", "1344", "23.46", "0.200"]
    assert rows[1] == ["runs/a", "JPEG, nearest size", "–", "1000", "20.00", "0.300"]
    headings, _ = table_rows([cell("a", 32, 20.0), cell("a", 32, 20.0, size="64 x 128")])
    assert headings[:2] == ["size", "method"]
    assert table_rows(RESULTS[:1])[0][0] == "method"


def test_markdown_is_a_table_and_says_what_failed():
    page = markdown_page(RESULTS)
    assert "| runs/a | GPSToken, 64 tokens | 1344 | 2688 | 25.00 | 0.200 |" in page
    assert "- rounding: round" in page and "- psnr: in dB" in page
    assert "- b-32: checkpoint runs/b; num tokens 32" in page
    assert "c-32, c-64: no readable config.json" in page
    published = page.split("## Published figures")[1]
    assert "not measured here" in published and "| SDXL-VAE | 32 x 32 | 25.55 |" in published
    assert "SDXL-VAE" not in page.split("## Published figures")[0]


def test_a_grid_that_failed_whole_has_its_files(tmp_path):
    with open_output(tmp_path / "eval", "evaluation", {}) as output:
        Run(output.directory, output, Settings()).write_summary(FAILED)
    for name in ("report.html", "results.md"):
        assert "no readable config.json" in (output.directory / name).read_text("utf-8")
    assert len((output.directory / "results.csv").read_text("utf-8").splitlines()) == 3


def test_text_is_aligned():
    lines = to_text(["method", "PSNR"], [["a", "9.00"], ["long name", "10.00"]]).splitlines()
    assert lines == ["method      PSNR", "a           9.00", "long name  10.00"]


def test_what_cells_have_in_common():
    assert common_protocol(RESULTS[:2]) == {
        "checkpoint": "runs/a",
        "data_name": "photos",
        "size": "64 x 64",
        "rounding": "round",
    }
    assert failures(RESULTS) == {"c-32, c-64": "no readable config.json"}


NASTY = "=1+1|<b>\x1b[2Jx\ny`*_[a](b)"


def test_names_from_files_change_nothing_around_them():
    """In all four forms a name stays one cell, without markup, formula or control characters."""
    result = cell(NASTY, 32, 20.0)
    named = CellResult(NASTY, NASTY, "c", result.summary)
    failed = CellResult(NASTY, NASTY, "c", error=NASTY)
    results = [named, cell("b", 32, 21.0), failed]
    for line in csv.reader(io.StringIO(to_csv(results))):
        assert not any(field.startswith("=") or "\x1b" in field for field in line)
    page = markdown_page(results)
    assert "<b>" not in page and "\x1b" not in page and "](b)" not in page.replace("\\](b)", "")
    table = page.split("\n\n")[1].splitlines()[2:]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    text = to_text(*table_rows(results))
    assert "\x1b" not in text and len(text.splitlines()) == 1 + 2 * 2
