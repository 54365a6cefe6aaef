"""Order, resuming, sharding, padding and unreadable images of the batches."""

import json
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpstoken_jax import data
from gpstoken_jax.data import images, loader, sources, transforms
from gpstoken_jax.data.resize import RESIZES


def config(**changes):
    fields = {
        "crop": "center",
        "crop_scale": (0.25, 1.0),
        "flip": False,
        "permute_colours": False,
        "cache_mb": 0,
        "num_threads": 2,
        "num_workers": 0,
        "prefetch": 2,
    }
    return types.SimpleNamespace(**(fields | changes))


class Photos:
    """Image i is a fixed noise picture whose label is i; those in `bad` cannot be read."""

    description = "test photos"

    def __init__(self, count, bad=()):
        self.count = count
        self.bad = frozenset(bad)
        self.label_names = tuple(map(str, range(count)))
        self.reads = 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads += 1
        if index in self.bad:
            raise images.UnreadableImageError("broken on purpose")
        pixels = np.random.default_rng(index).integers(0, 256, (20 + index % 3, 24, 3), np.uint8)
        return sources.Example(pixels, index, self.name(index))

    def name(self, index):
        return f"photo{index}.png"


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def labels(batches):
    return [label for batch in batches for label in batch["label"].tolist()]


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.fixture
def closing():
    opened = []
    yield lambda iterator: opened.append(iterator) or iterator
    for iterator in opened:
        iterator.close()


