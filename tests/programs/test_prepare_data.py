"""prepare_data.py on a folder with every kind of odd file, as a user would run it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.data import folder, prepare, sources

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOISE = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)


# Runs the program and says whether it imported TensorFlow, should that be installed.
RUNNER = """
import atexit, runpy, sys
atexit.register(lambda: print("TensorFlow imported:", "tensorflow" in sys.modules))
sys.argv[0] = "prepare_data"
runpy.run_module("gpstoken_jax.programs.prepare_data", run_name="__main__")
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", RUNNER, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def odd_folder(tmp_path):
    root = tmp_path / "photos"
    (root / "cat").mkdir(parents=True)
    (root / "dog").mkdir()
    plain = Image.fromarray(NOISE)
    plain.save(root / "cat/plain.jpg", quality=95)
    plain.save(root / "dog/plain.png")
    plain.convert("L").save(root / "cat/grey.jpg")
    plain.convert("P").save(root / "cat/palette.png")
    plain.convert("CMYK").save(root / "cat/cmyk.jpg")
    plain.convert("RGBA").save(root / "dog/alpha.png")
    Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257).save(root / "dog/sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    plain.save(root / "dog/rotated.jpg", exif=exif)
    plain.save(root / "dog/animated.gif", save_all=True, append_images=[plain.convert("L")])
    plain.crop((0, 0, 30, 20)).save(root / "cat/small.png")
    data = (root / "cat/plain.jpg").read_bytes()
    (root / "cat/truncated.jpg").write_bytes(data[: len(data) // 2])
    (root / "cat/empty.jpg").write_bytes(b"")
    (root / "dog/text.jpg").write_text("this is no image")
    (root / "dog/gone.png").symlink_to(root / "nowhere.png")
    (root / "README.md").write_text("about these photos")
    return root


def test_odd_folder(odd_folder, tmp_path):
    output = tmp_path / "set"
    result = run("--folder", odd_folder, "--output", output, "--val_fraction", 0)
    assert result.returncode == 0, result.stderr
    assert "TensorFlow imported: False" in result.stdout
    report = json.loads((output / "report.json").read_text())
    assert report["files_found"] == 15
    assert report["images_written"] == 10
    assert report["images_written"] + report["skipped"]["count"] == report["files_found"]
    skipped = {entry["file"]: entry["reason"] for entry in report["skipped"]["files"]}
    assert skipped.keys() == {
        "cat/truncated.jpg", "cat/empty.jpg", "dog/text.jpg", "dog/gone.png", "README.md"
    }  # fmt: skip
    assert "damaged" in skipped["cat/truncated.jpg"]
    assert "zero bytes" in skipped["cat/empty.jpg"]
    assert "No such file" in skipped["dog/gone.png"]
    converted = {what: info["files"] for what, info in report["converted"].items()}
    assert converted == {
        "16-bit samples to 8-bit": ["dog/sixteen.png"],
        "CMYK to RGB": ["cat/cmyk.jpg"],
        "EXIF orientation applied": ["dog/rotated.jpg"],
        "GIF stored as PNG": ["dog/animated.gif"],
        "first frame of several": ["dog/animated.gif"],
        "grey to RGB": ["cat/grey.jpg", "dog/sixteen.png"],
        "palette to RGB": ["cat/palette.png", "dog/animated.gif"],
        "transparency put on white": ["dog/alpha.png"],
    }
    assert report["bytes_kept"] == 3 and report["re_encoded"] == 7
    assert report["smaller_than_256"] == {"count": 1, "files": ["cat/small.png"]}
    assert report["splits"]["train"]["by_class"] == {"cat": 5, "dog": 5}
    for name in skipped:
        assert name in result.stdout
    assert "train.py" in result.stdout and str(output) in result.stdout

    source = sources.open_tfds(None, str(output), "train")
    examples = {source[i].name: source[i] for i in range(len(source))}
    assert examples["dog/rotated.jpg"].size == (280, 300)
    np.testing.assert_array_equal(examples["dog/plain.png"].pixels, NOISE)
    np.testing.assert_array_equal(examples["dog/sixteen.png"].pixels[..., 2], NOISE[..., 0])
    np.testing.assert_array_equal(examples["dog/alpha.png"].pixels, NOISE)


def test_demo_again_and_overwrite(tmp_path, odd_folder):
    output = tmp_path / "demo"
    first = run("--demo", "--output", output)
    assert first.returncode == 0, first.stderr
    report = json.loads((output / "report.json").read_text())
    assert report["skipped"]["count"] == 0
    assert report["splits"]["train"]["images"] >= 10 and report["splits"]["val"]["images"] == 4

    again = run("--demo", "--output", output)
    assert again.returncode == 0 and "Nothing has changed" in again.stdout
    assert json.loads((output / "report.json").read_text()) == report

    other = run("--folder", odd_folder, "--output", output)
    assert other.returncode == 1 and "--overwrite" in other.stderr
    assert json.loads((output / "report.json").read_text()) == report


def test_overwrite_replaces(odd_folder, tmp_path):
    prepare.prepare(folder.list_folder(odd_folder), tmp_path / "set")
    (odd_folder / "cat/plain.jpg").unlink()
    listing = folder.list_folder(odd_folder)
    with pytest.raises(prepare.DataSetExistsError):
        prepare.prepare(listing, tmp_path / "set")
    report = prepare.prepare(listing, tmp_path / "set", overwrite=True)
    assert report["images_written"] == 9
    assert len(sources.open_tfds(None, str(tmp_path / "set"), "train")) == 9


def test_an_interrupted_preparation_is_started_again(odd_folder, tmp_path):
    left_over = tmp_path / "set/image_files/incomplete.ABC_1.0.0"
    left_over.mkdir(parents=True)
    (left_over / "dataset_info.json").write_text("{}")
    report = prepare.prepare(folder.list_folder(odd_folder), tmp_path / "set")
    assert report["images_written"] == 10 and not left_over.exists()


def test_no_readable_image_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image of split 'train'.*a\.jpg: empty file"):
        prepare.prepare(folder.list_folder(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out/report.json").exists()


def test_wrong_use_says_what_to_do(tmp_path):
    neither = run("--output", tmp_path / "set")
    assert (
        neither.returncode == 1
        and "either --folder DIR or --demo" in neither.stderr + neither.stdout
    )
    missing = run("--folder", tmp_path / "gone", "--output", tmp_path / "set")
    assert missing.returncode == 1 and "does not exist" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_progress_lines_name_rate_and_time_left(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 10.0])
    monkeypatch.setattr(prepare.time, "monotonic", lambda: next(clock))
    progress = prepare._Progress(8, sys.stdout)
    progress.advance()
    progress.advance()
    assert capsys.readouterr().out == "  2/8 images (25%), 0/s, 30 s left\n"
