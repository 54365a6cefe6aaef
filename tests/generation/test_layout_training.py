"""Stage 1 trained and drawn from, both networks, as a user does it."""

import functools
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gpstoken_jax.configs import layout_sit, layout_tree
from gpstoken_jax.generation.layouts import LayoutsError, open_layouts, write_layouts
from gpstoken_jax.generation.layouts.file import Layouts
from gpstoken_jax.generation.layouts.sit_sampler import measure, to_geometry, to_values
from gpstoken_jax.generation.layouts.split_tree import split_tree
from gpstoken_jax.partition.geometry import geometry_to_regions, regions_to_geometry
from gpstoken_jax.partition.host import greedy_regions
from gpstoken_jax.runtime.devices import map_over_devices
from gpstoken_jax.training.layout_batches import LayoutBatches
from gpstoken_jax.training.step import replicate
from gpstoken_jax.training.task import create_task
from tests import forked

ROOT = Path(__file__).parents[2]
SIZE, TOKENS = 32, 10


def _layouts(count, seed):
    """Two classes: small regions at the top, or at the bottom."""
    rng = np.random.default_rng(seed)
    label = np.arange(count, dtype=np.int32) % 2

    def complexity(label, region):
        top = region[1] < SIZE // 2
        size = (region[2] - region[0] + 1) * (region[3] - region[1] + 1)
        return size * rng.uniform(0.8, 1.2) * (9 if top == (label == 0) else 1)

    regions = [
        greedy_regions(SIZE, SIZE, TOKENS, 8, functools.partial(complexity, one)) for one in label
    ]
    geometry = regions_to_geometry(np.stack(regions), SIZE, SIZE)
    return Layouts(geometry, label, ("top", "bottom"), SIZE, {"min_size": 8}, "made up")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("layouts")
    for name, count in (("train", 24), ("val", 6)):
        write_layouts(root / f"{name}.safetensors", _layouts(count, seed=count))
    return root


def _train(files, config, workdir, env, *more):
    data = [f"--config.data.{n}={files / f}.safetensors" for n, f in _FILES.items()]
    command = [sys.executable, "train.py", f"--config=configs/{config}.py:smoke", *data, *more]
    command.append(f"--workdir={workdir}")
    return forked.run(command, cwd=ROOT, env=env)


_FILES = {"layouts": "train", "val_layouts": "val"}