def test_batch_contents(closing):
    batch = next(closing(data.train_batches(Photos(5), config(), 16, 4, seed=0)))
    assert batch.keys() == {"image", "label"}
    assert batch["image"].shape == (4, 16, 16, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32


def test_each_epoch_has_every_image_once_in_its_own_order(closing):
    batches = take(closing(data.train_batches(Photos(12), config(), 8, 4, seed=3)), 9)
    epochs = np.array(labels(batches)).reshape(3, 12)
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert list(range(12)) not in epochs.tolist()


def test_seed_decides_everything(closing):
    def run(seed):
        settings = config(crop="random_resized", flip=True)
        return take(closing(data.train_batches(Photos(12), settings, 8, 4, seed)), 4)

    assert_same(run(5), run(5))
    assert labels(run(5)) != labels(run(6))


def test_seed_decides_crops_too(closing):
    def first(seed):
        settings = config(crop="random_resized")
        return next(closing(data.train_batches(Photos(1), settings, 8, 4, seed)))["image"]

    assert not np.array_equal(first(0), first(1))  # one image: the order cannot differ


@pytest.mark.parametrize("crop", ["center", "random", "random_resized"])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_resume_gives_the_same_bits(crop, steps, closing):
    def start():
        settings = config(crop=crop, flip=True)
        return closing(data.train_batches(Photos(11, bad=[2]), settings, 8, 4, seed=1))

    whole = start()
    take(whole, steps)
    state = json.loads(json.dumps(whole.get_state()))  # as a checkpoint would keep it
    expected = take(whole, 6)
    resumed = start()
    take(resumed, 2)  # read ahead from the wrong place first
    resumed.set_state(state)
    assert_same(take(resumed, 6), expected)
    assert resumed.get_state() == whole.get_state()


def test_augmentation_differs_between_epochs(closing):
    settings = config(crop="random_resized")
    batches = take(closing(data.train_batches(Photos(1), settings, 8, 1, seed=0)), 5)
    assert len({batch["image"].tobytes() for batch in batches}) == 5


def test_threads_cache_and_prefetch_change_nothing(closing):
    def run(**changes):
        settings = config(crop="random_resized", flip=True, **changes)
        return take(closing(data.train_batches(Photos(9), settings, 8, 4, seed=2)), 6)

    expected = run(num_threads=1, prefetch=1)
    assert_same(run(num_threads=4, prefetch=3), expected)
    assert_same(run(cache_mb=100), expected)
    assert_same(run(cache_mb=0.005), expected)  # room for a few images only


def test_cache_reads_each_image_once(closing):
    photos = Photos(6)
    take(closing(data.train_batches(photos, config(cache_mb=10, num_threads=1), 8, 3, seed=0)), 20)
    assert photos.reads == 6


def test_cache_keeps_to_its_budget():
    one = 16 * 16 * 3  # fitted and cut
    fitted = loader.FittedImages(Photos(9), 16, "center", "antialias", budget_mb=3.5 * one / 2**20)
    for index in range(9):
        assert fitted[index][0].label == index
    assert len(fitted._kept) == 3 and fitted._used <= 3.5 * one


@pytest.mark.slow
def test_worker_processes_give_the_same_batches(tmp_path, closing):
    for index in range(6):
        Image.new("RGB", (20, 20), (index * 30, 0, 0)).save(tmp_path / f"{index}.png")
    source = sources.open_folder(tmp_path)
    settings = {"crop": "random", "flip": True, "num_threads": 1}
    expected = take(closing(data.train_batches(source, config(**settings), 8, 2, seed=0)), 5)
    workers = config(**settings, num_workers=2)
    batches = closing(data.train_batches(source, workers, 8, 2, seed=0))
    assert_same(take(batches, 3), expected[:3])
    state = batches.get_state()
    batches.set_state(state)
    assert_same(take(batches, 2), expected[3:])


LOADING = """
import sys, time, types
from gpstoken_jax import data
from gpstoken_jax.data import sources
if __name__ == "__main__":
    settings = dict(crop="center", crop_scale=(0.5, 1.0), flip=False, permute_colours=False)
    settings |= dict(cache_mb=0, num_threads=1, num_workers=2, prefetch=1)
    batches = data.train_batches(
        sources.open_folder(sys.argv[1]), types.SimpleNamespace(**settings), 8, 2, seed=0
    )
    next(batches)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to see processes")
def test_worker_processes_end_when_their_parent_is_killed(tmp_path):
    for index in range(4):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{index}.png")
    (tmp_path / "load.py").write_text(LOADING)
    command = [sys.executable, str(tmp_path / "load.py"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        workers = [pid for pid in _descendants(parent.pid) if "spawn_main" in _command(pid)]
        parent.kill()
    assert len(workers) >= 2
    deadline = time.monotonic() + 60
    while any("spawn_main" in _command(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in workers if "spawn_main" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # of every thread
    children = [child for path in lists for child in path.read_text().split()]
    return [each for child in map(int, children) for each in (child, *_descendants(child))]


def test_batch_larger_than_the_data_set(closing):
    batch = next(closing(data.train_batches(Photos(3), config(), 8, 8, seed=0)))
    counts = np.bincount(batch["label"])
    assert batch["image"].shape[0] == 8 and sorted(counts) == [2, 3, 3]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_images_of_one_process(processes, closing):
    settings = config(crop="random_resized", flip=True)
    whole = take(closing(data.train_batches(Photos(13), settings, 8, 6, seed=4)), 5)
    parts = [
        take(
            closing(
                data.train_batches(Photos(13), settings, 8, 6 // processes, 4, process, processes)
            ),
            5,
        )
        for process in range(processes)
    ]
    for step, batch in enumerate(whole):
        for process in range(processes):
            # Row r of process p is row r * P + p of the single process, augmentation included.
            np.testing.assert_array_equal(
                parts[process][step]["image"], batch["image"][process::processes]
            )


def test_a_position_saved_by_one_process_resumes_on_two(closing):
    def start(batch_size, process=0, processes=1):
        return closing(
            data.train_batches(Photos(13), config(), 8, batch_size, 4, process, processes)
        )

    whole = start(6)
    take(whole, 3)
    state, expected = whole.get_state(), next(whole)
    for process in range(2):
        half = start(3, process, 2)
        half.set_state(state)
        np.testing.assert_array_equal(next(half)["image"], expected["image"][process::2])


def test_unreadable_images_are_replaced_counted_and_named(closing):
    batches = closing(data.train_batches(Photos(8, bad=[1, 6]), config(), 8, 4, seed=0))
    seen = labels(take(batches, 10))  # five epochs
    assert len(seen) == 40 and set(seen) == {0, 2, 3, 4, 5, 7}
    assert batches.unreadable.count >= 10
    assert batches.unreadable.reasons == {
        "photo1.png": "broken on purpose",
        "photo6.png": "broken on purpose",
    }


def test_a_file_that_breaks_midway_does_not_stop_the_run(tmp_path, closing):
    for index in range(4):
        Image.new("RGB", (20, 20), (index * 30, 0, 0)).save(tmp_path / f"{index}.png")
    source = sources.open_folder(tmp_path)
    batches = closing(data.train_batches(source, config(), 8, 4, seed=0))
    take(batches, 2)
    (tmp_path / "2.png").write_bytes(b"")
    take(batches, 8)
    assert list(batches.unreadable.reasons) == ["2.png"]
    assert "empty file" in batches.unreadable.reasons["2.png"]


def test_all_images_unreadable_is_an_error(closing):
    batches = closing(data.train_batches(Photos(3, bad=[0, 1, 2]), config(), 8, 2, seed=0))
    with pytest.raises(loader.UnreadableDataError, match=r"in a row.*broken on purpose"):
        next(batches)


def test_resuming_another_sequence_warns(closing, caplog):
    batches = closing(data.train_batches(Photos(8), config(), 8, 4, seed=0))
    next(batches)
    state = batches.get_state()
    changed = closing(data.train_batches(Photos(9), config(), 8, 3, seed=1))
    with caplog.at_level("WARNING", logger="absl"):
        changed.set_state(state)
    assert "seed was 0 and is now 1" in caplog.text
    assert "num_images was 8 and is now 9" in caplog.text
    assert "position 4 is inside a batch of 3" in caplog.text
    assert changed.get_state()["position"] == 3


@pytest.mark.parametrize(
    ("count", "batch", "processes"), [(10, 4, 1), (8, 4, 1), (7, 2, 3), (1, 4, 2)]
)
def test_eval_shows_each_image_once_over_all_processes(count, batch, processes):
    shown, lengths = [], set()
    for process in range(processes):
        batches = data.eval_batches(Photos(count), config(), 16, batch, process, processes)
        collected = list(batches)
        assert len(collected) == len(batches) and batches.num_images == count
        lengths.add(len(collected))
        for part in collected:
            assert part["image"].shape == (batch, 16, 16, 3) and len(part["name"]) == batch
            assert all(
                bool(name) == bool(mask)
                for name, mask in zip(part["name"], part["mask"], strict=True)
            )
            shown += [n for n, m in zip(part["name"], part["mask"], strict=True) if m]
    assert sorted(shown) == sorted(f"photo{i}.png" for i in range(count))
    assert len(lengths) == 1  # or a collective operation would wait forever


def test_eval_is_in_order_with_size_and_centre_crop():
    photos = Photos(5)
    first, second = data.eval_batches(photos, config(crop="random", flip=True), 20, 3)
    assert first["label"].tolist() == [0, 1, 2] and second["label"].tolist() == [3, 4, -1]
    assert first["size"].tolist() == [[20, 24], [21, 24], [22, 24]]
    assert second["mask"].tolist() == [True, True, False]
    expected = photos[0].pixels[:, 2:22] / 127.5 - 1
    np.testing.assert_allclose(first["image"][0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 16), (16, 8)])
def test_eval_cuts_rectangles(size):
    """The whole of the side that is shorter in proportion, the middle of the other."""
    (batch,) = data.eval_batches(Photos(2), config(), size, 2)
    assert batch["image"].shape == (2, *size, 3) and batch["mask"].all()
    resized, cut = {  # of 20 x 24
        (8, 16): ((16, 13), np.s_[2:10]),
        (16, 8): ((19, 16), np.s_[:, 6:14]),
    }[size]
    photo = Image.fromarray(Photos(1)[0].pixels).resize(resized, Image.Resampling.BILINEAR)
    expected = np.asarray(photo)[cut] / 127.5 - 1
    np.testing.assert_allclose(batch["image"][0], expected, atol=1e-6)


def test_eval_can_be_repeated():
    batches = data.eval_batches(Photos(5), config(), 8, 2)
    assert_same(list(batches), list(batches))


def test_eval_names_unreadable_images():
    batches = data.eval_batches(Photos(5, bad=[3]), config(), 8, 5)
    (batch,) = batches
    assert batch["mask"].tolist() == [True, True, True, False, True]
    assert batch["name"][3] == "photo3.png"
    assert batches.unreadable.count == 1
    assert batches.unreadable.reasons == {"photo3.png": "broken on purpose"}


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"data\.crop='middle'"):
        data.train_batches(Photos(3), config(crop="middle"), 8, 2, seed=0)
    with pytest.raises(ValueError, match="batch_size 0"):
        data.eval_batches(Photos(3), config(), 8, 0)
    with pytest.raises(ValueError, match="process_index 2 is not below 2"):
        data.eval_batches(Photos(3), config(), 8, 2, 2, 2)


@pytest.mark.parametrize("resize", RESIZES)
def test_training_and_evaluation_bring_images_to_size_as_the_config_says(resize, closing):
    expected = {i: data.resize_and_crop(Photos(6)[i].pixels, 9, resize=resize) for i in range(6)}
    settings = config(resize=resize)
    (evaluated,) = data.eval_batches(Photos(6), settings, 9, 6)
    trained = next(closing(data.train_batches(Photos(6), settings, 9, 6, seed=0)))
    for batch, scaled in ((evaluated, transforms.to_unit_range), (trained, np.asarray)):
        for image, label in zip(batch["image"], batch["label"].tolist(), strict=True):
            np.testing.assert_array_equal(image, scaled(expected[label]))


def test_an_unknown_resize_is_refused_before_anything_is_read():
    settings = config(resize="nearest")
    with pytest.raises(ValueError, match=r"data\.resize='nearest'"):
        data.train_batches(Photos(3), settings, 8, 2, seed=0)
    with pytest.raises(ValueError, match=r"data\.resize='nearest'"):
        data.eval_batches(Photos(3), settings, 8, 2)


@pytest.mark.parametrize("batch_mb", [1, 50])
@pytest.mark.parametrize("workers", [1, 2, 8, 40])
def test_threads_and_cache_are_shared_out_among_workers(batch_mb, workers, monkeypatch):
    monkeypatch.setattr(loader, "available_cores", lambda: 16)
    threads = loader.ReadAhead(num_workers=workers).threads(batch_mb * 2**20)
    assert threads >= 1 and threads * workers <= max(16, workers)
    assert threads == 1 or 2 * threads * batch_mb <= 192
    budget = loader._budget(config(cache_mb=1024, num_workers=workers))
    assert budget <= 64 and budget * workers <= 1024
    assert loader.ReadAhead(num_workers=workers, num_threads=5).threads(2**30) == 5  # as asked for
