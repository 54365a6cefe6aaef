"""eval.py on a grid, killed and resumed, by two processes, and on images made elsewhere."""

import csv
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photos

from gpstoken_jax.weights.statistics import load_statistics
from tests import forked

ROOT = Path(__file__).parents[2]
QUICK = ("--nolpips", "--nofrechet", "--baselines=bicubic")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee", "chelsea"):
        photo = getattr(photos, name)()
        for i in range(2):
            Image.fromarray(photo[90 * i : 90 * i + 90, :150]).save(folder / f"{name}_{i}.png")
    return folder


@pytest.fixture(scope="module")
def start(env):
    """Starts eval.py."""

    def start(*flags):
        command = [sys.executable, "eval.py", *map(str, flags)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return forked.Program(command, cwd=ROOT, env=env, **pipes)

    return start


@pytest.fixture(scope="module")
def evaluate(start):
    """Runs eval.py to its end: exit code and what it said."""

    def evaluate(*flags):
        process = start(*flags)
        said, errors = process.communicate(timeout=900)
        return process.returncode, said, errors

    return evaluate


@pytest.fixture(scope="module")
def runs(random_run, tmp_path_factory):
    """A run, and one whose config is broken."""
    runs = tmp_path_factory.mktemp("runs")
    shutil.copytree(random_run, runs / "good")
    (runs / "broken").mkdir()
    (runs / "broken" / "config.json").write_text("{")
    return runs


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_a_broken_checkpoint_stops_nobody(
    runs, folder, start, evaluate, tmp_path
):
    flags = (
        f"--checkpoints={runs}/*",
        f"--datasets=mine={folder}",
        "--num_tokens=6,8",
        f"--output={tmp_path}",
        *QUICK,
    )
    first = tmp_path / "cells" / "good-mine-6_tokens" / "metrics.json"
    process = start(*flags)
    deadline = time.monotonic() + 900
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "results.csv").exists()
    written = first.stat().st_mtime_ns

    code, said, errors = evaluate(*flags)
    assert code == 2, errors
    assert "cell 3/4: good-mine-6_tokens" in said and "(there already)" in said
    assert "measured again" not in said and "Traceback" not in errors
    assert "FAILED broken-mine-6_tokens, broken-mine-8_tokens: " in said
    assert first.stat().st_mtime_ns == written

    lines = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [line["status"] for line in lines] == ["failed"] * 2 + ["ok"] * 4
    assert [line["num_tokens"] for line in lines[2:]] == ["6", "6", "8", "8"]
    for line in lines[2::2]:
        cell = json.loads((tmp_path / "cells" / line["cell"] / "metrics.json").read_text())
        psnr = [image["model"]["psnr"] for image in cell["images"]]
        assert float(line["psnr"]) == pytest.approx(np.mean(psnr)) and len(psnr) == 6
    table = (tmp_path / "results.md").read_text()
    assert "| GPSToken, 8 tokens | 168 |" in table and "has no readable config.json" in table
    page = (tmp_path / "report.html").read_text()
    assert "Rate curves" in page and page.count('<article class="photo small">') == 12


def test_what_changed_is_measured_again(runs, folder, evaluate, tmp_path):
    """Another rounding; then other images behind the same names."""
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    flags = [f"--checkpoint={runs}/good", f"--data.folder={mine}", f"--output={tmp_path / 'eval'}"]
    flags += [*QUICK, "--report_images=0"]
    for more, words in (
        ([], None),
        (["--eval.rounding=truncate"], "rounding was round and is now truncate"),
    ):
        code, said, errors = evaluate(*flags, *more)
        assert code == 0, errors
        assert (words or "measured again") in said or words is None
    shutil.copy(mine / "coffee_0.png", mine / "chelsea_0.png")
    code, said, _ = evaluate(*flags, "--eval.rounding=truncate")
    assert code == 0 and "measured again, since data fingerprint was" in said


@pytest.mark.slow
def test_two_processes_measure_what_one_does(runs, folder, start, evaluate, tmp_path):
    shared = (f"--checkpoint={runs}/good", f"--data.folder={folder}", "--nolpips")
    code, _, errors = evaluate(*shared, f"--output={tmp_path / 'one'}")
    assert code == 0, errors
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = (f"--output={tmp_path / 'two'}", f"--coordinator=127.0.0.1:{port}", "--num_processes=2")
    processes = [start(*shared, *both, f"--process_id={i}") for i in range(2)]
    said = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "PSNR" in said[0][0] and "PSNR" not in said[1][0]
    one, two = (json.loads((tmp_path / k / "metrics.json").read_text()) for k in ("one", "two"))
    assert two["images"] == one["images"] and len(one["images"]) == 6
    for method, values in one["metrics"].items():
        frechet = values.pop("frechet_vgg16")
        assert two["metrics"][method].pop("frechet_vgg16") == pytest.approx(frechet, rel=1e-6)
    assert two["metrics"] == one["metrics"]


