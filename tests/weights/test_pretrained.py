"""The weights that ship with the package."""

import json

import jax
import numpy as np
import pytest
from skimage.data import chelsea
from skimage.transform import resize

from gpstoken_jax import Tokenizer
from gpstoken_jax.training.conversion import import_weights
from gpstoken_jax.weights.pretrained import CARD, CONFIG, WEIGHTS, bundled_names, find

MAX_BYTES = 16e6


def test_there_are_some():
    assert "photos-small" in bundled_names()


@pytest.mark.parametrize("name", bundled_names())
def test_it_is_small_and_described(name):
    folder = find(name)
    assert {file.name for file in folder.iterdir()} == {CARD, CONFIG, WEIGHTS}
    assert (folder / WEIGHTS).stat().st_size <= MAX_BYTES
    card = (folder / CARD).read_text()
    for section in ("Training", "Data and licences", "Metrics", "Limits"):
        _, _, rest = card.partition(f"\n## {section}\n")
        assert len(rest.split("\n## ")[0].strip()) > 100, section


@pytest.mark.parametrize("name", bundled_names())
def test_its_config_names_no_place_on_a_disk(name):
    texts = []
    json.loads(
        (find(name) / CONFIG).read_text(),
        object_hook=lambda fields: texts.extend(x for x in fields.values() if isinstance(x, str)),
    )
    assert texts and not [text for text in texts if "/" in text]


@pytest.mark.parametrize("name", bundled_names())
def test_a_photo_that_it_was_not_trained_on_comes_back(name):
    tokenizer = Tokenizer.from_pretrained(name)
    photo = resize(chelsea()[:, 75:375], (tokenizer.image_size,) * 2, anti_aliasing=True)
    photo = (2 * photo - 1).astype(np.float32)
    error = np.square(tokenizer.decode(tokenizer.encode(photo)) - photo).mean()
    assert 10 * np.log10(4 / error) > 24
    assert error < 0.3 * np.square(photo - photo.mean((0, 1))).mean()


@pytest.mark.parametrize("name", bundled_names())
def test_training_can_go_on_from_it(name, tmp_path):
    import_weights(name, None, tmp_path / "run")
    trees = [Tokenizer.from_pretrained(source).params for source in (name, tmp_path / "run")]
    jax.tree.map(np.testing.assert_array_equal, *trees)
