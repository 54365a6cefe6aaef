"""Batches of tokens for training, and random crops to make them of."""

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax.configs import common
from gpstoken_jax.data.crops import RandomCrops
from gpstoken_jax.data.sources import open_source
from gpstoken_jax.tokens import TokenWriter, open_tokens
from gpstoken_jax.tokens.batches import TokenBatches

COUNT = 11


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Eleven images whose label is their number, in shards of two processes."""
    directory = tmp_path_factory.mktemp("tokens")
    for process in range(2):
        writer = TokenWriter(
            directory, {}, COUNT, shard_size=3, process_index=process, process_count=2
        )
        for shard in writer.unfinished():
            positions = np.array(writer.shards[shard])
            geometry = np.full((len(positions), 2, 5), 0.5, np.float32)
            rows = {
                "geometry": geometry,
                "initial_geometry": geometry,
                "features": positions[:, None, None] * np.ones((1, 2, 3), np.float32),
                "label": positions,
                "size": np.ones((len(positions), 2)),
                "position": positions,
            }
            writer.write(shard, rows, [str(p) for p in positions], {})
        if process == 0:
            writer.close()
    writer.finish({})
    return open_tokens(directory)


def test_a_column_is_in_the_order_of_the_images(tokens):
    expected = [tokens[i].position for i in range(COUNT)]
    np.testing.assert_array_equal(tokens.column("position"), expected)
    assert expected != sorted(expected)  # the second process's come last


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_every_image_once_an_epoch_and_the_place_can_be_saved(tokens, cache_mb):
    batches = TokenBatches(tokens, range(COUNT), 4, seed=0, cache_mb=cache_mb)
    first = [next(batches) for _ in range(5)]
    place = batches.get_state()
    labels = np.concatenate([batch["label"] for batch in first])
    assert sorted(labels[:COUNT]) == list(range(COUNT))
    assert sorted(labels[COUNT:]) != list(labels[COUNT:])
    for batch in first:
        np.testing.assert_array_equal(batch["features"][:, 0, 0], batch["label"])
    later = next(batches)
    again = TokenBatches(tokens, range(COUNT), 4, seed=0, cache_mb=100 - cache_mb)
    again.set_state(place)
    np.testing.assert_array_equal(next(again)["label"], later["label"])
    other = TokenBatches(tokens, range(COUNT), 4, seed=1)
    assert (next(other)["label"] != first[0]["label"]).any()


def test_processes_share_the_batches_of_one(tokens):
    whole = TokenBatches(tokens, range(COUNT), 4, seed=3)
    parts = [TokenBatches(tokens, range(COUNT), 2, 3, p, 2) for p in range(2)]
    for _ in range(4):
        together = np.stack([next(part)["label"] for part in parts], axis=1).reshape(-1)
        np.testing.assert_array_equal(together, next(whole)["label"])


def test_only_the_chosen_images_come_and_batches_may_exceed_them(tokens):
    chosen = [1, 4, 7]
    batch = next(TokenBatches(tokens, chosen, 8, seed=0))
    assert set(batch["label"]) == {tokens[i].label for i in chosen}
    assert len(batch["label"]) == 8


def test_random_crops_are_their_numbers(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        pixels = rng.integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    config = common.data()
    config.update(folder=str(tmp_path), crop="random_resized", crop_scale=(0.3, 1.0))
    source = open_source(config, "all")
    crops = RandomCrops(source, config, 32, passes=3)
    assert len(crops) == 6
    assert [crops.name(i) for i in range(4)] == ["a.png#0", "a.png#1", "a.png#2", "b.png#0"]
    for i in (4, 0):
        made = crops[i]
        assert made.pixels.shape == (32, 32, 3)
        again = RandomCrops(source, config, 32, passes=3)[i]
        np.testing.assert_array_equal(made.pixels, again.pixels)
    assert (crops[0].pixels != crops[1].pixels).any()
    assert (RandomCrops(source, config, 32, 3, seed=1)[0].pixels != crops[0].pixels).any()
    assert "3 random_resized crops an image, mirrored or not, seed 0" in crops.description
