"""Images beside their references: who belongs to whom, and mistakes that name the file."""

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.data.pairs import PairBatches, find_pairs


def save(path, size=(16, 24), colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), colour, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Three pairs of two sizes, one in a sub-folder, one of another format."""
    for i, (image, reference) in enumerate([("b", "b"), ("a", "a"), ("sub/a", "sub/a")]):
        size = (16, 16) if i == 1 else (16, 24)
        save(tmp_path / "made" / f"{image}.png", size, colour=100 + i)
        save(tmp_path / "refs" / f"{reference}.{'bmp' if i == 0 else 'png'}", size, colour=i)
    return tmp_path / "made", tmp_path / "refs"


def test_pairs_have_one_name_but_for_the_extension(folders):
    pairs = find_pairs(*folders)
    names = [(pair.image.name, pair.reference.name, pair.size) for pair in pairs]
    assert names == [
        ("a.png", "a.png", (16, 16)),
        ("b.png", "b.bmp", (16, 24)),
        ("sub/a.png", "sub/a.png", (16, 24)),
    ]


def test_every_pair_once_in_batches_of_one_size(folders):
    seen = {}
    for batch in PairBatches(find_pairs(*folders), 2):
        assert batch["image"].shape == batch["given"].shape
        for i in np.flatnonzero(batch["mask"]):
            level = [np.rint((batch[key][i].max() + 1) * 127.5) for key in ("given", "image")]
            seen[int(batch["position"][i])] = (batch["name"][i], *map(int, level))
    assert seen == {0: ("a.png", 101, 1), 1: ("b.png", 100, 0), 2: ("sub/a.png", 102, 2)}


def test_references_are_brought_to_the_size_asked_for(folders):
    made, refs = folders
    for name in ("a", "b", "sub/a"):
        save(made / f"{name}.png", (8, 8))
    assert {pair.size for pair in find_pairs(made, refs, (8, 8))} == {(8, 8)}
    with pytest.raises(ValueError, match=r"a\.png is 8 x 8 .* should be 8 x 16, the size asked"):
        find_pairs(made, refs, (8, 16))


def test_a_missing_partner_is_named(folders):
    made, refs = folders
    save(made / "extra.png")
    with pytest.raises(ValueError, match=r"no reference in .*refs for extra\.png of .*made"):
        find_pairs(made, refs)
    (made / "extra.png").unlink()
    (made / "b.png").unlink()
    with pytest.raises(ValueError, match=r"no image in .*made for b\.bmp of .*refs"):
        find_pairs(made, refs)


def test_many_missing_partners_are_counted(folders):
    made, refs = folders
    for i in range(5):
        save(refs / f"more_{i}.png")
    with pytest.raises(ValueError, match=r"more_0\.png, more_1\.png, more_2\.png and 2 more"):
        find_pairs(made, refs)


def test_two_files_of_one_name_are_named(folders):
    made, refs = folders
    save(made / "a.bmp")
    with pytest.raises(ValueError, match=r"made has both a\.bmp and a\.png"):
        find_pairs(made, refs)


def test_another_size_is_named(folders):
    made, refs = folders
    save(made / "b.png", (24, 16))
    with pytest.raises(ValueError, match=r"b\.png is 24 x 16 .* should be 16 x 24, as .*b\.bmp is"):
        find_pairs(made, refs)


def test_a_photo_lying_on_its_side_has_its_upright_size(folders):
    made, refs = folders
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((24, 16, 3), np.uint8)).save(refs / "b.jpg", exif=exif)
    (refs / "b.bmp").unlink()
    assert find_pairs(made, refs)[1].size == (16, 24)


def test_a_broken_file_is_named_and_not_left_out(folders):
    made, refs = folders
    broken = (made / "b.png").read_bytes()
    (made / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.png cannot be read"):
        find_pairs(made, refs)
    (made / "b.png").write_bytes(broken[:60])  # a whole header: noticed when it is its turn
    batches = PairBatches(find_pairs(made, refs), 2)
    with pytest.raises(ValueError, match=r"b\.png cannot be read"):
        list(batches)


def test_some_pairs_keep_their_positions(folders):
    batches = PairBatches(find_pairs(*folders), 2, positions=[1, 2])
    assert [batch["position"].tolist() for batch in batches] == [[1, 2]]