@pytest.mark.slow
def test_images_beside_references(folder, evaluate, tmp_path):
    """Against values computed here; their statistics are saved and compared with."""
    made = tmp_path / "made"
    made.mkdir()
    mse = []
    for file in sorted(folder.iterdir()):
        photo = np.asarray(Image.open(file))
        noise = np.random.default_rng(0).integers(-9, 10, photo.shape)
        other = np.clip(photo.astype(int) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(other).save(made / file.name)
        mse.append(np.square((photo.astype(float) - other) / 255).mean())
    statistics = tmp_path / "photos.npz"
    flags = (f"--images={made}", f"--references={folder}", "--nolpips", "--values_per_image=600")
    code, said, errors = evaluate(
        *flags, f"--output={tmp_path / 'a'}", f"--save_statistics={statistics}", "--save_images"
    )
    assert code == 0, errors
    assert "fewer" in said or "far too large" in said
    measured = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert set(measured["metrics"]) == {"images", "bicubic", "jpeg", "webp"}
    expected = np.mean(-10 * np.log10(mse))
    assert measured["metrics"]["images"]["psnr"] == pytest.approx(expected, abs=1e-4)
    assert measured["metrics"]["bicubic"]["bytes"] == 1200
    assert 0 < measured["metrics"]["jpeg"]["bytes"] <= 1200
    assert measured["protocol"]["size"] == "90 x 150"
    assert load_statistics(statistics, "frechet_vgg16").count == 6

    code, _, errors = evaluate(*flags, f"--output={tmp_path / 'b'}", f"--reference={statistics}")
    assert code == 0, errors
    again = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert "photos.npz" in again["protocol"]["frechet_reference"]
    own, saved = (again["metrics"]["images"][f"frechet_vgg16{end}"] for end in ("", "_reference"))
    assert saved == pytest.approx(own, rel=1e-6) and own > 0
    assert own == pytest.approx(measured["metrics"]["images"]["frechet_vgg16"], rel=1e-6)

    code, _, errors = evaluate(  # as if a generator had made them
        f"--images={made}",
        f"--reference={statistics}",
        f"--output={tmp_path / 'c'}",
        "--precision_recall",
        f"--save_batch={tmp_path / 'made.npz'}",
    )
    assert code == 0, errors
    alone = json.loads((tmp_path / "c" / "metrics.json").read_text())
    figures = alone["metrics"]["images"]
    assert figures.pop("frechet_vgg16_reference") == pytest.approx(saved, rel=1e-5)
    assert set(figures) == {"precision_vgg16", "recall_vgg16"}
    assert all(0 <= share <= 1 for share in figures.values())
    with np.load(statistics) as originals, np.load(tmp_path / "made.npz") as batch:
        for arrays, files in ((originals, folder), (batch, made)):
            images = [np.asarray(Image.open(file)) for file in sorted(files.iterdir())]
            np.testing.assert_array_equal(arrays["arr_0"], images)
            assert arrays["mu"].shape == (512,) and arrays["sigma"].shape == (512, 512)

    code, _, errors = evaluate(  # the batch is samples, too
        f"--images={tmp_path / 'made.npz'}", f"--reference={folder}", f"--output={tmp_path / 'd'}"
    )
    assert code == 0, errors
    batch = json.loads((tmp_path / "d" / "metrics.json").read_text())
    found = batch["metrics"]["images"]["frechet_vgg16_reference"]
    assert found == pytest.approx(saved, rel=1e-5)
    assert "Image: coffee_0.png" in (tmp_path / "c" / "report.html").read_text()


MISTAKES = {
    "name one of --checkpoint": [],
    "not checkpoint and images": ["--checkpoint=a", "--images=b", "--references=c"],
    "--images need their --references": ["--images=b", "--output=o"],
    "no directory is called nowhere/*": ["--checkpoints=nowhere/*", "--output=o"],
    "say where the results go": ["--checkpoints=nowhere/*"],
    "must be a side, or HEIGHTxWIDTH": ["--checkpoint=a", "--resolution=64x"],
    "'png' is unknown": ["--checkpoint=a", "--baselines=png"],
    "no gone.pth": ["--checkpoint=a", "--inception_file=gone.pth"],
    "no statistics file gone.npz": ["--checkpoint=a", "--reference=gone.npz"],
    "for one data set": ["--checkpoint=a", "--save_statistics=s", "--resolution=32,64"],
    "is there and not of this program": ["--checkpoint=a", "--save_statistics=README.md"],
    "there is no a": ["--checkpoint=a"],
}
TRY_ALL = """
import json, sys
from absl import flags
from absl.testing import flagsaver
import eval
from gpstoken_jax.programs.cli import user_errors

for arguments in json.loads(sys.argv[1]):
    with flagsaver.flagsaver():
        flags.FLAGS(["eval.py", *arguments])
        try:
            eval.main()
        except user_errors() as error:
            print(f"MISTAKE {error}")
"""


def test_mistakes_are_named_before_anything_is_computed(env):
    arguments = json.dumps(list(MISTAKES.values()))
    process = forked.run([sys.executable, "-c", TRY_ALL, arguments], cwd=ROOT, env=env)
    assert process.returncode == 0, process.stderr
    said = [line for line in process.stdout.splitlines() if line.startswith("MISTAKE ")]
    for message, line in zip(MISTAKES, said, strict=True):
        assert message in line
