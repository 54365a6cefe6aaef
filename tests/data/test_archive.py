"""Images in an .npz file are those that NumPy reads, and no other file passes for one."""

import numpy as np
import pytest

from gpstoken_jax.data.archive import open_archive


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    np.savez(tmp_path / "samples.npz", pixels, np.arange(5))
    return tmp_path / "samples.npz", pixels


def test_images_are_those_of_numpy(images):
    path, pixels = images
    source = open_archive(path)
    assert len(source) == 5 and source.description == f"file {path}: 5 images"
    for i in (4, 0, 2):
        np.testing.assert_array_equal(source[i].pixels, pixels[i])
        assert source.name(i) == f"00000{i}" and source[i].size == (6, 7)
    before = source.fingerprint(content=True)
    np.savez(path, pixels + 1)
    assert open_archive(path).fingerprint(content=True) != before


OTHERS = {
    "floats": np.zeros((2, 4, 4, 3)),
    "no colours": np.zeros((2, 4, 4), np.uint8),
    "one colour": np.zeros((2, 4, 4, 1), np.uint8),
    "no image": np.zeros((0, 4, 4, 3), np.uint8),
    "Fortran's order": np.asfortranarray(np.ones((2, 4, 4, 3), np.uint8)),
}


@pytest.mark.parametrize("array", OTHERS.values(), ids=OTHERS)
def test_other_arrays_are_named(tmp_path, array):
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(ValueError, match=r"a\.npz .*arr_0 is .* not uint8 \[N, H, W, 3\]"):
        open_archive(tmp_path / "a.npz")


def test_compressed_and_other_files_are_named(images, tmp_path):
    path, pixels = images
    np.savez_compressed(path, pixels)
    with pytest.raises(ValueError, match=r"samples\.npz .*compressed"):
        open_archive(path)
    np.savez(path, images=pixels)
    with pytest.raises(ValueError, match=r"samples\.npz"):
        open_archive(path)
    with pytest.raises(FileNotFoundError):
        open_archive(tmp_path / "gone.npz")


def test_damaged_files_raise_nothing_else(images):
    """Single bytes changed, and files cut short: read, or refused with their name."""
    path, _ = images
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(changed[: rng.integers(len(data)) if rng.random() < 0.2 else len(data)])
        try:
            source = open_archive(path)
            assert source[len(source) - 1].pixels.shape == source.shape[1:]
        except ValueError as error:
            assert "samples.npz" in str(error)
            refused += 1
    assert refused > 500
