"""Opening folders and TFDS data sets, and writing the latter, all without TensorFlow."""

import dataclasses
import io
import json
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gpstoken_jax import data
from gpstoken_jax.data import demo, folder, prepare, sources

COLOURS = {"cat/a.png": (255, 0, 0), "cat/b.png": (0, 255, 0), "dog/c.png": (0, 0, 255)}


def config(**changes):
    fields = {"folder": None, "tfds_name": None, "tfds_dir": None, "val_fraction": 0.0}
    return types.SimpleNamespace(**(fields | changes))


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name, colour in COLOURS.items():
        for split in ("train", "val"):
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 20), colour).save(path)
    return root


@pytest.fixture
def prepared(photos, tmp_path):
    output = tmp_path / "set"
    prepare.prepare(folder.list_folder(photos), output)
    return output


@pytest.mark.parametrize("kind", ["folder", "tfds_dir"])
def test_both_kinds_of_source_give_the_same_examples(kind, photos, prepared):
    where = {"folder": str(photos), "tfds_dir": str(prepared)}[kind]
    source = data.open_source(config(**{kind: where}), "val")
    assert len(source) == 3 and source.label_names == ("cat", "dog")
    for index, (name, colour) in enumerate(COLOURS.items()):
        example = source[index]
        assert example.name == source.name(index) == f"val/{name}"
        assert example.label == ("dog" in name) and example.size == (20, 30)
        assert (example.pixels == colour).all()
    assert "3 images" in source.description
    assert len(data.open_source(config(**{kind: where}), "all")) == 6


def test_a_list_of_files(photos, tmp_path):
    """Paths from anywhere, with classes or without; the order and the names are the list's."""
    folder = photos / "train"
    (tmp_path / "lists").mkdir()
    listed = tmp_path / "lists" / "mine.txt"
    absolute = folder / "dog/c.png"
    listed.write_text(
        f"# mine\n../photos/train/cat/b.png\tcat\r\n\n{absolute}\tdog\n../photos/train/cat/a.png\n"
    )
    source = data.open_source(config(list=str(listed)), "all")
    assert source.label_names == ("cat", "dog") and "3 images" in source.description
    examples = [source[i] for i in range(3)]
    assert [e.label for e in examples] == [0, 1, -1]
    assert [e.name for e in examples] == [
        "../photos/train/cat/b.png",
        str(absolute),
        "../photos/train/cat/a.png",
    ]
    assert (examples[1].pixels == COLOURS["dog/c.png"]).all()
    held_out = data.open_source(config(list=str(listed), val_fraction=0.3), "val")
    train = data.open_source(config(list=str(listed), val_fraction=0.3), "train")
    assert len(held_out) + len(train) == 3 and len(held_out) >= 1
    before = source.fingerprint()
    listed.write_text(listed.read_text().replace("\tdog", "\tcow"))
    assert data.open_source(config(list=str(listed)), "all").fingerprint() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "lists no image"),
        (b"# nothing\n\n", "lists no image"),
        (b"gone.png\n", r"line 1: there is no file .*gone\.png"),
        (b"photos\n", r"line 1: there is no file .*photos"),
        (b"photos/train/cat/a.png cat\n", "after a tab a class"),
        (b"photos/train/cat/a.png\nphotos/train/cat/a.png\tcat", "line 2: .* is there twice"),
        (b"\x89PNG\r\n\xff", "it is no UTF-8 text"),
    ],
)
def test_a_list_that_is_wrong_is_named_with_its_line(text, message, photos, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_bytes(text)
    with pytest.raises(ValueError, match=message) as raised:
        data.open_source(config(list=str(listed)), "all")
    assert str(listed) in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data.open_source(config(list=str(tmp_path / "gone.txt")), "all")
    with pytest.raises(ValueError, match="both a folder and a list are given"):
        data.open_source(config(list=str(listed), folder=str(photos)), "all")


def test_tensorflow_is_not_imported(prepared):
    assert sources.open_tfds(None, str(prepared), "train")[0].name == "train/cat/a.png"
    assert "tensorflow" not in sys.modules


def test_stored_bytes_are_the_original_files(photos, prepared):
    builder = tfds.builder_from_directory(str(prepared / "image_files" / "1.0.0"))
    records = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert records[0]["image"] == (photos / "train/cat/a.png").read_bytes()
    assert (records[0]["height"], records[0]["width"]) == (20, 30)
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert builder.info.file_format.value == "array_record"
    # TFDS's own decoding sees RGB too.
    assert builder.as_data_source("train")[0]["image"].shape == (20, 30, 3)


def test_converted_images_are_stored_as_png(tmp_path):
    (tmp_path / "in").mkdir()
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "in/grey.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "in/photo.webp", lossless=True)
    prepare.prepare(folder.list_folder(tmp_path / "in"), tmp_path / "out")
    builder = tfds.builder_from_directory(str(tmp_path / "out/image_files/1.0.0"))
    for record in builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()}):
        image = Image.open(io.BytesIO(record["image"]))
        assert image.format == "PNG" and image.mode == "RGB" and record["label"] == -1
        np.testing.assert_array_equal(np.asarray(image)[..., 0], grey)


