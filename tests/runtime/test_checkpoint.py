"""Checkpoints: what is written comes back; what is damaged is passed over or named."""

import contextlib
import errno
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.runtime import checkpoint_files, storage
from gpstoken_jax.runtime.checkpoint import (
    CheckpointError,
    Checkpoints,
    DamagedCheckpointError,
    latest_step,
    load_newest_tree,
    load_tree,
    read_progress,
)


def _trees(value):
    noise = np.random.default_rng(value).standard_normal((64, 64), np.float32)
    return {
        "params": {"a": jnp.full((3, 2), value), "b": jnp.arange(4.0), "noise": jnp.array(noise)},
        "optimizer": {"step": jnp.int32(value)},
    }


@pytest.fixture
def written(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, _trees(step), {"position": 10 * step})
    checkpoints.close()
    return tmp_path


def test_the_newest_comes_back(written):
    step, trees, progress = Checkpoints(written, keep=2).restore_latest(_trees(0))
    assert (step, progress) == (3, {"position": 30})
    jax.tree.map(np.testing.assert_array_equal, trees, _trees(3))


def test_only_so_many_are_kept(written):
    assert sorted(p.name for p in written.iterdir()) == ["2", "3"]
    assert latest_step(written) == 3


def test_nothing_yet(tmp_path):
    assert Checkpoints(tmp_path, keep=1).restore_latest(_trees(0)) is None
    with pytest.raises(CheckpointError, match="no checkpoints"):
        latest_step(tmp_path)


def test_one_tree_alone(written):
    tree = load_tree(written, "params", _trees(0)["params"], 2)
    np.testing.assert_array_equal(tree["a"], np.full((3, 2), 2.0))


def _largest_file(directory):
    return max((f for f in directory.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def _truncate(step):
    file = _largest_file(step / "params")
    file.write_bytes(file.read_bytes()[:7])


def _flip_a_bit(step):
    """In the middle of the array's values, where neither Orbax nor TensorStore would notice."""
    file = _largest_file(step / "params")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _empty(step):
    shutil.rmtree(step)
    step.mkdir()


DAMAGES = {
    "truncated array": _truncate,
    "one other bit": _flip_a_bit,
    "missing tree": lambda step: shutil.rmtree(step / "params"),
    "missing structure": lambda step: (step / "params" / "_METADATA").unlink(),
    "missing progress": lambda step: shutil.rmtree(step / "progress"),
    "broken JSON": lambda step: (step / "progress" / "metadata").write_text('{"posi'),
    "empty directory": _empty,
    "empty files": lambda step: [f.write_bytes(b"") for f in step.rglob("*") if f.is_file()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_falls_back_and_can_be_written_again(written, damage, caplog):
    damage(written / "3")
    (written / "3.orbax-checkpoint-tmp").mkdir()  # of a killed process
    (written / "notes.txt").write_text("a stray file")
    checkpoints = Checkpoints(written, keep=2)
    step, trees, progress = checkpoints.restore_latest(_trees(0))
    assert (step, progress) == (2, {"position": 20})
    jax.tree.map(np.testing.assert_array_equal, trees, _trees(2))
    assert str(written / "3") in caplog.text and "trying the one before" in caplog.text
    checkpoints.save(3, _trees(33), {"position": 33})
    checkpoints.close()
    assert {p.name for p in written.iterdir()} == {"2", "3", "3.damaged", "notes.txt"}
    step, trees, progress = Checkpoints(written, keep=2).restore_latest(_trees(0))
    assert (step, progress) == (3, {"position": 33})
    jax.tree.map(np.testing.assert_array_equal, trees, _trees(33))


def test_who_only_reads_gets_the_newest_that_is_whole(written, caplog):
    _flip_a_bit(written / "3")
    step, tree = load_newest_tree(written, "params", _trees(0)["params"])
    assert (
        step == 2
        and tree["a"][0, 0] == 2
        and "/3/params/" in caplog.text
        and "is damaged" in caplog.text
    )
    with pytest.raises(CheckpointError, match=r"3/params/.* is damaged: it does not match"):
        load_newest_tree(written, "params", _trees(0)["params"], 3)
    _flip_a_bit(written / "2")
    with pytest.raises(CheckpointError, match=r"3/params/.* is damaged"):
        load_newest_tree(written, "params", _trees(0)["params"])
    assert sorted(p.name for p in written.iterdir()) == ["2", "3"]


def test_when_all_are_damaged_nothing_is_touched(written):
    for step in ("2", "3"):
        _truncate(written / step)
    with pytest.raises(
        CheckpointError, match=r"no checkpoint can be read; the newest: .*/3/params"
    ):
        Checkpoints(written, keep=2).restore_latest(_trees(0))
    assert sorted(p.name for p in written.iterdir()) == ["2", "3"]


def test_a_checkpoint_of_another_config_is_an_error_and_no_damage(written):
    other = _trees(0) | {"params": _trees(0)["params"] | {"b": jnp.zeros(5)}}
    with pytest.raises(CheckpointError, match=r"b was 'float32\[4\]' and is now 'float32\[5\]'"):
        Checkpoints(written, keep=2).restore_latest(other)
    other = _trees(0) | {"discriminator": {"a": jnp.zeros(3)}}
    with pytest.raises(CheckpointError, match=r"no .*/3/discriminator"):
        Checkpoints(written, keep=2).restore_latest(other)
    assert sorted(p.name for p in written.iterdir()) == ["2", "3"]


def test_what_cannot_be_written_is_an_error_and_the_older_ones_stay(written, caplog):
    checkpoints = Checkpoints(written, keep=1)
    with limited_file_size(100):
        with pytest.raises(
            CheckpointError, match=r"not be written .* MiB is free \(step 3"
        ) as raised:
            checkpoints.save(4, _trees(4), {"position": 40})
            checkpoints.close()
        with contextlib.suppress(CheckpointError):
            checkpoints.close()  # nothing of it is written any more when there is space again
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600
    assert not caplog.text
    checkpoints = Checkpoints(written, keep=1)
    step, trees, _ = checkpoints.restore_latest(_trees(0))
    checkpoints.close()
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, trees, _trees(3))
    assert sorted(p.name for p in written.iterdir() if p.name.isdigit()) == ["2", "3"]


@contextlib.contextmanager
def limited_file_size(size):
    """No file may grow beyond this many bytes: for root, too, the closest to a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_step_does_not_change_what_is_being_written(tmp_path):
    """The state's memory is donated to the next step while the checkpoint is written."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    trees = {"params": {"a": jnp.zeros((512, 512))}}
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, trees, {})
    for _ in range(3):
        trees = step(trees)
    checkpoints.close()
    _, restored, _ = Checkpoints(tmp_path, keep=1).restore_latest(trees)
    assert not restored["params"]["a"].any()


def test_another_shape_or_a_missing_tree_is_named(written):
    with pytest.raises(CheckpointError, match="params cannot be read"):
        load_tree(written, "params", {"a": jnp.zeros((5, 5)), "b": jnp.zeros(4)}, 3)
    with pytest.raises(CheckpointError, match=r"there is no .*ema_params"):
        load_tree(written, "ema_params", _trees(0)["params"], 3)


def test_every_flipped_bit_of_every_file_is_noticed(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"params": {"a": jnp.arange(3.0)}}, {"best": 21.5, "step": 1})
    files = [path for path in (tmp_path / "1").rglob("*") if path.is_file()]
    assert {"progress", "checksums", "params"} <= {path.parent.name for path in files}
    checkpoints = Checkpoints(tmp_path, keep=1)
    template = {"params": {"a": jnp.zeros(3)}}
    for path in files:
        whole = path.read_bytes()
        if not whole:
            continue
        for bit in np.unique(np.linspace(0, 8 * len(whole) - 1, 12).astype(int)):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=r"no checkpoint can be read; the newest: .*"):
                checkpoints.restore_latest(template)
        path.unlink(missing_ok=True)
        if path.name != "manifest.json":
            with pytest.raises(CheckpointError, match="no checkpoint can be read"):
                checkpoints.restore_latest(template)
        path.write_bytes(whole)
    assert checkpoints.restore_latest(template)[2] == {"best": 21.5, "step": 1}


