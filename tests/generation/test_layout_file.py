"""Files of layouts, what they are made from, and the sampler that draws from them."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from skimage import data as photos

from gpstoken_jax import data
from gpstoken_jax.configs import tiny
from gpstoken_jax.generation.layouts import (
    EmpiricalSampler,
    Layouts,
    LayoutsError,
    collect,
    read_layouts,
    write_layouts,
)
from gpstoken_jax.generation.layouts.collect import (
    PartitionedImages,
    layouts_of_tokens,
    select_labels,
)
from gpstoken_jax.generation.layouts.file import is_layout_file
from gpstoken_jax.partition.images import partition_images
from gpstoken_jax.runtime.manifest import OutputError
from gpstoken_jax.runtime.outputs import Output, open_output
from gpstoken_jax.tokens import TokenWriter
from tests import forked

ROOT = Path(__file__).parents[2]
imports = pytest.mark.filterwarnings("ignore:the load_module")  # of what a program imports first


def _layouts(count=9, num_tokens=4):
    rng = np.random.default_rng(3)
    geometry = rng.uniform(0.1, 0.9, (count, num_tokens, 5)).astype(np.float32)
    label = np.arange(count, dtype=np.int32) % 3 - 1  # -1, 0, 1
    return Layouts(geometry, label, ("cat", "dögs"), 64, {"min_size": 8, "weight": 2.5}, "here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("chelsea", "coffee"):
        photo = getattr(photos, name)()
        (folder / name).mkdir()
        for i in range(3):
            crop = photo[40 * i : 40 * i + 80, 60 * i : 60 * i + 100]
            Image.fromarray(crop).save(folder / name / f"{i}.png")
    (folder / "coffee" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def test_what_goes_in_comes_out_and_equal_contents_are_equal_bytes(tmp_path):
    layouts = _layouts()
    for name in ("a", "b"):
        write_layouts(tmp_path / "sub" / f"{name}.safetensors", layouts)
    back = read_layouts(tmp_path / "sub" / "a.safetensors")
    for name, value in dataclasses.asdict(layouts).items():
        np.testing.assert_array_equal(getattr(back, name), value)
    assert back.geometry.dtype == np.float32 and back.label.dtype == np.int32
    a, b = (tmp_path / "sub" / f"{name}.safetensors" for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()
    assert is_layout_file(a) and not is_layout_file(tmp_path / "gone")
    assert [p.suffix for p in a.parent.iterdir()] == [".safetensors"] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.zeros(2, np.int32)}, "9 layouts need as many labels"),
        ({"label": np.full(9, 2, np.int32)}, "label 2 is outside -1 .. 1"),
        ({"geometry": np.zeros((9, 4, 5), np.float32)}, "token 0 of layout 0 is no Gaussian"),
        ({"geometry": np.full((9, 4, 5), np.nan, np.float32)}, "token 0 of layout 0"),
        ({"geometry": np.zeros((9, 4), np.float32)}, "must be \\[N, L, 5\\]"),
        ({"image_size": 0}, "image_size must be 2 or more"),
    ],
)
def test_what_no_partition_makes_is_refused(change, message, tmp_path):
    wrong = dataclasses.replace(_layouts(), **change)
    with pytest.raises(LayoutsError, match=message) as error:
        write_layouts(tmp_path / "wrong.safetensors", wrong)
    assert "wrong.safetensors" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_files_that_are_none_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(LayoutsError, match=r"no file of layouts .*x\.safetensors: make one"):
        read_layouts(path)
    save_file({"geometry": np.zeros((1, 2, 5), np.float32)}, path)
    with pytest.raises(LayoutsError, match=r"x\.safetensors is a safetensors file, but"):
        read_layouts(path)
    write_layouts(path, _layouts())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(LayoutsError, match=r"x\.safetensors is damaged"):
        read_layouts(path)


def test_layouts_of_tokens_are_their_initial_gaussians(tmp_path):
    layouts = _layouts()
    settings = {
        "model": {"image_size": 64},
        "partition": {"num_tokens": 4, "weight": 2.5, "min_size": 8},
        "data": "photos",
        "label_names": ["cat", "dögs"],
    }
    writer = TokenWriter(tmp_path, settings, len(layouts), shard_size=4)
    for shard in writer.unfinished():
        own = list(writer.shards[shard])
        rows = {
            "initial_geometry": layouts.geometry[own],
            "geometry": layouts.geometry[own] + 0.01,
            "features": np.zeros((len(own), 4, 2)),
            "label": layouts.label[own],
            "size": np.zeros((len(own), 2)),
            "position": np.array(own),
        }
        writer.write(shard, rows, [str(i) for i in own], {})
    writer.finish({})
    made = layouts_of_tokens(tmp_path)
    np.testing.assert_array_equal(made.geometry, layouts.geometry)
    np.testing.assert_array_equal(made.label, layouts.label)
    assert made.label_names == layouts.label_names
    assert (made.image_size, dict(made.partition)) == (64, dict(layouts.partition))


def test_layouts_of_images_are_their_partitions(folder):
    config = tiny.get_config().data
    config.folder = str(folder)
    source = data.open_source(config, "all")
    how = {"partition": {"weight": 2.5, "min_size": 8}}
    made = PartitionedImages(source, config, 32, 6, **how).layouts()
    assert made.geometry.shape == (6, 6, 5)  # the broken file is left out
    assert [made.label_names[i] for i in made.label] == ["chelsea"] * 3 + ["coffee"] * 3
    image = next(iter(data.eval_batches(source, config, 32, 1)))["image"]
    np.testing.assert_array_equal(made.geometry[:1], partition_images(image, 6)[0])
    crops = PartitionedImages(source, config, 32, 6, passes=3, seed=5, **how).layouts()
    assert len(crops) == 3 * len(source)
    assert len(np.unique(crops.geometry, axis=0)) > 6


def test_classes_are_matched_by_name():
    layouts = _layouts()
    chosen = select_labels(layouts, ("horse", "dögs"))
    np.testing.assert_array_equal(chosen.label, [-1, 1, -1, 1, -1, 1])
    np.testing.assert_array_equal(chosen.geometry, layouts.geometry[layouts.label != 0])
    with pytest.raises(ValueError, match="no layout is of a class among horse"):
        select_labels(dataclasses.replace(layouts, label=np.zeros(9, np.int32)), ("horse",))


def test_the_empirical_sampler_draws_each_class_from_its_own():
    layouts = _layouts(60)
    sampler = EmpiricalSampler(layouts)
    keys = jax.random.split(jax.random.key(0), 200)
    labels = np.arange(200) % 3 - 1
    drawn = sampler.sample(keys, labels)
    assert drawn.shape == (200, 4, 5)
    found = (drawn[:, None] == layouts.geometry).all((2, 3))
    assert (found.sum(1) == 1).all()
    rows = found.argmax(1)
    for label in (0, 1):
        own = np.flatnonzero(layouts.label == label)
        assert set(rows[labels == label]) <= set(own)
        assert len(set(rows[labels == label])) > len(own) / 2
    assert {layouts.label[row] for row in rows[labels == -1]} == {-1, 0, 1}


def test_a_layout_hangs_on_its_own_key_alone():
    sampler = EmpiricalSampler(_layouts(60))
    keys = jax.random.split(jax.random.key(1), 20)
    labels = np.arange(20) % 2
    together = sampler.sample(keys, labels)
    np.testing.assert_array_equal(sampler.sample(keys[::-1], labels[::-1]), together[::-1])
    np.testing.assert_array_equal(sampler.sample(keys[7:8], labels[7:8])[0], together[7])


def test_labels_that_cannot_be_drawn_are_refused():
    sampler = EmpiricalSampler(select_labels(_layouts(), ("cat", "horse")))
    key = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(ValueError, match="no layout of class 'horse'"):
        sampler.sample(key, [1])
    with pytest.raises(ValueError, match=r"label 2 is none of -1 \.\. 1"):
        sampler.sample(key, [2])


def test_the_program_writes_what_the_library_makes(folder, env, tmp_path):
    output = tmp_path / "made.safetensors"
    where = f"--data.folder={folder}", "--split=all", f"--output={output}"
    options = "--config=configs/tiny.py:smoke", "--num_tokens=6"
    command = [sys.executable, "-m", "gpstoken_jax", "prepare_layouts", *where, *options]
    result = forked.run(command, cwd=ROOT, env=env)
    assert result.returncode == 0, result.stderr
    assert "6 layouts of 6 tokens" in result.stdout and "chelsea 3, coffee 3" in result.stdout
    assert read_layouts(output).num_tokens == 6


@imports
def test_of_many_classes_some_are_named(program, tmp_path):
    for number in range(12):
        (tmp_path / "photos" / f"class{number:02}").mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"class{number:02}" / "a.png")
    where = f"--data.folder={tmp_path / 'photos'}", f"--output={tmp_path / 'a.safetensors'}"
    options = "--config=configs/tiny.py:smoke", "--split=all", "--num_tokens=4"
    *_, names = program("prepare_layouts", *where, *options).splitlines()
    assert names.endswith("class07 1, and 4 more classes") and "class08" not in names


class Killed(BaseException):
    pass


@imports
@pytest.mark.parametrize(("passes", "order"), [(0, (1, 0)), (3, (0, 1))])
def test_shares_that_were_killed_end_with_the_bytes_of_one_run(
    passes, order, folder, program, monkeypatch, tmp_path
):
    """In parts of two images, of which the fourth has one that cannot be read."""
    monkeypatch.setattr(collect, "PART", 2)
    monkeypatch.setattr(collect, "_BATCH", 2)
    where = f"--data.folder={folder}", "--split=all", "--config=configs/tiny.py:smoke"
    flags = (*where, "--num_tokens=4", f"--passes={passes}")
    one, shares = tmp_path / "one.safetensors", tmp_path / "shares.safetensors"
    program("prepare_layouts", *flags, f"--output={one}")
    call = ("prepare_layouts", *flags, f"--output={shares}")
    write, written = Output.write, []

    def write_or_die(self, name, *args, **kwargs):
        written.append(name)
        if len(written) == 2:
            raise Killed
        return write(self, name, *args, **kwargs)

    monkeypatch.setattr(Output, "write", write_or_die)
    with pytest.raises(Killed):
        program(*call, f"--share={order[0]}/2")
    said = program(*call, f"--share={order[0]}/2")
    assert "1 of " in said and f"share {order[0]} of 2 is written" in said
    assert not shares.exists()
    assert f"{len(read_layouts(one))} layouts" in program(*call, f"--share={order[1]}/2")
    assert len(written) == len({*written}) + 1  # only that of the kill was made again
    assert shares.read_bytes() == one.read_bytes()
    assert "Nothing has changed" in program(*call, f"--share={order[0]}/2")
    assert {path.name for path in tmp_path.iterdir()} == {one.name, shares.name}


@imports
def test_parts_of_others_are_refused_and_those_of_a_finished_file_go(folder, program, tmp_path):
    where = f"--data.folder={folder}", "--config=configs/tiny.py:smoke"
    call = ("prepare_layouts", *where, f"--output={tmp_path / 'a.safetensors'}")
    parts = tmp_path / "a.safetensors.parts"
    with open_output(parts, "parts of layouts", {"images": "others"}) as output:
        output.write("000000.safetensors", "theirs")
    with pytest.raises(OutputError, match=r"parts was made from something else: image_size was"):
        program(*call, "--num_tokens=4")
    program(*call, "--num_tokens=4", "--overwrite")
    assert not parts.exists()
    with open_output(parts, "parts of layouts", {}) as output:
        output.write("000000.safetensors", "left by a kill before the end")
    assert "Nothing has changed" in program(*call, "--num_tokens=4")
    assert not parts.exists()
    of_tokens = "prepare_layouts", "--tokens=none", f"--output={tmp_path / 'b.safetensors'}"
    assert "nothing to do for share 1" in program(*of_tokens, "--share=1/2")
    with pytest.raises(ValueError, match="from 1 to 16"):
        program(*call, "--num_tokens=999", "--overwrite")
    assert not parts.exists()


def test_layouts_in_turn_are_the_last_first_and_none_twice():
    """As the published generator takes them, however the images come in batches."""
    layouts = _layouts(60)
    sampler = EmpiricalSampler(layouts, in_turn=True)
    own = np.flatnonzero(layouts.label == 1)
    count = len(own)
    keys = jax.random.split(jax.random.key(0), count)
    taken = sampler.sample(keys, [1] * count, range(count))
    np.testing.assert_array_equal(taken, layouts.geometry[own[::-1]])
    apart = [sampler.sample(keys[:1], [1], [number])[0] for number in (2, 0)]
    np.testing.assert_array_equal(apart, taken[[2, 0]])
    sampler.check(1, count - 1)
    for call in (lambda: sampler.check(1, count), lambda: sampler.sample(keys[:1], [1], [count])):
        with pytest.raises(ValueError, match=f"has {count} layouts, and {count + 1} images"):
            call()
    with pytest.raises(ValueError, match="need the numbers"):
        sampler.sample(keys, [1] * count)
    assert EmpiricalSampler(layouts).fingerprint != sampler.fingerprint
    EmpiricalSampler(layouts).check(1, 10_000)
