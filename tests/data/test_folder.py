"""Listings of directories: classes, splits and everything that is left out."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gpstoken_jax.data import folder, images


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")


def names(listing, split):
    return [file.name for file in listing.split(split)]


def reasons(listing):
    return {entry.name: entry.reason for entry in listing.left_out}


def test_flat_folder_has_no_labels(tmp_path):
    put(tmp_path, "b.png", "a.JPG", "deep")
    listing = folder.list_folder(tmp_path)
    assert names(listing, "train") == ["a.JPG", "b.png", "deep"]
    assert listing.label_names == () and {file.label for file in listing.files} == {-1}


def test_sub_folders_are_classes_in_alphabetical_order(tmp_path):
    put(tmp_path, "dog/1.png", "cat/x/2.png", "cat/3.png", "loose.png")
    listing = folder.list_folder(tmp_path)
    assert listing.label_names == ("cat", "dog")
    labels = {file.name: file.label for file in listing.files}
    assert labels == {"cat/3.png": 0, "cat/x/2.png": 0, "dog/1.png": 1, "loose.png": -1}


def test_split_folders_are_kept(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/2.png", "Validation/dog/3.png", "test/cat/4.png")
    listing = folder.list_folder(tmp_path, val_fraction=0.5)
    assert names(listing, "train") == ["train/cat/1.png", "train/dog/2.png"]
    assert names(listing, "val") == ["Validation/dog/3.png"]
    assert names(listing, "test") == ["test/cat/4.png"]
    assert len(names(listing, "all")) == 4
    assert listing.label_names == ("cat", "dog") and listing.split("val")[0].label == 1


def test_images_beside_split_folders_are_named(tmp_path):
    put(tmp_path, "train/1.png", "val/2.png", "stray.png")
    listing = folder.list_folder(tmp_path)
    assert reasons(listing) == {"stray.png": "image outside the split folders"}


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path, "train/1.png", "car/2.png")
    listing = folder.list_folder(tmp_path)
    assert listing.label_names == ("car", "train")
    assert len(names(listing, "train")) == 2


def test_held_out_share_is_stable_when_images_are_added(tmp_path):
    put(tmp_path, *(f"{i:03d}.png" for i in range(200)))
    before = set(names(folder.list_folder(tmp_path, 0.2), "val"))
    assert 25 <= len(before) <= 55
    put(tmp_path, *(f"new{i:03d}.png" for i in range(200)))
    after = folder.list_folder(tmp_path, 0.2)
    assert {name for name in names(after, "val") if not name.startswith("new")} == before
    assert set(names(after, "val")).isdisjoint(names(after, "train"))


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_neither_side_of_a_split_is_empty(tmp_path, fraction):
    put(tmp_path, "a.png", "b.png", "c.png")
    listing = folder.list_folder(tmp_path, fraction)
    assert names(listing, "train") and names(listing, "val")


def test_whatever_is_not_listed_is_named(tmp_path):
    put(tmp_path, "a.png", ".hidden.png", ".cache/b.png", "real/c.png")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    listing = folder.list_folder(tmp_path)
    assert reasons(listing) == {
        ".hidden.png": "hidden file",
        ".cache": "hidden folder",
        "notes.txt": "not an image",
        "loop": "link to a folder that is already listed",
        "pipe.png": "not a regular file",
        "broken.jpg": "link to nothing",
        "itself.jpg": "link to nothing",
    }


def test_linked_folders_are_followed(tmp_path):
    put(tmp_path / "elsewhere", "1.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "elsewhere")
    assert names(folder.list_folder(tmp_path / "photos"), "all") == ["cat/1.png"]


def test_what_is_not_utf8_or_no_line_can_be_stored_and_stays_distinct(tmp_path):
    """Names become one-to-one text; those of classes stay as they are."""
    for raw in (b"caf\xe9", b"two\nlines", b"two\\nlines", b" ", b"cat ", b"cat"):
        os.mkdir(os.fsencode(tmp_path) + b"/" + raw)
        with open(os.fsencode(tmp_path) + b"/" + raw + b"/1.png", "wb") as file:
            Image.new("RGB", (4, 4)).save(file, "PNG")
    listing = folder.list_folder(tmp_path)
    assert set(names(listing, "all")) == {
        "caf\\udce9/1.png", "two\\nlines/1.png", "two\\\\nlines/1.png",
        " /1.png", "cat /1.png", "cat/1.png",
    }  # fmt: skip
    assert set(listing.label_names) == {
        "caf\\udce9", "two\nlines", "two\\nlines", " ", "cat ", "cat"
    }  # fmt: skip
    assert {file.label for file in listing.files} == set(range(6))


def test_two_folders_that_would_be_one_class_are_refused(tmp_path):
    for raw in (b"caf\xe9", b"caf\\udce9"):
        os.mkdir(os.fsencode(tmp_path) + b"/" + raw)
        with open(os.fsencode(tmp_path) + b"/" + raw + b"/1.png", "wb") as file:
            Image.new("RGB", (4, 4)).save(file, "PNG")
    with pytest.raises(ValueError, match="would be one class: rename one"):
        folder.list_folder(tmp_path)


@given(st.lists(st.text(st.sampled_from("\\n\n\r\udce9udcé9"), max_size=8), unique=True))
def test_printable_names_are_one_to_one(raw):
    shown = [folder.printable_name(name) for name in raw]
    assert len(set(shown)) == len(raw)
    assert not set("\n\r") & set("".join(shown).encode().decode())


def test_folders_of_desktops_and_nas_are_no_classes(tmp_path):
    put(tmp_path, "cat/1.png", "cat/@eaDir/1.png/thumb.png", "@eaDir/2.png", "__MACOSX/cat/1.png")
    put(tmp_path, "cat/._1.png", "#recycle/3.png", "$RECYCLE.BIN/4.png", ".Trash-1000/5.png")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "desktop.ini").write_text("[.ShellClassInfo]")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    listing = folder.list_folder(tmp_path)
    assert names(listing, "all") == ["cat/1.png"] and listing.label_names == ("cat",)


def test_pictures_that_are_not_read_are_named_as_such(tmp_path, monkeypatch):
    put(tmp_path, "a.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "icon.ico")
    Image.new("RGB", (32, 32)).save(tmp_path / "old.tga")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr(images, "NEED_A_PLUGIN", {".heic": "pillow-heif"})
    monkeypatch.setattr(images, "EXTENSIONS", frozenset({".png"}))
    found = reasons(folder.list_folder(tmp_path))
    assert found["icon.ico"] == "ICO files are not read"
    assert found["old.tga"] == "TGA files are not read"
    assert found["phone.heic"] == "Pillow cannot read it: pip install pillow-heif"


@pytest.mark.parametrize("third", ["extra/cat/5.png", "unlabeled/5.png", "train2/dog/5.png"])
def test_a_third_folder_beside_the_splits_is_no_class(third, tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/dog/3.png", third)
    listing = folder.list_folder(tmp_path)
    assert listing.label_names == ("cat", "dog")
    assert names(listing, "train") == ["train/cat/1.png", "train/dog/2.png"]
    assert names(listing, "val") == ["val/dog/3.png"]
    assert reasons(listing) == {third: "image outside the split folders"}


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        folder.list_folder(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="directory that holds the images"):
        folder.list_folder(tmp_path / "file")
    with pytest.raises(ValueError, match=r"no image found .*\(1 other files\)"):
        folder.list_folder(tmp_path)
    with pytest.raises(ValueError, match="val_fraction"):
        folder.list_folder(tmp_path, 1.0)
