"""Prepared data sets of smaller images, written by several processes and by shares of a cluster."""

import json

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.data import folder, prepare, sources
from gpstoken_jax.data.resize import RESIZES, resize_to_cover
from gpstoken_jax.data.shrinking import Shrinking
from gpstoken_jax.runtime import processes
from gpstoken_jax.runtime.manifest import OutputError, read_manifest

SIZES = {"wide": (90, 60), "tall": (60, 95), "small": (40, 30), "turned": (90, 60)}  # width, height


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for number, (name, size) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "turned" else 1
        Image.fromarray(pixels).save(root / f"{name}.jpg", exif=exif)
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder.list_folder(root)


def _read(output):
    source = sources.open_tfds(None, str(output), "train")
    return source, {source[i].name: source[i] for i in range(len(source))}


@pytest.mark.parametrize("resize", RESIZES)
def test_large_images_are_shrunken_and_others_kept(resize, photos, tmp_path):
    shrinking = Shrinking(48, quality=0, resize=resize)
    report = prepare.prepare(photos, tmp_path / "set", shrinking=shrinking)
    source, made = _read(tmp_path / "set")
    given = {file.name: sources.open_folder(photos.root)[i] for i, file in enumerate(photos.files)
             if file.name != "broken.jpg"}  # fmt: skip
    for name, example in given.items():
        expected = example.pixels if "small" in name else resize_to_cover(
            example.pixels, 48, resize
        )  # fmt: skip
        np.testing.assert_array_equal(made[name].pixels, expected)
    assert report["shrunken"] == 3 and report["bytes_kept"] == 1
    assert report["shrinking"]["short_side"] == 48 and report["shrinking"]["resize"] == resize
    assert f"short side at most 48 ({resize}), PNG" in source.description
    assert [entry["file"] for entry in report["skipped"]["files"]] == ["broken.jpg"]


def test_the_way_of_shrinking_is_part_of_the_fingerprint(photos, tmp_path):
    def again(shrinking):
        return prepare.prepare(photos, tmp_path / "set", shrinking=shrinking)

    again(Shrinking(48))
    assert again(Shrinking(48))["reused"]
    for other in (None, Shrinking(32), Shrinking(48, 90), Shrinking(48, resize="published")):
        with pytest.raises(OutputError, match="made from something else"):
            again(other)
    for wrong in ({"short_side": 0}, {"short_side": 9, "quality": 101}):
        with pytest.raises(ValueError, match="must be"):
            Shrinking(**wrong)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shares_write_one_data_set_and_the_last_finishes_it(order, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_SIZE", 1)
    whole = prepare.prepare(photos, tmp_path / "whole")
    for index in order[:-1]:
        assert prepare.prepare(photos, tmp_path / "set", share=(index, 3)) is None
        assert prepare.prepare(photos, tmp_path / "set", share=(index, 3)) is None  # and again
    report = prepare.prepare(photos, tmp_path / "set", share=(order[-1], 3))
    assert report | {"seconds": 0} == whole | {"seconds": 0}
    manifests = [read_manifest(tmp_path / name, "data set") for name in ("whole", "set")]
    for name in manifests[0].files.keys() - {"report.json"}:
        assert manifests[0].files[name] == manifests[1].files[name], name
    assert prepare.prepare(photos, tmp_path / "set")["reused"]
    with pytest.raises(ValueError, match="no share 3 of 3"):
        prepare.prepare(photos, tmp_path / "set", share=(3, 3))


@pytest.mark.slow
def test_worker_processes_write_the_same_records(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "SHARD_SIZE", 2)
    for name, workers in (("one", 1), ("two", 2)):
        prepare.prepare(photos, tmp_path / name, workers=workers, shrinking=Shrinking(48))
    (_, one), (_, two) = (_read(tmp_path / name) for name in ("one", "two"))
    assert list(one) == list(two) and len(one) == len(
        SIZES
    )  # records have their fields in any order
    for name, example in one.items():
        np.testing.assert_array_equal(example.pixels, two[name].pixels)
        assert example.label == two[name].label
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")]
    for report in reports:
        del report["seconds"], report["seal"]
    assert reports[0] == reports[1]


def test_a_task_of_an_array_knows_its_share(monkeypatch):
    assert processes.share_of_array(None) == (0, 1)
    for name, value in {"ID": 7, "MIN": 5, "MAX": 8, "COUNT": 4}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert processes.share_of_array(None) == (2, 4)
    assert processes.share_of_array("0/3") == (0, 3)
    for wrong in ("3/3", "1", "a/b", "-1/2", ""):
        with pytest.raises(ValueError, match="must be I/N"):
            processes.share_of_array(wrong)
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "9")
    with pytest.raises(ValueError, match="without gaps"):
        processes.share_of_array(None)
