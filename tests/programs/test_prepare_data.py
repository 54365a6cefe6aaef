"""prepare_data.py on a folder with every kind of odd file, as a user would run it."""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.data import folder, prepare, sources
from gpstoken_jax.runtime import outputs
from gpstoken_jax.runtime.manifest import OutputError, read_manifest
from tests import forked

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOISE = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)


# Runs the program and says whether it imported TensorFlow, should that be installed.
RUNNER = """
import atexit, runpy, sys
atexit.register(lambda: print("TensorFlow imported:", "tensorflow" in sys.modules))
sys.argv[0] = "prepare_data"
runpy.run_module("gpstoken_jax.programs.prepare_data", run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(env):
    def run(*arguments):
        command = [sys.executable, "-c", RUNNER, *map(str, arguments)]
        return forked.run(command, cwd=ROOT, env=env)

    return run


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


def test_odd_folder(run, odd_folder, tmp_path):
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
    assert skipped["dog/gone.png"] == "link to nothing"
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


@pytest.mark.slow
def test_demo_again_and_overwrite(run, tmp_path, odd_folder):
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
    with pytest.raises(OutputError, match="images was"):
        prepare.prepare(listing, tmp_path / "set")
    report = prepare.prepare(listing, tmp_path / "set", overwrite=True)
    assert report["images_written"] == 9
    assert len(sources.open_tfds(None, str(tmp_path / "set"), "train")) == 9


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(1, 12))
def test_an_interrupted_preparation_goes_on(after, odd_folder, tmp_path, monkeypatch):
    """Stopped before any of the files that it writes, in shards of two images."""
    monkeypatch.setattr(prepare, "SHARD_SIZE", 2)
    listing = folder.list_folder(odd_folder, 0.4)
    whole = prepare.prepare(listing, tmp_path / "whole")
    create, count = outputs.Output.create, itertools.count(1)

    def create_or_die(self, *args, **kwargs):
        if next(count) == after:
            raise Killed
        return create(self, *args, **kwargs)

    monkeypatch.setattr(outputs.Output, "create", create_or_die)
    with pytest.raises(Killed):
        prepare.prepare(listing, tmp_path / "set")
    with pytest.raises((FileNotFoundError, OutputError)):
        sources.open_tfds(None, tmp_path / "set", "all")
    report = prepare.prepare(listing, tmp_path / "set")
    assert report | {"seconds": 0} == whole | {"seconds": 0}
    manifests = [read_manifest(tmp_path / name, "data set") for name in ("whole", "set")]
    for name in manifests[0].files.keys() - {"report.json"}:
        assert manifests[0].files[name] == manifests[1].files[name], name
    assert {p.name for p in (tmp_path / "set").iterdir()} == {
        "image_files", "manifest.json", "report.json"
    }  # fmt: skip


def _children(pid):
    """Numbers of the processes that a process has started and that still run."""
    found = set()
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ends in this moment
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if int(parent) == pid and state != "Z":
                found.add(int(stat.parent.name))
    return found


def _runs(pid):
    with contextlib.suppress(OSError):
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


def test_workers_end_with_a_killed_preparation_which_goes_on(env, started, tmp_path):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    output = tmp_path / "set"
    shards = (  # of one image; the third is never written
        "from gpstoken_jax.data import prepare; prepare.SHARD_SIZE = 1\n"
        "import itertools, time; write, count = prepare._Writer._write, itertools.count(1)\n"
        "hold = lambda *a: time.sleep(999) if next(count) > 2 else write(*a)\n"
    )
    run = (
        "import runpy; runpy.run_module('gpstoken_jax.programs.prepare_data', run_name='__main__')"
    )
    flags = ["--folder", tmp_path / "photos", "--output", output, "--workers=2"]
    flags = ["--val_fraction=0", *map(str, flags)]
    code = f"{shards}prepare._Writer._write = hold\n{run}"
    killed = forked.Program([sys.executable, "-c", code, *flags], cwd=ROOT, env=env)
    started.append(killed)
    while len([*output.glob("accounts/*.json")]) < 2:
        assert killed.poll() is None
        time.sleep(0.05)
    workers = _children(killed.pid)
    assert len(workers) >= 2
    killed.kill()
    killed.wait()
    deadline = time.monotonic() + 30
    while (left := [*filter(_runs, workers)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    there = {path: path.stat().st_mtime_ns for path in output.glob("image_files/*/*_record*")}
    assert len(there) == 2
    again = forked.run([sys.executable, "-c", f"{shards}{run}", *flags], cwd=ROOT, env=env)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in there} == there
    ours = sources.open_tfds(None, str(output), "train")
    theirs = sources.open_folder(tmp_path / "photos")
    assert [example.name for example in ours] == [example.name for example in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_nothing_of_anyone_else_is_touched(run, odd_folder, tmp_path):
    """Whatever lies in the output directory, and wherever that is."""
    before = {path: path.read_bytes() for path in odd_folder.rglob("*") if path.is_file()}
    for mine in ("image_files/photo.jpg", "report.json", "image_files/1.0.0/x", "a/b/c"):
        output = tmp_path / mine.replace("/", "-")
        (output / mine).parent.mkdir(parents=True)
        (output / mine).write_text("mine")
        for overwrite in ("", "--overwrite"):
            result = run("--folder", odd_folder, "--output", output, *overwrite.split())
            assert result.returncode == 1, result.stdout
            assert mine.split("/")[0] in result.stderr and "did not write" in result.stderr
        assert (output / mine).read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(odd_folder)
    for output in (
        odd_folder,
        odd_folder / "set",
        tmp_path,
        link,
        link / "set",
        odd_folder / "cat",
    ):
        result = run("--folder", odd_folder, "--output", output)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert str(output) in result.stderr
    after = {path: path.read_bytes() for path in odd_folder.rglob("*") if path.is_file()}
    assert after == before


def test_what_was_added_later_survives_overwriting(odd_folder, tmp_path):
    prepare.prepare(folder.list_folder(odd_folder), tmp_path / "set")
    for name in ("notes.txt", "image_files/1.0.0/notes.txt", "image_files/mine/photo.jpg"):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_text("mine")
    (odd_folder / "cat/plain.jpg").unlink()
    prepare.prepare(folder.list_folder(odd_folder), tmp_path / "set", overwrite=True)
    for name in ("notes.txt", "image_files/1.0.0/notes.txt", "image_files/mine/photo.jpg"):
        assert (tmp_path / "set" / name).read_text() == "mine"


@pytest.mark.parametrize(
    "change", ["content", "date", "name", "added", "removed", "class", "split"]
)
def test_changed_images_are_noticed(change, odd_folder, tmp_path):
    prepare.prepare(folder.list_folder(odd_folder, 0.3), tmp_path / "set")
    one, fraction = odd_folder / "dog/plain.png", 0.3
    if change == "content":
        Image.fromarray(NOISE[::-1]).save(one)
    elif change == "date":
        os.utime(one, (1, 1))
    elif change == "name":
        one.rename(odd_folder / "dog/renamed.png")
    elif change == "added":
        Image.fromarray(NOISE).save(odd_folder / "dog/another.png")
    elif change == "removed":
        one.unlink()
    elif change == "class":
        one.rename(odd_folder / "cat/plain.png")
    else:
        fraction = 0.9
    listing = folder.list_folder(odd_folder, fraction)
    with pytest.raises(OutputError, match="made from something else: images was"):
        prepare.prepare(listing, tmp_path / "set")
    assert not prepare.prepare(listing, tmp_path / "set", overwrite=True)["reused"]


def test_with_verify_dates_do_not_count_but_contents_do(odd_folder, tmp_path):
    def again():
        return prepare.prepare(folder.list_folder(odd_folder), tmp_path / "set", verify=True)

    again()
    one = odd_folder / "dog/sixteen.png"
    os.utime(one, (1, 1))
    assert again()["reused"]
    data = bytearray(one.read_bytes())
    data[len(data) // 2] ^= 1
    one.write_bytes(data)
    os.utime(one, (1, 1))
    with pytest.raises(OutputError, match="made from something else"):
        again()


CLASSES = ("cat", "cat ", " cat", " ", "\t", "a\nb", "a\\nb", "a,b", "a;b", '"q"', '"', "#",
           "\u2028", "é", "e\u0301", "[x]", "0", "\x1b[31m", "\r")  # fmt: skip


def test_class_names_survive_exactly(tmp_path):
    for name in CLASSES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(NOISE[:20, :20]).save(tmp_path / "photos" / name / "1.png")
    listing = folder.list_folder(tmp_path / "photos")
    prepare.prepare(listing, tmp_path / "set")
    for source in (
        sources.open_folder(tmp_path / "photos"),
        sources.open_tfds(None, tmp_path / "set", "train"),
    ):
        assert source.label_names == tuple(sorted(CLASSES))
        for example in (source[i] for i in range(len(CLASSES))):
            name = source.label_names[example.label]
            assert example.name == folder.printable_name(f"{name}/1.png")


def test_no_readable_image_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image of split 'train'.*a\.jpg: empty file"):
        prepare.prepare(folder.list_folder(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out/report.json").exists()


def test_wrong_use_says_what_to_do(run, tmp_path):
    neither = run("--output", tmp_path / "set")
    assert (
        neither.returncode == 1
        and "either --folder DIR or --demo" in neither.stderr + neither.stdout
    )
    missing = run("--folder", tmp_path / "gone", "--output", tmp_path / "set")
    assert missing.returncode == 1 and "does not exist" in missing.stderr
    assert "Traceback" not in missing.stderr