def test_slices_and_validation_alias(prepared):
    assert len(sources.open_tfds(None, str(prepared), "train[:2]")) == 2
    assert len(sources.open_tfds(None, str(prepared), "validation")) == 3


def test_tfds_by_name(prepared):
    source = sources.open_tfds("image_files:1.0.0", str(prepared), "train")
    assert source[2].name == "train/dog/c.png"


class Digits(tfds.core.GeneratorBasedBuilder):
    """A data set of someone else: other names, grey images, no labels."""

    VERSION = tfds.core.Version("2.0.0")
    code_path = None

    def _info(self):
        features = tfds.features.FeaturesDict({"picture": tfds.features.Image(shape=(6, 6, 1))})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        for index in range(3):
            buffer = io.BytesIO()
            Image.new("L", (6, 6), index * 10).save(buffer, "PNG")
            yield index, {"picture": buffer.getvalue()}


def test_other_tfds_data_sets(tmp_path):
    Digits(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    source = sources.open_tfds(None, str(tmp_path), "test")
    assert source.label_names == ()
    example = source[2]
    assert (example.name, example.label) == ("test-00000002", -1)
    assert example.pixels.shape == (6, 6, 3) and (example.pixels == 20).all()


def test_tfrecord_data_sets_are_refused_with_advice(prepared):
    (prepared / "manifest.json").unlink()  # as if it were someone else's
    info = prepared / "image_files/1.0.0/dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="file_format=array_record"):
        sources.open_tfds(None, str(prepared), "train")


def test_missing_things_are_named(photos, prepared, tmp_path):
    with pytest.raises(ValueError, match=r"no data given.*data\.folder=DIR.*prepare_data --folder"):
        data.open_source(config(), "train")
    with pytest.raises(ValueError, match="both a folder and a TFDS"):
        data.open_source(config(folder=str(photos), tfds_dir=str(prepared)), "train")
    with pytest.raises(ValueError, match="no split 'test'; it has train, val and all"):
        data.open_source(config(folder=str(photos)), "test")
    with pytest.raises(ValueError, match="no split 'test'; it has train, val and all"):
        data.open_source(config(tfds_dir=str(prepared)), "test")
    with pytest.raises(FileNotFoundError, match="no prepared data set"):
        data.open_source(config(tfds_dir=str(photos)), "train")
    with pytest.raises(FileNotFoundError, match="knows no data set 'no_such_set'"):
        data.open_source(config(tfds_name="no_such_set", tfds_dir=str(tmp_path)), "train")


def test_two_data_sets_in_one_directory_must_be_told_apart(photos, tmp_path):
    for name in ("one", "two"):
        prepare.prepare(folder.list_folder(photos), tmp_path / "sets" / name)
    with pytest.raises(ValueError, match=r"several data sets.*one.*two"):
        sources.open_tfds(None, str(tmp_path / "sets"), "train")


def test_batches_from_a_prepared_set(prepared):
    reading = {"num_threads": 1, "num_workers": 0, "prefetch": 1}
    source = data.open_source(config(tfds_dir=str(prepared)), "train")
    (batch,) = data.eval_batches(source, types.SimpleNamespace(**reading), 16, 4)
    assert batch["name"] == ["train/cat/a.png", "train/cat/b.png", "train/dog/c.png", ""]
    np.testing.assert_array_equal(batch["image"][1, 0, 0], [-1, 1, -1])


@dataclasses.dataclass
class Damaged:
    records: object

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        if index == 1:
            raise RuntimeError("DATA_LOSS: chunk 1")
        return self.records[index]


def test_a_damaged_record_is_skipped_and_named(prepared):
    source = data.open_source(config(tfds_dir=str(prepared)), "train")
    damaged = dataclasses.replace(source, records=Damaged(source.records))
    reading = types.SimpleNamespace(num_threads=1, num_workers=0, prefetch=1)
    batches = data.eval_batches(damaged, reading, 16, 3)
    (batch,) = batches
    assert batch["mask"].tolist() == [True, False, True]
    assert batches.unreadable.reasons == {
        "train-00000001": "record cannot be read: DATA_LOSS: chunk 1"
    }


def test_demo_photos_are_split_by_scene():
    listing = demo.list_demo_photos()
    train = {file.path.name for file in listing.split("train")}
    val = {file.path.name for file in listing.split("val")}
    assert {"chelsea.png", "flower.jpg"} <= val and not train & val
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= train  # one scene, two views
    assert len(train) >= 10 and all(file.path.exists() for file in listing.files)
