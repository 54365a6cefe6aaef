"""The photos of the demo of generation: a folder of classes with something held out."""

import numpy as np
from PIL import Image
from skimage import data as photos

from gpstoken_jax.data.demo_classes import PHOTOS, split_photo, write_demo_classes
from gpstoken_jax.data.folder import list_folder


def test_every_class_has_a_photo_to_learn_from_and_one_held_out(tmp_path):
    paths = write_demo_classes(tmp_path)
    listing = list_folder(tmp_path)
    assert listing.label_names == tuple(PHOTOS)
    for split in ("train", "val"):
        assert [file.label for file in listing.split(split)] == list(range(len(PHOTOS)))
    left, right = (np.asarray(Image.open(path)) for path in paths[4:6])
    np.testing.assert_array_equal(np.concatenate([left, right], axis=1), photos.chelsea())
    # The second call leaves what is there as it is.
    before = [path.stat().st_mtime_ns for path in paths]
    assert write_demo_classes(tmp_path) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_no_pixel_is_on_both_sides():
    photo = np.arange(30, dtype=np.uint8).reshape(1, 10, 3)
    left, right = split_photo(photo)
    np.testing.assert_array_equal(np.concatenate([left, right], axis=1), photo)
    assert left.shape == (1, 7, 3)
