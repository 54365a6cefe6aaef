"""Tar and parquet shards: what is found in them, read from them, and refused."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax import data
from gpstoken_jax.configs import check, common
from gpstoken_jax.data import images, packed, parquet, prepare, sources, tars
from gpstoken_jax.data.packed import find_shards, list_packed
from gpstoken_jax.runtime import buckets
from gpstoken_jax.runtime.buckets import file_system
from tests import emulators

WORDS = ("cat", "dog", "cat", "bird")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24 + number, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return pixels, buffer.getvalue()


def _write_tar(path, members, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, options.pop("mode", "w"), **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _samples(first, labels, kind="cls"):
    for number, label in enumerate(labels, first):
        yield f"n{number:03d}.png", _png(number)[1]
        if label is not None:
            text = json.dumps({"label": label}) if kind == "json" else str(label)
            yield f"n{number:03d}.{kind}", text.encode()


def _write_parquet(path, numbers, labels, *, names=None, group=2, struct=True):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    import pyarrow.parquet as pq

    path.parent.mkdir(exist_ok=True, parents=True)
    rows = [_png(number)[1] for number in numbers]
    column = [{"bytes": row, "path": f"{n}.png"} for n, row in zip(numbers, rows, strict=True)]
    table = pa.table({"image": column if struct else rows, "label": labels})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    pq.write_table(table, path, row_group_size=group)


def _config(**where):
    config = common.get_config().data
    config.update(val_fraction=0.0, cache_mb=0, num_threads=1, **where)
    return config


def _open(kind, place, split="train"):
    return data.open_source(_config(**{kind: str(place)}), split)


def _shards(kind, tmp_path):
    """Two shards of training, one held out, of four images each; their directory."""
    for number, name in enumerate(("train-0000", "train-0001", "validation-0000")):
        labels = [WORDS.index(WORDS[i]) for i in range(4)]
        if kind == "tars":
            _write_tar(tmp_path / f"{name}.tar", _samples(4 * number, labels, "json"))
        else:
            _write_parquet(
                tmp_path / f"{name}.parquet", range(4 * number, 4 * number + 4), labels,
                names=["cat", "dog", "-", "bird"],
            )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_images_labels_and_splits_of_shards(kind, tmp_path):
    place = _shards(kind, tmp_path / "shards")
    train, held_out = _open(kind, place), _open(kind, place, "val")
    assert len(train) == 8 and len(held_out) == 4
    for source, first in ((train, 0), (held_out, 8)):
        for i in range(len(source)):
            example = source[i]
            np.testing.assert_array_equal(example.pixels, _png(first + i)[0])
            assert example.label == (0, 1, 0, 3)[i % 4]
            assert example.name == source.name(i) and "-000" in example.name
    names = {source.name(i) for source in (train, held_out) for i in range(len(source))}
    assert len(names) == 12
    expected = ("cat", "dog", "-", "bird") if kind == "parquet" else ("0", "1", "2", "3")
    assert train.label_names == expected


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_batches_of_shards_resume_and_share_as_those_of_other_sources(kind, tmp_path):
    source = _open(kind, _shards(kind, tmp_path / "shards"))
    config = _config(crop="random")

    def start(batch, process=0, processes=1):
        return data.train_batches(source, config, 16, batch, 3, process, processes)

    whole = start(4)
    batches = [next(whole) for _ in range(4)]
    half, resumed = start(2, 1, 2), start(4)
    resumed.set_state({**start(4).get_state(), "position": 8})
    np.testing.assert_array_equal(next(half)["image"], batches[0]["image"][1::2])
    np.testing.assert_array_equal(next(resumed)["image"], batches[2]["image"])
    assert sorted(np.concatenate([b["label"] for b in batches[:2]])) == [0, 0, 0, 0, 1, 1, 3, 3]
    for one in (whole, half, resumed):
        one.close()


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_shards_can_be_prepared_and_have_a_fingerprint(kind, tmp_path):
    place = _shards(kind, tmp_path / "shards")
    before = _open(kind, place).fingerprint()
    report = prepare.prepare(sources.list_images(kind, str(place), 0.0), tmp_path / "set")
    assert {split: info["images"] for split, info in report["splits"].items()} == {
        "train": 8, "val": 4
    }  # fmt: skip
    made = sources.open_tfds(None, str(tmp_path / "set"), "train")
    np.testing.assert_array_equal(made[5].pixels, _png(5)[0])
    shard = next(path for path in sorted(place.iterdir()))
    os.utime(shard, (1, 1))
    assert _open(kind, place).fingerprint() != before


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_copies_of_shards_are_alike_and_no_row_group_is_read_for_it(kind, tmp_path, monkeypatch):
    one, two = (_open(kind, _shards(kind, tmp_path / name)) for name in ("one", "two"))
    monkeypatch.setattr(parquet, "_read_group", None)
    assert sources.likeness(one) == sources.likeness(two)
    assert sources.likeness(one) != sources.likeness(_open(kind, tmp_path / "one", "val"))


def test_the_index_is_made_once_and_again_when_a_shard_changes(tmp_path, monkeypatch, cache):
    path = _write_tar(tmp_path / "a.tar", _samples(0, WORDS))
    looked = []
    packing = packed.Packing(
        ".tar", lambda path: looked.append(path) or tars.index_tar(path), tars.TarMember
    )
    first = list_packed(str(path), packing)
    assert first.label_names == ("bird", "cat", "dog")
    again = list_packed(str(path), packing)
    assert [file[1:] for file in again.files] == [file[1:] for file in first.files]
    assert len(looked) == 1
    (index,) = (cache / "gpstoken_jax" / "shards").iterdir()
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.write_bytes(content)  # damaged: as if there was none
    assert len(list_packed(str(path), packing).files) == 4 and len(looked) == 2
    _write_tar(path, _samples(0, WORDS[:3]))
    assert len(list_packed(str(path), packing).files) == 3 and len(looked) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # no directory: there is no place for it
    assert len(list_packed(str(path), packing).files) == 3 and len(looked) == 4


def test_odd_members_are_left_out_and_named(tmp_path):
    good = _png(0)[1]
    members = [
        ("./a/1.png", good), ("./a/1.cls", b"7"), ("a/2.seg.png", good), ("a/2.txt", b"hello"),
        ("../3.png", good), ("/etc/4.png", good), ("a/../../5.png", good), ("6.cls", b"1"),
        ("a/1.jpg", good), ("b/" + "x" * 300 + ".png", good), ("7.cls", b"0" * 2_000_000),
        ("8.png", good), ("8.json", b"{"), ("a/1.png", good), ("\udce9.png", good),
    ]  # fmt: skip
    path = _write_tar(tmp_path / "odd.tar", members)
    with tarfile.open(path, "a") as archive:
        for name, kind in (("9.png", tarfile.SYMTYPE), ("10.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    listing = list_packed(str(path), tars.PACKING)
    names = [file.name.removeprefix("odd/") for file in listing.files]
    assert names == ["a/1.png", "a/2.seg.png", "b/" + "x" * 300 + ".png", "8.png", "\\udce9.png"]
    assert [file.label for file in listing.files] == [7, -1, -1, -1, -1]
    reasons = {entry.name.removeprefix("odd/"): entry.reason for entry in listing.left_out}
    for name in ("../3.png", "a/../../5.png"):
        assert "leaves the directory" in reasons[name]
    assert "2000000 bytes" in reasons["7.cls"] and "another image" in reasons["a/1.jpg"]
    assert reasons["9.png"] == reasons["10.png"] == "not a regular file"
    assert reasons["a/2.txt"] == "no image and no label" and "without an image" in reasons["6"]
    source = _open("tars", path)
    assert all((source[i].pixels == _png(0)[0]).all() for i in range(len(source)))


def test_a_damaged_member_is_skipped_and_named_like_a_damaged_file(tmp_path):
    members = [("1.png", _png(1)[1]), ("2.png", b"no image"), ("3.png", b"")]
    source = _open("tars", _write_tar(tmp_path / "a.tar", members))
    batches = data.eval_batches(source, _config(), 16, 3)
    (batch,) = batches
    assert batch["mask"].tolist() == [True, False, False]
    assert set(batches.unreadable.reasons) == {"a/2.png", "a/3.png"}


@pytest.mark.parametrize("cut", [700, 1600, -10000, -9000])
def test_a_tar_that_is_cut_short_is_one_clear_line(cut, tmp_path):
    path = _write_tar(tmp_path / "a.tar", [(f"{i}.png", bytes(900)) for i in range(5)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.tar") as caught:
        list_packed(str(path), tars.PACKING)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"hello" * 300, "a.tar"),
        (bytes(10240), "no image"),
        ("gz", "unpack it"),
    ],
)
def test_what_is_no_tar_file_is_refused(content, words, tmp_path):
    path = tmp_path / "a.tar"
    if content == "gz":
        _write_tar(path, _samples(0, WORDS), mode="w:gz")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        list_packed(str(path), tars.PACKING)


def test_a_huge_header_is_not_read(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**40
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(ValueError, match=r"a\.tar.*header of 1099511627776 bytes"):
        list_packed(str(tmp_path / "a.tar"), tars.PACKING)


def test_patterns_name_shards(tmp_path):
    for name in ("train-000", "train-001", "train-002", "extra"):
        _write_tar(tmp_path / f"{name}.tar", _samples(0, WORDS))

    def found(pattern):
        return [os.path.basename(path) for path in find_shards(f"{tmp_path}/{pattern}", ".tar")]

    assert found("train-{000..001}.tar") == ["train-000.tar", "train-001.tar"]
    assert found("{extra,train-002}.tar") == ["extra.tar", "train-002.tar"]
    assert found("train-*.tar") == found("train-{000..002}.tar")
    assert found("") == sorted(os.listdir(tmp_path))
    for missing in ("train-{000..003}.tar", "val-*.tar", "gone"):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            found(missing)
    with pytest.raises(ValueError, match=r"extra\.tar is of no split"):
        list_packed(str(tmp_path), tars.PACKING)


@pytest.mark.parametrize("labels", [[0, "cat", 1, 2], [0, -5, 1, 2], [0, 10**12, 1, 2]])
def test_labels_that_do_not_fit_together_are_refused(labels, tmp_path):
    path = _write_tar(tmp_path / "a.tar", _samples(0, labels, "json"))
    with pytest.raises(ValueError, match="labels"):
        list_packed(str(path), tars.PACKING)


def test_parquet_of_plain_bytes_and_of_words(tmp_path):
    _write_parquet(tmp_path / "a.parquet", range(4), list(WORDS), struct=False, group=3)
    source = _open("parquet", tmp_path / "a.parquet")
    assert source.label_names == ("bird", "cat", "dog")
    for i in (3, 0, 2, 1):
        np.testing.assert_array_equal(source[i].pixels, _png(i)[0])
        assert source.label_names[source[i].label] == WORDS[i]


@pytest.mark.parametrize(
    ("labels", "seen", "strange"),
    [
        ([0.0, 2.0, None, 1.0], [0, 2, -1, 1], 0),
        ([True, False, True, None], [1, 0, 1, -1], 0),
        ([0.5, 1.0, 2.0, 1.0], [-1, 1, 2, 1], 1),
        ([[1, 2], [1], [], None], [-1] * 4, 3),
    ],
)
def test_labels_of_any_type_are_read_or_said_to_be_none(labels, seen, strange, tmp_path):
    _write_parquet(tmp_path / "a.parquet", range(4), labels)
    source = _open("parquet", tmp_path / "a.parquet")
    assert [file.label for file in source.files] == seen
    assert all(type(file.label) is int for file in source.files)
    said = [f"a/label: {strange} of its labels are neither whole numbers nor words"]
    assert [str(entry) for entry in source.left_out] == said * bool(strange)


def test_a_damaged_row_group_is_damaged_images_that_are_named(tmp_path):
    """Found after the index was made, and not at the storage's door: the others are read."""
    _write_parquet(tmp_path / "a.parquet", range(4), list(WORDS))
    source = _open("parquet", tmp_path / "a.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:60] = b"\xff" * 56  # the header of the first page
    (tmp_path / "a.parquet").write_bytes(content)
    parquet._read_group.cache_clear()
    for i in (0, 1):
        with pytest.raises(images.UnreadableImageError, match=r"a\.parquet.*damaged") as caught:
            source[i]
        assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(source[2].pixels, _png(2)[0])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": ["http://x/y.jpg"] * 2}, r"among image \(string\)"),
        ({"picture": [b"x"] * 2, "n": [1, 2]}, r"among picture \(binary\), n \(int64\)"),
        ({"image": [{"bytes": None, "path": "a.jpg"}] * 2}, "not in the file"),
    ],
)
def test_a_file_without_images_says_which_columns_it_has(columns, said, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    import pyarrow.parquet as pq

    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", struct)]) if "not" in said else None
    pq.write_table(pa.table(columns, schema=schema), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"a\.parquet .*{said}"):
        _open("parquet", tmp_path / "a.parquet")


@pytest.mark.parametrize("first", ["tars", "parquet"])
def test_an_index_is_of_one_kind_of_shard(first, tmp_path):
    """A file given for the other kind by mistake is refused, though an index of it was kept."""
    path = tmp_path / "shard"
    if first == "tars":
        _write_tar(path, _samples(0, WORDS))
    else:
        _write_parquet(path, range(4), list(WORDS))
    _open(first, path)
    with pytest.raises(ValueError, match="shard"):
        _open({"tars": "parquet", "parquet": "tars"}[first], path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", "other"])
def test_what_is_no_parquet_of_images_is_one_clear_line(content, tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    if content == "other":
        pq.write_table(pa.table({"x": [1, 2]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet") as caught:
        _open("parquet", path)
    assert "\n" not in str(caught.value)


def test_configs_take_shards_and_ask_for_one_place(tmp_path, monkeypatch):
    config = common.get_config()
    config.data.parquet = "x.parquet"
    assert not list(check.find_mistakes(config))
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    config.log.to = "jsonl"
    assert any(
        "pip install 'gpstoken_jax[parquet]'" in line for line in check.find_mistakes(config)
    )
    with pytest.raises(ValueError, match="both tar shards and parquet shards"):
        data.open_source(_config(tars="a", parquet="b"), "train")


@pytest.mark.parametrize("name", ["a[1].tar", "a{1,2}.tar", "a*.tar"])
def test_a_literal_name_beats_a_pattern(name, tmp_path):
    shard = _write_tar(tmp_path / name, _samples(0, WORDS))
    _write_tar(tmp_path / "a1.tar", _samples(4, WORDS))
    assert [*find_shards(str(shard), ".tar")] == [str(shard)]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("json", text) for text in ("[" * 100_000, "9" * 5000, '{"label": [0]}', "{", "")),
        *(("cls", text) for text in ("9" * 5000, " ")),
    ],
)
def test_a_label_that_cannot_be_read_is_none(kind, text, tmp_path):
    members = [("a.png", _png(0)[1]), (f"a.{kind}", text.encode())]
    source = _open("tars", str(_write_tar(tmp_path / "a.tar", members)), "all")
    assert [source[0].label, len(source)] == [-1, 1]
    assert len(source.left_out) == 1


@pytest.mark.parametrize(
    ("kind", "text", "label"),
    [("json", '{"label": 3.0}', 3), ("json", '{"label": true}', 1), ("json", '{"caption": 1}', -1)],
)
def test_labels_in_json(kind, text, label, tmp_path):
    members = [("a.png", _png(0)[1]), (f"a.{kind}", text.encode())]
    source = _open("tars", str(_write_tar(tmp_path / "a.tar", members)), "all")
    assert ([source[0].label], source.left_out) == ([label], ())


# ---- In a bucket ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with emulators.bucket(request.param) as url:
        yield url


def _upload(folder, bucket):
    for path in folder.rglob("*"):
        if path.is_file():
            file_system(bucket).put_file(str(path), f"{bucket}/{path.relative_to(folder)}")
    return bucket


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_shards_in_a_bucket_are_those_of_a_local_copy(kind, bucket, tmp_path, monkeypatch):
    _shards(kind, tmp_path / kind)
    url = _upload(tmp_path / kind, f"{bucket}/{kind}")
    place = f"{url}/train-{{0000..0001}}.{kind.removesuffix('s')}"
    ours, theirs = _open(kind, place), _open(kind, tmp_path / kind)
    assert ours.label_names == theirs.label_names and len(ours) == len(theirs) == 8
    for i in (5, 0, 7):
        assert (ours[i].name, ours[i].label) == (theirs[i].name, theirs[i].label)
        np.testing.assert_array_equal(ours[i].pixels, theirs[i].pixels)
    assert ours.fingerprint(content=True) == theirs.fingerprint(content=True)
    packing = (tars if kind == "tars" else parquet).PACKING
    monkeypatch.setattr(buckets, "local_copy", None)  # the index was kept
    assert len(list_packed(place, packing).files) == 8
    report = prepare.prepare(list_packed(place, packing), tmp_path / "set")
    assert report["images_written"] == 8


def test_patterns_find_the_same_in_a_bucket(bucket, tmp_path):
    for name in ("train-000", "train-001", "sub/train-002", "x[1]", "x1"):
        _write_tar(tmp_path / "a" / f"{name}.tar", _samples(0, WORDS[:1]))
    (tmp_path / "a/notes.txt").write_text("no shard")
    url = _upload(tmp_path / "a", f"{bucket}/patterns")

    def found(place, pattern):
        try:
            shards = find_shards(f"{place}/{pattern}".rstrip("/"), ".tar")
        except FileNotFoundError:
            return None
        return [path.removeprefix(f"{place}/") for path in shards]

    for pattern in (
        "", "sub", "train-000.tar", "*.tar", "*/*.tar", "train-{000..001}.tar", "train-00?.tar",
        "{x1,sub/train-002}.tar", "x[1].tar", "x[0-9].tar", "train-{000..002}.tar", "gone", "no*",
        "s*", "notes.txt",
    ):  # fmt: skip
        assert found(url, pattern) == found(f"{tmp_path}/a", pattern), pattern


def test_a_damaged_shard_in_a_bucket_is_named(bucket):
    url = f"{bucket}/damaged/a.tar"
    buckets.write_object(url, b"x" * 700)
    with pytest.raises(ValueError, match="tar file") as caught:
        list_packed(url, tars.PACKING)
    assert url in buckets.as_given(str(caught.value))


def test_a_list_in_a_bucket_names_objects_below_its_directory(bucket, tmp_path):
    for number, name in enumerate(("a.png", "sub/b.png")):
        (tmp_path / "l" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "l" / name).write_bytes(_png(number)[1])
    text = "# mine\na.png\tcat\n./sub/b.png\tdog\n"
    (tmp_path / "l/list.txt").write_text(text)
    url = _upload(tmp_path / "l", f"{bucket}/lists")
    ours, theirs = _open("list", f"{url}/list.txt"), _open("list", tmp_path / "l/list.txt")
    for one, other in zip(ours, theirs, strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        np.testing.assert_array_equal(one.pixels, other.pixels)
    buckets.write_object(f"{url}/whole.txt", f"{url}/a.png".encode())
    assert len(_open("list", f"{url}/whole.txt")) == 1
    for line in ("gone.png", "../up.png", "/etc/passwd", f"{bucket}/tars/x.png", "sub"):
        buckets.write_object(f"{url}/bad.txt", f"a.png\n{line}".encode())
        with pytest.raises(ValueError, match=r"bad\.txt, line 2: there is no file"):
            _open("list", f"{url}/bad.txt")
    with pytest.raises(FileNotFoundError, match=f"there is nothing at {url}/none.txt"):
        _open("list", f"{url}/none.txt")
