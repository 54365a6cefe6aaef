"""How directories are listed: classes, splits and everything that is left out."""

import os

import pytest
from PIL import Image

from gpstoken_jax.data import folder


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
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    listing = folder.list_folder(tmp_path)
    assert reasons(listing) == {
        ".hidden.png": "hidden file",
        ".cache": "hidden folder",
        "notes.txt": "not an image",
        "loop": "link to a folder that is already listed",
        "pipe.png": "not a regular file",
    }
    # Judged when it is read, so that it is skipped with the system's reason.
    assert "broken.jpg" in names(listing, "all")


def test_linked_folders_are_followed(tmp_path):
    put(tmp_path / "elsewhere", "1.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "elsewhere")
    assert names(folder.list_folder(tmp_path / "photos"), "all") == ["cat/1.png"]


def test_an_unreadable_sub_folder_is_named(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = folder.list_folder(tmp_path)
    assert names(listing, "all") == ["a/1.png"]
    assert reasons(listing) == {"b": "folder cannot be read: Permission denied"}


def test_names_that_are_not_utf8_can_be_stored(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(raw, "wb") as file:
        Image.new("RGB", (4, 4)).save(file, "PNG")
    put(tmp_path, "two\nlines.png")
    assert names(folder.list_folder(tmp_path), "all") == ["caf\\udce9.png", "two\\nlines.png"]


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
