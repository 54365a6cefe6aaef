"""A run loses nothing: interrupted, with a broken disk, over damaged results, in odd places."""

import contextlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.data import pairs as pairs_module
from gpstoken_jax.evaluation import (
    Run,
    Settings,
    make_grid,
    plan_pairs,
    plan_samples,
    plan_tokenizer,
)
from gpstoken_jax.evaluation.grid import HELD_OUT, Dataset
from gpstoken_jax.evaluation.measurement import PROGRESS
from gpstoken_jax.evaluation.subjects import split_checkpoint
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.outputs import open_output
from gpstoken_jax.weights.networks import load_lpips

SETTINGS = Settings(batch_size=2, baselines=())
COUNT = 9


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Images and references of 16 x 16 pixels, one pair of another size."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for folder, i in itertools.product(("made", "refs"), range(COUNT)):
        (root / folder).mkdir(exist_ok=True)
        size = (24, 16, 3) if i == 4 else (16, 16, 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(root / folder / f"{i}.png")
    return root / "made", root / "refs"


def evaluate(folders, directory, **options):
    with open_output(directory, "evaluation", {}) as output:
        run = Run(directory, output, SETTINGS, pictured=3, **options)
        results = run.measure_all([plan_pairs(*folders, SETTINGS)])
        if not results[0].error:
            run.write_summary(results)
            output.forget_missing()
            output.finish()
    return results[0]


def figures(directory):
    result = json.loads((directory / "metrics.json").read_text())
    return {key: result[key] for key in ("metrics", "images", "protocol", "examples")}


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    assert evaluate(folders, directory).error is None
    return directory


def test_a_broken_disk_ends_the_run(folders, whole, tmp_path, monkeypatch, capsys):
    """At every image in turn; the results are those of a run without faults."""
    read, broken = pairs_module.read_bytes, [0]

    def read_or_fail(path):
        if Path(path).name == f"{broken[0]}.png":
            raise OSError(5, "Input/output error", str(path))
        return read(path)

    monkeypatch.setattr(pairs_module, "read_bytes", read_or_fail)
    for broken[0] in (0, 3, 4, 8):
        with pytest.raises(OSError, match="goes on from here"):
            evaluate(folders, tmp_path / "out")
        assert not (tmp_path / "out" / "metrics.json").exists()
    broken[0] = None
    assert evaluate(folders, tmp_path / "out").error is None
    assert "made: goes on after" in capsys.readouterr().out
    assert figures(tmp_path / "out") == figures(whole)
    assert not (tmp_path / "out" / PROGRESS).exists()
    pages = [(folder / "report.html").read_text() for folder in (whole, tmp_path / "out")]
    assert pages[0].count("<img") == pages[1].count("<img")


class Killed(BaseException):
    """Stands for SIGKILL: nothing is caught, closed or saved after it."""


def test_ten_kills_at_any_moment_change_nothing(folders, whole, tmp_path, monkeypatch):
    """Each at another write to the disk, also while results are written; real ones: scripts/."""
    from gpstoken_jax.evaluation import measurement, results, run
    from gpstoken_jax.runtime import outputs

    left = [0]

    def fatal(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return function(*arguments, **options)

        return call

    @contextlib.contextmanager
    def closing(share):
        try:
            yield share
        except Killed:
            share._file.close()  # and no state of it is saved
            raise
        share.close()

    monkeypatch.setattr(run.contextlib, "closing", closing)
    monkeypatch.setattr(measurement.Share, "add", fatal(measurement.Share.add))
    monkeypatch.setattr(measurement, "write_npz", fatal(measurement.write_npz))
    monkeypatch.setattr(outputs.Output, "create", fatal(outputs.Output.create))
    monkeypatch.setattr(results.Measurement, "remove", fatal(results.Measurement.remove))
    kills = 0
    for moment in range(1, 36):
        left[0] = moment
        directory = tmp_path / f"{moment % 3}"
        try:
            with open_output(directory, "evaluation", {}) as output:
                one = Run(directory, output, SETTINGS, pictured=3)
                ended = one.measure_all([plan_pairs(*folders, SETTINGS)])
        except Killed:
            kills += 1
            continue
        assert ended[0].error is None
        assert figures(directory) == figures(whole)
        shutil.rmtree(directory)
    assert kills >= 10


def test_any_damaged_result_is_measured_again(folders, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    assert evaluate(folders, out).reused
    rng = np.random.default_rng(0)
    names = [path for path in sorted(out.rglob("*")) if path.is_file()]
    for path in names:
        if path.name in ("manifest.json", "results.csv", "results.md"):
            continue  # the first is checked by open_output, the others are written anew
        data = bytearray(path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        result = evaluate(folders, out)
        assert not result.reused and result.error is None, path
        assert "it is measured again" in capsys.readouterr().out
        assert figures(out) == figures(whole)
    assert evaluate(folders, out).reused
    assert not evaluate(folders, out, again=True).reused


def test_small_images_name_the_flag(folders, tmp_path):
    for side, flags in ((12, "LPIPS (--nolpips) at least 16"), (8, "SSIM at least 11, LPIPS")):
        for folder in ("made", "refs"):
            (tmp_path / str(side) / folder).mkdir(parents=True)
            pixels = np.zeros((side, side, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / str(side) / folder / "a.png")
        small = [tmp_path / str(side) / folder for folder in ("made", "refs")]
        with pytest.raises(ValueError) as error:
            plan_pairs(*small, Settings(lpips=load_lpips()))
        assert f"images of {side} x {side} pixels are too small: {flags}" in str(error.value)
    assert plan_pairs(*folders, Settings(lpips=load_lpips())).num_images == COUNT


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/7"])
def test_a_run_its_checkpoints_and_one_of_them(random_run, folders, inside):
    path = random_run / inside
    assert split_checkpoint(path, None)[0] == random_run
    data = Dataset("made", (("folder", str(folders[0])),))
    (combination,) = make_grid([path], [data], [], [])
    assert plan_tokenizer(combination, Settings()).open().protocol["step"] == 7
    if inside:
        with pytest.raises(CheckpointError, match="8"):
            plan_tokenizer(combination, Settings(step=8)).open()


def test_a_missing_held_out_split_is_named_before_anything_is_loaded(random_run):
    (combination,) = make_grid([random_run], [Dataset(HELD_OUT)], [], [])
    with pytest.raises((ValueError, OSError)):
        plan_tokenizer(combination, Settings())


def test_samples_of_generate_are_taken_without_its_grid(folders, tmp_path):
    with open_output(tmp_path / "made", "generated images", {}) as output:
        for i in range(3):
            output.write(f"cat/{i}.png", (folders[0] / f"{i}.png").read_bytes())
        output.write("grid.png", (folders[0] / "4.png").read_bytes())  # of another size
        output.write("generation.json", "{}")
        with pytest.raises(ValueError, match="is not finished"):
            plan_samples(output.directory, SETTINGS)
        output.finish()
    cell = plan_samples(output.directory, SETTINGS)
    assert cell.num_images == 3 and "3 samples in" in cell.description
    names = [name for batch in cell.open().batches(range(3)) for name in batch["name"] if name]
    assert names == ["cat/0.png", "cat/1.png", "cat/2.png"]