@pytest.fixture(scope="module")
def runs(files, env, tmp_path_factory):
    """A run of each network."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("layout_tree", "layout_sit"):
        result = _train(files, name, root / name, env)
        assert result.returncode == 0, result.stderr
        assert "24 layouts of 10 tokens" in result.stdout
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layout_tree", "layout_sit"])
def test_what_is_trained_can_be_drawn_from(kind, runs):
    workdir = runs / kind
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["num_tokens"] == TOKENS and config["label_names"] == ["top", "bottom"]
    sampler = open_layouts(workdir, num_tokens=TOKENS)
    assert sampler.label_names == ("top", "bottom") and sampler.image_size == SIZE
    keys = jax.random.split(jax.random.key(0), 70)
    labels = np.arange(70) % 3 - 1
    drawn = sampler.sample(keys, labels)
    assert drawn.shape == (70, TOKENS, 5) and drawn.dtype == np.float32
    assert (drawn[..., :2] > 0).all() and (abs(drawn[..., 3:]) <= 1).all()
    assert len(np.unique(drawn, axis=0)) > 20
    # Each hangs on its own key and label alone.
    np.testing.assert_array_equal(sampler.sample(keys[5:6], labels[5:6])[0], drawn[5])
    np.testing.assert_array_equal(sampler.sample(keys[::-1], labels[::-1]), drawn[::-1])
    if kind == "layout_tree":
        tree = split_tree(SIZE)
        np.testing.assert_array_equal(tree.to_geometry(tree.from_geometry(drawn)), drawn)
        assert open_layouts(workdir, num_tokens=7).sample(keys[:3], [0, 1, 1]).shape == (3, 7, 5)
        with pytest.raises(ValueError, match="num_tokens must be from 1 to 16"):
            open_layouts(workdir, num_tokens=17)
    else:
        with pytest.raises(LayoutsError, match="has layouts of 10 tokens, 7 are needed"):
            open_layouts(workdir, num_tokens=7)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(runs, files, env, tmp_path):
    """Of one network: the other has the same batches and the same step around its loss."""
    workdir = runs / "layout_tree"
    shutil.copytree(workdir, tmp_path / "run")
    for step in ("8", "12"):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / step)
    result = _train(files, "layout_tree", tmp_path / "run", env)
    assert result.returncode == 0 and "resuming after step 4" in result.stdout, result.stderr
    first, again = (
        [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
        for where in (workdir, tmp_path / "run")
    )
    losses = [
        [(line["step"], line.get("loss"), line.get("val_loss")) for line in lines]
        for lines in (first, again)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("module", [layout_tree, layout_sit])
def test_learning_lowers_the_held_out_loss_and_tells_classes_apart(module, files):
    config = module.get_config("smoke")
    config.data.layouts = str(files / "train.safetensors")
    config.data.val_layouts = str(files / "val.safetensors")
    config.train.update(batch_size=24, steps=60)
    config.optimizer.update(learning_rate=1e-2, warmup_steps=5)
    config.ema.decay = 0.9
    task = create_task(config)
    state = replicate(task.create_state(jax.random.key(0)))
    before = task.evaluate(state, {})
    step = map_over_devices(task.train_step, (None, 0, None), None, axis_name="data")
    for _, batch in zip(range(60), task.open_batches(), strict=False):
        batch = {name: array[None] for name, array in batch.items()}
        state, _ = step(state, batch, task.load_frozen())
    after = task.evaluate(state, {})
    assert after["val_loss"] < 0.8 * before["val_loss"]
    if module is layout_tree:
        assert after["val_loss"] < after["val_loss_no_class"]
        picture = task.preview(state)
        assert picture.dtype == np.uint8 and picture.ndim == 3
        sampler = task.sampler(jax.tree.map(lambda x: x.addressable_data(0), state.ema_params))
        labels = np.arange(64) % 2
        drawn = sampler.sample(jax.random.split(jax.random.key(0), 64), labels)
        lower = (drawn[..., 4] > 0).sum(1)
        assert lower[labels == 1].mean() > lower[labels == 0].mean() + 2


def test_mistakes_are_named_in_one_line(files, env, tmp_path):
    none = _train(files, "layout_tree", tmp_path / "a", env, "--config.data.layouts=")
    assert none.returncode == 1
    assert "no layouts given: set --config.data.layouts=FILE" in none.stderr
    other = _train(files, "layout_tree", tmp_path / "a", env, "--config.model.num_tokens=9")
    assert other.returncode == 1 and "Traceback" not in other.stderr
    assert "config.model.num_tokens is 9, but the layouts of" in other.stderr
    with pytest.raises(LayoutsError, match="there is no file of layouts"):
        open_layouts(tmp_path / "gone")


def test_batches_hang_on_seed_and_place_alone():
    rows = {"number": np.arange(10), "pair": np.arange(20).reshape(10, 2)}
    mirrored = {"number": -np.arange(10), "pair": -np.arange(20).reshape(10, 2)}

    def take(count, batches):
        return [next(batches) for _ in range(count)]

    whole = take(6, LayoutBatches(rows, mirrored, 4, seed=1))
    numbers = np.concatenate([batch["number"] for batch in whole])
    assert sorted(abs(numbers[:10])) == sorted(abs(numbers[10:20])) == list(range(10))
    assert (numbers[:10] != numbers[10:20]).any() and (numbers < 0).any() and (numbers > 0).any()
    for batch in whole:
        np.testing.assert_array_equal(batch["pair"][:, 0], 2 * batch["number"])
    resumed = LayoutBatches(rows, mirrored, 4, seed=1)
    halves = LayoutBatches(rows, mirrored, 4, seed=1)
    take(2, halves)
    resumed.set_state(json.loads(json.dumps(halves.get_state())))
    parts = [LayoutBatches(rows, mirrored, 2, 1, process, 2) for process in (0, 1)]
    for old, new in zip(whole[2:], resumed, strict=False):
        np.testing.assert_array_equal(old["number"], new["number"])
    for old in whole:
        shares = [next(part)["number"] for part in parts]
        np.testing.assert_array_equal(np.stack(shares, axis=1).reshape(-1), old["number"])
    plain = take(5, LayoutBatches(rows, None, 4, seed=1))
    assert all((batch["number"] >= 0).all() for batch in plain)


def test_values_of_the_sit_are_normalised_and_come_back():
    geometry = _layouts(20, 3).geometry
    statistics = measure(geometry)
    values = to_values(geometry, statistics)
    np.testing.assert_allclose(values.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(values.std((0, 1)), [1, 1, 0, 1, 1], atol=1e-5)
    back = np.asarray(to_geometry(values, statistics))
    np.testing.assert_allclose(back, geometry, atol=1e-5)
    np.testing.assert_array_equal(
        geometry_to_regions(back, SIZE, SIZE), geometry_to_regions(geometry, SIZE, SIZE)
    )
    wild = np.asarray(to_geometry(values * 100, statistics))
    assert (wild[..., :2] > 0).all() and (wild[..., :2] < 1).all()
    assert (abs(wild[..., 3:]) <= 1).all() and (wild[..., 2] == 0).all()
