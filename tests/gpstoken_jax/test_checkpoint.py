"""Checkpoints: what is written comes back; what is damaged is passed over or named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpstoken_jax.checkpoint import CheckpointError, Checkpoints, latest_step, load_tree


def _trees(value):
    return {
        "params": {"a": jnp.full((3, 2), value), "b": jnp.arange(4.0)},
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


def test_a_damaged_newest_falls_back(written):
    for file in (written / "3" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:7])
    step, trees, _ = Checkpoints(written, keep=2).restore_latest(_trees(0))
    assert step == 2
    np.testing.assert_array_equal(trees["params"]["a"], np.full((3, 2), 2.0))


def test_another_shape_or_a_missing_tree_is_named(written):
    with pytest.raises(CheckpointError, match="params cannot be read"):
        load_tree(written, "params", {"a": jnp.zeros((5, 5)), "b": jnp.zeros(4)}, 3)
    with pytest.raises(CheckpointError, match=r"there is no .*ema_params"):
        load_tree(written, "ema_params", _trees(0)["params"], 3)
