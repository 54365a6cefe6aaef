"""Faults of the storage end a run and cost no image; damaged images are skipped and counted."""

import builtins
import errno
import io
import os
import types
from pathlib import Path

import pytest
from PIL import Image

from gpstoken_jax import data
from gpstoken_jax.data import folder, images, prepare, sources
from gpstoken_jax.runtime import storage
from gpstoken_jax.runtime.storage import StorageError

FAULTS = (
    errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.EHOSTDOWN, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EMFILE,
    errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EBUSY,
)  # fmt: skip
ALWAYS_EIO = Path("/proc/self/mem")  # reading its first byte is an input/output error


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(storage, "RETRY_SECONDS", (0.0, 0.0, 0.0))


@pytest.fixture
def photos(tmp_path):
    """Six images of two classes, and one that is damaged."""
    root = tmp_path / "photos"
    for i in range(6):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (40 * i, 0, 0)).save(path)
    (root / "b" / "damaged.png").write_bytes((root / "b" / "1.png").read_bytes()[:40])
    return root


class _FaultyFile(io.BytesIO):
    def __init__(self, content, fail):
        super().__init__(content)
        self._fail = fail

    def read(self, *args):
        self._fail()
        return super().read(*args)


class FaultyDisk:
    """Stands in for ``open``: the files of one name cannot be opened, or not be read."""

    def __init__(self, monkeypatch, name: str, number: int, where: str, times: int = 10**9):
        self.count, self._times = 0, times
        self._name, self._number, self._where = name, number, where
        self._open = builtins.open
        monkeypatch.setattr(builtins, "open", self.open)

    def open(self, path, *args, **kwargs):
        if not isinstance(path, (str, os.PathLike)) or Path(path).name != self._name:
            return self._open(path, *args, **kwargs)
        if self._where == "open":
            self._fail(path)
        with self._open(path, *args, **kwargs) as file:
            return _FaultyFile(file.read(), lambda: self._fail(path))

    def _fail(self, path):
        if self.count < self._times:
            self.count += 1
            raise OSError(self._number, os.strerror(self._number), str(path))


def _config(**changes):
    crops = {"crop": "center", "crop_scale": (0.5, 1.0), "flip": False, "permute_colours": False}
    reading = {"cache_mb": 0, "num_threads": 2, "num_workers": 0, "prefetch": 1}
    return types.SimpleNamespace(**crops | reading | changes)


@pytest.mark.parametrize("where", ["open", "read"])
@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
def test_a_fault_is_tried_again_and_then_an_error(number, where, photos, monkeypatch):
    disk = FaultyDisk(monkeypatch, "2.png", number, where)
    source = sources.open_folder(photos)
    with pytest.raises(StorageError) as caught:
        for index in range(len(source)):
            if source.name(index) != "b/damaged.png":
                _ = source[index]
    assert disk.count == 4
    assert os.strerror(number) in str(caught.value) and "a/2.png" in str(caught.value)
    assert "run the same command again" in str(caught.value)


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
def test_a_fault_that_passes_is_not_noticed(number, photos, monkeypatch):
    expected = [row.pixels.tobytes() for row in _readable(sources.open_folder(photos))]
    FaultyDisk(monkeypatch, "2.png", number, "read", times=2)
    assert [row.pixels.tobytes() for row in _readable(sources.open_folder(photos))] == expected


def _readable(source):
    for index in range(len(source)):
        try:
            yield source[index]
        except images.UnreadableImageError:
            assert source.name(index) == "b/damaged.png"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOENT], ids=errno.errorcode.get)
def test_batches_end_with_the_fault_and_skip_only_damage(number, photos, monkeypatch):
    source = sources.open_folder(photos)
    batches = data.eval_batches(source, _config(), 8, 4)
    assert sum(batch["mask"].sum() for batch in batches) == 6
    assert list(batches.unreadable.reasons) == ["b/damaged.png"]
    FaultyDisk(monkeypatch, "4.png", number, "open")
    with pytest.raises(StorageError):
        list(batches)
    training = data.train_batches(source, _config(), 8, 4, seed=0)
    with pytest.raises(StorageError):
        [next(training) for _ in range(4)]
    training.close()


def test_a_fault_in_a_worker_process_is_that_fault(photos):
    source = sources.open_folder(photos)
    (photos / "a" / "2.png").unlink()
    batches = data.train_batches(source, _config(num_workers=1, num_threads=1), 8, 4, seed=0)
    with pytest.raises(OSError, match=r"cannot read .*a/2\.png"):
        [next(batches) for _ in range(4)]
    batches.close()


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_listed_is_no_empty_one(number, photos, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).rstrip("/").endswith("/a"):
            raise OSError(number, os.strerror(number), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"photos/a"):
        folder.list_folder(photos)


def test_a_file_without_extension_is_not_judged_while_the_disk_fails(photos, monkeypatch):
    (photos / "a" / "0.png").rename(photos / "a" / "zero")
    assert "a/zero" in [file.name for file in folder.list_folder(photos).files]
    FaultyDisk(monkeypatch, "zero", errno.EIO, "read")
    with pytest.raises(StorageError, match="zero"):
        folder.list_folder(photos)


def test_too_little_memory_is_no_damage(photos, monkeypatch):
    def decode(*_):
        raise MemoryError

    monkeypatch.setattr(images, "_decode_opened", decode)
    with pytest.raises(MemoryError):
        images.decode((photos / "a" / "0.png").read_bytes())


def test_preparing_ends_with_the_fault(photos, tmp_path, monkeypatch):
    listing = folder.list_folder(photos)
    disk = FaultyDisk(monkeypatch, "4.png", errno.EIO, "read")
    with pytest.raises(StorageError, match=r"4\.png"):
        prepare.prepare(listing, tmp_path / "set")
    disk._times = 0
    report = prepare.prepare(listing, tmp_path / "set")
    assert report["images_written"] == 6
    assert [entry["file"] for entry in report["skipped"]["files"]] == ["b/damaged.png"]


def test_records_tell_a_missing_file_from_a_damaged_one(photos, tmp_path, monkeypatch):
    prepare.prepare(folder.list_folder(photos), tmp_path / "set")
    (shard,) = (tmp_path / "set").rglob("*array_record*")
    content = shard.read_bytes()
    shard.write_bytes(content[:120] + bytes(300) + content[420:])
    source = sources.open_tfds(None, tmp_path / "set", "train")
    with pytest.raises(images.UnreadableImageError, match="record cannot be read"):
        [source[index] for index in range(len(source))]
    source = sources.open_tfds(None, tmp_path / "set", "train")
    shard.unlink()
    with pytest.raises(StorageError, match="No such file"):
        _ = source[0]
    shard.write_bytes(content)
    assert source[0].name == "a/0.png"
    source = sources.open_tfds(None, tmp_path / "set", "train")
    FaultyDisk(monkeypatch, shard.name, errno.EIO, "read")
    shard.write_bytes(b"")  # what a fault inside the record reader looks like from here
    with pytest.raises(StorageError, match="Input/output error"):
        _ = source[0]


@pytest.mark.skipif(not ALWAYS_EIO.exists(), reason="no file here that gives an I/O error")
def test_a_real_input_output_error(photos):
    (photos / "a" / "real.jpg").symlink_to(ALWAYS_EIO)
    source = sources.open_folder(photos)
    number = [source.name(index) for index in range(len(source))].index("a/real.jpg")
    with pytest.raises(StorageError, match="Input/output error"):
        _ = source[number]
