"""eval.py on images of several tiles and with a focus, as a user runs it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from tests import forked

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee", "chelsea"):
        Image.fromarray(getattr(photos, name)()[:200, 50:350]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def evaluate(folder, random_run, env, tmp_path_factory):
    """Runs eval.py without LPIPS; gives the process and, if it went well, its two results."""

    def evaluate(*flags):
        output = tmp_path_factory.mktemp("eval")
        arguments = [f"--checkpoint={random_run}", f"--data.folder={folder}", f"--output={output}"]
        command = [sys.executable, "eval.py", *arguments, "--nolpips", *flags]
        process = forked.run(command, cwd=ROOT, env=env)
        if process.returncode:
            return process, None, None
        measured = json.loads((output / "metrics.json").read_text())
        return process, measured, (output / "report.html").read_text()

    return evaluate


@pytest.mark.slow
def test_aligned_tiles_with_a_focus(evaluate):
    process, measured, report = evaluate(
        "--resolution=64", "--focus=0,0,0.4,0.4,1", "--focus=0.9,0.9,0.1,0.1,0.5"
    )
    assert process.returncode == 0, process.stderr
    protocol = measured["protocol"]
    assert protocol["size"] == "64 x 64"
    assert protocol["tiles"] == "2 x 2, aligned"
    assert protocol["num_tokens"] == 4 * 8 and protocol["values_per_image"] == 4 * 8 * 21
    assert protocol["focus"] == "0,0,0.4,0.4,1; 0.9,0.9,0.1,0.1,0.5"
    assert set(measured["metrics"]) == {"model", "unfocused", "bicubic", "jpeg", "webp"}
    for image in measured["images"]:
        assert {"psnr_inside", "psnr_outside"} < set(image["model"]) & set(image["unfocused"])
        assert image["model"]["psnr"] != image["unfocused"]["psnr"]
        assert image["floored_std"] >= 0
    means = measured["metrics"]
    before, after = (means[method]["psnr_inside"] for method in ("unfocused", "model"))
    effect = f"inside it changes PSNR from {before:.2f} to {after:.2f} dB"
    assert effect in process.stdout and effect in report
    assert report.count("Reconstruction without the focus: coffee.png") == 1
    assert report.count("Token density: coffee.png") == 1
    assert report.count("Feature map: coffee.png") == 1


@pytest.mark.slow
def test_a_rectangle_of_tiles_apart_with_a_bias_map(evaluate, tmp_path):
    grey = np.zeros((30, 30), np.uint8)
    grey[:15] = 200
    Image.fromarray(grey).save(tmp_path / "top.png")
    process, measured, report = evaluate(
        "--resolution=64x32",
        "--high_resolution=tiles",
        f"--bias_map={tmp_path / 'top.png'}",
        "--noreport_maps",
        "--num_tokens=6",
    )
    assert process.returncode == 0, process.stderr
    assert measured["protocol"]["size"] == "64 x 32"
    assert measured["protocol"]["tiles"] == "2 x 1, tiles"
    assert measured["protocol"]["num_tokens"] == 12
    assert "top.png" in measured["protocol"]["focus"]
    assert {image["floored_std"] for image in measured["images"]} == {0.0}
    assert measured["metrics"]["unfocused"].keys() == measured["metrics"]["model"].keys()
    assert "Token density" not in report


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--resolution=100", "100 x 100 is not made of whole 32 x 32 tiles"),
        ("--focus=0,0,1", "must be five numbers"),
        ("--bias_map=gone.png", "bias map gone.png cannot be read"),
    ],
)
def test_mistakes_are_named_in_one_line(evaluate, flag, message):
    process, _, _ = evaluate(flag)
    assert process.returncode == 1
    assert message in process.stderr and "Traceback" not in process.stderr
