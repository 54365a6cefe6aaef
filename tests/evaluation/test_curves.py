"""Lines over tokens and over bytes: their number, and what stands at their points."""

from gpstoken_jax.evaluation.curves import rate_curve, rate_series, storage_series
from gpstoken_jax.evaluation.results import CellResult


def cell(run, tokens, psnr):
    protocol = {
        "checkpoint": f"runs/{run}",
        "data_name": "photos",
        "size": "64 x 64",
        "num_tokens": tokens,
    }
    metrics = {"model": {"psnr": psnr}, "jpeg": {"psnr": 20.0}}
    summary = {"metrics": metrics, "protocol": protocol}
    return CellResult(f"{run}-{tokens}", "GPSToken", "c", summary)


def test_rate_curves_have_a_line_for_every_run_and_one_for_equal_baselines():
    results = [cell("a", 32, 23.0), cell("a", 64, 25.0), cell("b", 32, 24.0), cell("b", 64, 26.0)]
    series = rate_series(results)
    assert [one.label for one in series] == ["runs/a · GPSToken", "JPEG", "runs/b · GPSToken"]
    assert series[0].line("psnr") == [(32, 23.0), (64, 25.0)]
    assert [one.dashed for one in series] == [False, True, False]
    assert len({one.colour for one in series}) == 3


def test_curves_are_over_bytes():
    methods = {
        "model": {"psnr": 25.0, "bytes": 1344.0},
        "tokens-6bit": {"psnr": 24.9, "bytes": 451.2},
        "webp-6bit": {"psnr": 28.8, "bytes": 444.0},
        "tokens-4bit": {"psnr": 23.7, "bytes": 276.0},
        "webp-4bit": {"psnr": 26.3, "bytes": 272.0},
    }
    series = storage_series(methods)
    assert [one.label for one in series] == ["GPSToken", "WebP"]
    assert series[0].line("psnr") == [(276, 23.7), (451, 24.9)]
    curve = rate_curve("psnr", series, "bytes")
    assert [count for _, count in curve["counts"]] == ["276", "451"]
    assert "276 bytes" in curve["lines"][0]["points"][0][2]
    assert storage_series({"model": {"psnr": 1.0}}) == []