@pytest.mark.parametrize(
    "name",
    ["a[1]", "[", "]", "*", "?", " ", "'\"", "a\nb", "a\\b", "🎈", "é", "x" * 255, "{a}", "%20",
     "$HOME", "~", "a:b", "-x", "#", ";"],
)  # fmt: skip
def test_odd_characters_in_the_path(tmp_path, name):
    directory = tmp_path / name / "checkpoints"
    with Checkpoints(directory, keep=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"params": {"a": jnp.full(3, step)}}, {"step": step})
    template = {"params": {"a": jnp.zeros(3, jnp.int32)}}
    step, trees, progress = Checkpoints(directory, keep=1).restore_latest(template)
    assert (step, progress, trees["params"]["a"][0]) == (2, {"step": 2}, 2)
    assert load_newest_tree(directory, "params", template["params"])[0] == 2
    assert [path.name for path in directory.iterdir()] == ["2"]


def test_keep_0_keeps_all(tmp_path):
    with Checkpoints(tmp_path, keep=0) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, {"params": {"a": jnp.zeros(2)}}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "4", "5"]
    with pytest.raises(ValueError, match="must be 0"):
        Checkpoints(tmp_path, keep=-1)


class _FaultyDisk:
    """Answers with an error instead of files under a directory, for so many calls."""

    def __init__(self, monkeypatch, directory, code, calls):
        self.left, directory = calls, str(directory)

        def faulty(function):
            def call(path, *args, **options):
                if self.left and str(path).startswith(directory):
                    self.left -= 1
                    raise OSError(code, os.strerror(code), str(path))
                return function(path, *args, **options)

            return call

        for name in ("digest_file", "read_json"):
            monkeypatch.setattr(checkpoint_files, name, faulty(getattr(checkpoint_files, name)))
        monkeypatch.setattr(os, "stat", faulty(os.stat))
        monkeypatch.setattr(storage, "RETRY_SECONDS", (0, 0, 0))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_a_disk_that_cannot_be_read_is_no_damage(written, monkeypatch, code):
    """The newest must not be given up, nor renamed, for a mount that is away for a while."""
    checkpoints = Checkpoints(written, keep=2)
    disk = _FaultyDisk(monkeypatch, written / "3", code, -1)
    for read in (
        lambda: checkpoints.restore_latest(_trees(0)),
        lambda: load_newest_tree(written, "params", _trees(0)["params"]),
        lambda: read_progress(written, 3),
    ):
        with pytest.raises(storage.StorageError, match=os.strerror(code)):
            read()
    disk.left = 0
    assert sorted(path.name for path in written.iterdir()) == ["2", "3"]
    disk.left = 2  # it comes back in time
    assert checkpoints.restore_latest(_trees(0))[0] == 3


def test_the_progress_of_a_damaged_checkpoint_is_not_believed(written):
    for path in (written / "3" / "progress").rglob("*"):
        path.write_bytes(path.read_bytes().replace(b"3", b"7"))
    with pytest.raises(DamagedCheckpointError, match=r"3/progress/.* is damaged"):
        read_progress(written, 3)
