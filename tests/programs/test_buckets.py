"""Programs on buckets, with emulators: what they make is what they make of local copies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load

from gpstoken_jax.configs import tiny
from gpstoken_jax.data import prepare
from gpstoken_jax.data.sources import open_folder, open_tfds
from gpstoken_jax.evaluation.measurement import Share
from gpstoken_jax.generation.layouts import open_layouts
from gpstoken_jax.runtime.buckets import file_system
from gpstoken_jax.runtime.run_directory import RunDirectory, write_config
from gpstoken_jax.tokenizer import Tokenizer
from gpstoken_jax.tokens import open_tokens
from gpstoken_jax.training.metric_log import MetricLog
from tests import emulators

ONE_A_SHARD = "--batch_size=1", "--shard_size=1"


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with emulators.bucket(request.param) as url:
        yield url


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("a/one", "a/two", "b/three", "b/.hidden", "@eaDir/four"):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    (folder / "a/notes.txt").write_text("no image")
    (folder / "a/empty").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def remote(bucket, photos, random_run):
    """The photos and the run in a bucket."""
    files = file_system(bucket)
    for name, folder in (("photos", photos), ("run", random_run)):
        for path in folder.rglob("*"):
            if path.is_file():
                files.put_file(str(path), f"{bucket}/{name}/{path.relative_to(folder)}")
    files.pipe_file(f"{bucket}/run/checkpoints/9/half/written", b"no manifest yet")
    return bucket


def test_a_folder_of_images_is_listed_and_read_as_a_local_copy(remote, photos):
    ours, theirs = open_folder(f"{remote}/photos"), open_folder(photos)
    assert ours.label_names == theirs.label_names == ("a", "b")
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert {left.name for left in ours.left_out} == {
        "a/notes.txt", "a/empty", "b/.hidden.png", "@eaDir/four.png",
    }  # fmt: skip
    assert ours.fingerprint() == open_folder(f"{remote}/photos").fingerprint()
    assert ours.fingerprint(content=True) == theirs.fingerprint(content=True)
    with pytest.raises(ValueError, match=f"no image found below {remote}/run"):
        open_folder(f"{remote}/run")


def test_the_newest_whole_checkpoint_of_a_run_is_read(remote):
    assert Tokenizer.from_pretrained(f"{remote}/run").step == 7
    assert Tokenizer.from_pretrained(f"{remote}/run/checkpoints/7", step=7).step == 7
    with pytest.raises(RuntimeError, match=r"no checkpoint of this step \(steps there: 7\)"):
        Tokenizer.from_pretrained(f"{remote}/run", step=9)
    with pytest.raises(FileNotFoundError, match=f"there is nothing at {remote}/none"):
        Tokenizer.from_pretrained(f"{remote}/none")


@pytest.fixture(scope="module")
def encoded(photos, random_run, program, tmp_path_factory):
    """The tokens of the photos, a shard an image, made of and on local disks."""
    output = tmp_path_factory.mktemp("tokens") / "local"
    program(
        "encode",
        f"--checkpoint={random_run}",
        f"--data.folder={photos}",
        f"--output={output}",
        *ONE_A_SHARD,
    )
    return output


def same_tokens(one, other):
    for ours, theirs in zip(open_tokens(one), open_tokens(other), strict=True):
        assert ours.name == theirs.name
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)


@pytest.mark.filterwarnings("ignore:the load_module")  # of what a program imports first
def test_programs_read_and_write(remote, encoded, program):
    if remote.startswith("gs"):
        pytest.skip("the same code as of s3, and slow")
    made = f"{remote}/made"
    where = (
        f"--checkpoint={remote}/run",
        f"--data.folder={remote}/photos",
        f"--output={made}/tokens",
    )
    program("encode", *where, *ONE_A_SHARD)
    same_tokens(f"{made}/tokens", encoded)
    assert not [name for name in emulators.contents(made) if "journal" in name or "lease" in name]
    assert "3 of 3 shards are there already" in program("encode", *where, *ONE_A_SHARD)
    for share in ("0/2", "1/2"):
        where = where[0], where[1], f"--output={made}/shares"
        said = program("encode", *where, *ONE_A_SHARD, f"--share={share}")
    assert "3 images in 3 shard(s)" in said
    program(
        "decode", f"--checkpoint={remote}/run", f"--tokens={made}/tokens", f"--output={made}/images"
    )
    assert sorted(emulators.contents(f"{made}/images")) == [
        "a/one.png",
        "a/two.png",
        "b/three.png",
        "manifest.json",
    ]
    layouts = f"--tokens={made}/tokens", f"--output={made}/layouts.safetensors"
    program("prepare_layouts", *layouts)
    assert open_layouts(f"{made}/layouts.safetensors").num_tokens == 8
    assert "Nothing has changed" in program("prepare_layouts", *layouts)
    images = f"--data.folder={remote}/photos", "--config=configs/tiny.py:smoke", "--split=all"
    images += "--num_tokens=8", f"--output={made}/of_images.safetensors"
    assert "share 0 of 2 is written" in program("prepare_layouts", *images, "--share=0/2")
    assert "3 layouts of 8 tokens" in program("prepare_layouts", *images, "--share=1/2")
    assert [name for name in emulators.contents(made) if "of_images" in name] == [
        "of_images.safetensors"
    ]


def test_results_of_an_evaluation_go_to_a_bucket(remote, program, monkeypatch):
    if remote.startswith("gs"):
        pytest.skip("the same code as of s3")
    output = f"{remote}/made/eval"
    flags = "--nolpips", "--nofrechet", "--baselines=", "--report_images=2", "--noreport_maps"
    call = "eval", f"--checkpoint={remote}/run", f"--data.folder={remote}/photos", *flags
    call += (f"--output={output}",)
    add = Share.add

    def add_one(share, *batch):
        add(share, *batch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Share, "add", add_one)
        program(*call)
    assert [name for name in emulators.contents(output) if "progress" in name]
    said = program(*call)
    assert "goes on after" in said
    assert f"report:  {output}/report.html" in said
    there = emulators.contents(output)
    assert {"metrics.json", "results.md", "report.html", "manifest.json"} <= there.keys()
    assert not [name for name in there if "progress" in name or "lease" in name]
    program(*call)  # measures nothing again
    assert emulators.contents(output)["metrics.json"] == there["metrics.json"]
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ValueError, match="several processes meet on a disk"):
        program(*call)


def test_a_data_set_is_prepared_of_a_bucket_in_a_bucket(remote, photos, program, monkeypatch):
    if remote.startswith("gs"):
        pytest.skip("the same code as of s3")
    monkeypatch.setattr(prepare, "SHARD_SIZE", 1)
    output = f"{remote}/made/set"
    call = "prepare_data", f"--folder={remote}/photos", f"--output={output}", "--val_fraction=0"
    call += ("--workers=1",)
    assert "share 1 of 2 is written" in program(*call, "--share=1/2")
    assert f"every file's fate: {output}/report.json" in program(*call, "--share=0/2")
    assert "Nothing has changed" in program(*call)
    ours, theirs = open_tfds(None, output, "train"), open_folder(photos)
    assert ours.label_names == theirs.label_names
    for one, other in zip(ours, theirs, strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_the_page_of_a_run_in_a_bucket(bucket, program, tmp_path):
    log = MetricLog(RunDirectory(tmp_path), step=0)
    log.scalars(3, {"loss": 0.25})
    log.image(3, "held out", np.zeros((8, 8, 3), np.uint8))
    log.close()
    write_config(RunDirectory(tmp_path), tiny.get_config("smoke"))
    files, run = file_system(bucket), f"{bucket}/logged"
    for name in ("config.json", "metrics.jsonl", "samples/3.png"):
        files.put_file(str(tmp_path / name), f"{run}/{name}")
    files.pipe_file(f"{run}/checkpoints/3/params", b"is not read")
    for _ in range(2):  # a report may be replaced
        assert f"{run}/report.html: open it" in program("report", run)
        assert b"0.25" in emulators.contents(run)["report.html"]
    program("report", run, f"--against={run}", f"--output={tmp_path / 'here.html'}")
    assert run in (tmp_path / "here.html").read_text()
    with pytest.raises(ValueError, match=f"{run}/config.json is there and is no report"):
        program("report", run, f"--output={run}/config.json")
    with pytest.raises(ValueError, match=f"{run} is there and is no report"):
        program("report", run, f"--output={run}")


def test_weights_are_converted_there_and_back_in_a_bucket(remote, program, random_run, tmp_path):
    if remote.startswith("gs"):
        pytest.skip("the same code as of s3")
    weights, run = f"{remote}/made/weights.safetensors", f"{remote}/made/converted"
    assert weights in program(
        "convert", f"--input={remote}/run", "--to=torch", f"--output={weights}"
    )
    local = tmp_path / "weights.safetensors"
    program("convert", f"--input={random_run}", "--to=torch", f"--output={local}")
    ours, theirs = load(emulators.contents(weights)[""]), load(local.read_bytes())
    assert ours.keys() == theirs.keys()  # metadata is in any order
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name])
    assert f"written:    {run}\n" in program("convert", f"--input={weights}", f"--output={run}")
    there = emulators.contents(run)
    assert {"config.json", "checkpoints/0/manifest.json"} <= there.keys()
    assert not [name for name in there if "lease" in name]
    with pytest.raises(RuntimeError, match="has checkpoints already"):
        program("convert", f"--input={weights}", f"--output={run}")
