"""The demo's crops: what is learnt from is not what is shown."""

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.data import demo_crops, folder, images


def _photo(height, width):
    """Left half black, right half white with rows that tell their place."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[:, width // 2 :] = 128 + np.arange(height)[:, None, None] // 4
    return photo


@pytest.mark.parametrize(("height", "width"), [(80, 120), (200, 120), (64, 400), (99, 101)])
def test_shown_squares_are_of_the_right_half(height, width):
    crops = demo_crops.held_out({"a": _photo(height, width), "b": _photo(80, 120)}, 16)
    assert crops.names[:2] == ["a", "b"]  # every photo's first square comes first
    assert crops.images.shape[1:] == (16, 16, 3)
    assert crops.images.min() > -0.1
    assert crops.names.count("a") == max(1, height // (width - round(width / 2)))


def test_learnt_parts_and_fitting_squares_are_of_the_left_half(tmp_path):
    photos = {"a": _photo(80, 120), "b": _photo(300, 150)}
    root = demo_crops.write_crops(photos, tmp_path)
    for split, low, high in (("train", 0, 0), ("val", 128, 255)):
        files = sorted((root / "photos" / split).iterdir())
        assert len(files) == len(photos)
        for file in files:
            pixels = np.asarray(Image.open(file))
            assert low <= pixels.min() <= pixels.max() <= high
    squares = demo_crops.fitting_crops(photos, 16)
    assert squares.shape[1:] == (16, 16, 3) and len(squares) > 20
    assert (squares[:4] == -1).all()  # of the first photo
    assert demo_crops.write_crops(photos, tmp_path) == root
    assert demo_crops.write_crops({"a": photos["a"]}, tmp_path) != root


def test_a_folder_is_read_past_what_cannot_be_shown(tmp_path, capsys):
    Image.fromarray(_photo(80, 120)).save(tmp_path / "good.png")
    Image.fromarray(_photo(20, 30)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    assert list(demo_crops.read_photos(str(tmp_path))) == ["good.png"]
    said = capsys.readouterr().out
    assert "small.png: it is too small, 30 x 20 pixels" in said and "left out: broken.png" in said


@pytest.mark.parametrize("shape", [(64, 1024), (1024, 64), (800, 700), (32, 64)])
def test_halves_of_any_photo_are_images_of_a_bounded_size(shape, tmp_path):
    Image.fromarray(_photo(*shape)).save(tmp_path / "a\\b.png")
    photos = demo_crops.read_photos(str(tmp_path))
    (name,) = [file.name for file in folder.list_folder(tmp_path).files]
    assert list(photos) == [name]
    assert min(photos[name].shape[:2]) == min(*shape, demo_crops.MAX_SHORT_SIDE)
    for file in demo_crops.write_crops(photos, tmp_path / "out").rglob("*.png"):
        images.decode(file.read_bytes())


def test_photos_that_are_more_than_enough_are_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_crops, "MAX_PHOTOS", 2)
    (tmp_path / "0.png").write_bytes(b"none")
    for number in range(1, 6):
        Image.fromarray(_photo(64, 64)).save(tmp_path / f"{number}.png")
    assert list(demo_crops.read_photos(str(tmp_path))) == ["1.png", "2.png"]
    assert "left out: the last 3" in capsys.readouterr().out


def test_a_folder_without_photos_is_refused(tmp_path):
    Image.fromarray(_photo(20, 30)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match="no photo that can be shown"):
        demo_crops.read_photos(str(tmp_path))


def test_the_demo_shows_photos_that_were_held_out():
    names = {"chelsea", "flower", "gravel", "rocket"}
    assert {name.split("/")[-1].split(".")[0] for name in demo_crops.read_photos(None)} <= names
