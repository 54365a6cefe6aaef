"""Training stage 2: what is filled in, held out, learned; resumed runs; mistakes."""

import jax
import numpy as np
import pytest

from gpstoken_jax.configs import sit_tiny
from gpstoken_jax.generation.guidance import Guidance
from gpstoken_jax.generation.samplers import Sampler
from gpstoken_jax.generation.sampling import BatchSampler, image_keys
from gpstoken_jax.runtime.checkpoint import CheckpointError
from gpstoken_jax.runtime.run_directory import RunDirectory, open_run, read_config, write_config
from gpstoken_jax.tokens import TokensError, TokenWriter, open_tokens
from gpstoken_jax.tokens.batches import read_rows
from gpstoken_jax.training.step import on_all_devices, one_copy, replicate, shard
from gpstoken_jax.training.task import create_task

L, C = 4, 3
CLASSES = ("low", "high")


def write_tokens(directory, count=40, features=C, names=CLASSES, passes=2, shown=2, **header):
    """Tokens whose features say their class, and whose Gaussians move a little."""
    rng = np.random.default_rng(0)
    label = np.arange(count) // passes % shown
    initial = rng.uniform(0.2, 0.8, (count, L, 5)).astype(np.float32)
    settings = {"label_names": list(names), "passes": passes} | header
    writer = TokenWriter(directory, settings, count, shard_size=16)
    for shard_number in writer.unfinished():
        part = np.array(writer.shards[shard_number])
        texture = (
            3 + 2.0 * label[part, None, None] + 0.2 * rng.normal(size=(len(part), L, features))
        )
        rows = {
            "geometry": initial[part] + 0.01 * rng.normal(size=(len(part), L, 5)),
            "initial_geometry": initial[part],
            "features": texture,
            "label": label[part],
            "size": np.ones((len(part), 2)),
            "position": part,
        }
        writer.write(shard_number, rows, [f"{p // passes}#{p % passes}" for p in part], {})
    writer.finish({})
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens"))


def _config(directory):
    config = sit_tiny.get_config("smoke")
    config.model.depth = 1
    config.data.update(tokens=str(directory), val_fraction=0.2)
    config.train.update(batch_size=16, steps=150)
    config.optimizer.update(warmup_steps=0, learning_rate=3e-3)
    config.ema.decay = 0.9
    return config


def _train(task, batches, state, steps):
    step = on_all_devices(task.train_step)
    for _ in range(steps):
        state, metrics = step(
            state, shard(next(batches), jax.local_device_count()), task.load_frozen()
        )
    return state, metrics


@pytest.fixture(scope="module")
def task(directory):
    return create_task(_config(directory))


@pytest.fixture(scope="module")
def trained(task):
    """The state after training, and what evaluation said before and after."""
    state = replicate(task.create_state(jax.random.key(0)))
    before = task.evaluate(state, {})
    state, _ = _train(task, task.open_batches(), state, 150)
    return state, before, task.evaluate(state, {})


def test_the_config_says_what_the_tokens_are(task):
    model = task.config.model
    assert (model.num_tokens, model.channels, model.num_classes) == (L, 5 + C, 2)
    assert task.config.label_names == CLASSES
    assert len(task.config.statistics.mean) == 5 + C
    assert task.config.statistics.mean[5] == pytest.approx(4, abs=0.1)


def test_crops_of_one_image_are_held_out_together(directory):
    batches = create_task(_config(directory)).open_batches()
    kept = batches._indices.ravel()
    assert len(kept) == 32
    assert set(kept // 2) == set(range(20)) - {4, 9, 14, 19}


@pytest.mark.slow
def test_the_held_out_loss_falls_most_where_the_class_is_known(trained):
    _, before, after = trained
    assert after["val_loss"] < 0.8 * before["val_loss"]
    assert after["val_loss"] < after["val_loss_no_class"] - 0.02


@pytest.mark.slow
def test_samples_are_of_the_class_that_is_asked_for(task, trained, directory):
    params = one_copy(trained[0].ema_params)
    sampler = Sampler("ode_heun", 12)
    sample = BatchSampler(task.model, params, task.transport, sampler, Guidance(1.5, 0.2, 1.0))
    labels = np.arange(16) % 2
    cond = np.random.default_rng(1).uniform(0.2, 0.8, (16, L, 5)).astype(np.float32)
    x, _ = sample(image_keys(0, np.arange(16)), labels, cond)
    tokens = task._normalisation.denormalise(x, cond)
    made = (tokens[..., 5:].mean(axis=(1, 2)) > 4).astype(int)
    assert (made == labels).mean() > 0.9


def test_a_resumed_run_is_the_same_to_the_bit(directory):
    def fresh():
        task = create_task(_config(directory))
        return task, task.open_batches(), replicate(task.create_state(jax.random.key(0)))

    task, batches, state = fresh()
    whole, _ = _train(task, batches, state, 4)
    task, batches, state = fresh()
    state, _ = _train(task, batches, state, 2)
    trees, place = jax.device_get(task.to_trees(state)), batches.get_state()
    task, batches, _ = fresh()
    batches.set_state(place)
    resumed, _ = _train(task, batches, replicate(task.from_trees(trees)), 2)
    jax.tree.map(np.testing.assert_array_equal, one_copy(resumed), one_copy(whole))


def test_a_preview_shows_held_out_examples_and_samples(task, trained):
    picture = task.preview(trained[0])
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert picture.std() > 1


def test_held_out_tokens_of_their_own_are_matched_by_class_name(directory, tmp_path):
    config = _config(directory)
    config.data.val_tokens = str(
        write_tokens(tmp_path / "val", 12, names=("high", "else"), passes=1)
    )
    task = create_task(config)
    assert set(task.held_out["label"]) == {1, -1}
    assert len(task.open_batches()._indices) == 40
    config.data.val_tokens = str(write_tokens(tmp_path / "other", 4, features=5))
    with pytest.raises(ValueError, match=r"has 4 tokens of 10 values an image, .* 4 of 8"):
        create_task(config)


def test_classes_without_an_example_are_recorded(directory, tmp_path):
    """And one that the run has learnt before stays known, whatever the data is now."""
    lacking = str(write_tokens(tmp_path / "lacking", names=("low", "high", "new"), passes=1))
    only_low = str(write_tokens(tmp_path / "low", names=("low", "high", "new"), shown=1, passes=1))
    config = _config(lacking)
    config.data.val_tokens = str(write_tokens(tmp_path / "val", 6, names=("low", "new"), passes=1))
    assert set(create_task(config).held_out["label"]) == {0, -1}
    assert config.untrained_labels == (2,)
    config.train.label_dropout = 0.0
    create_task(config)
    assert config.untrained_labels == (-1, 2)
    open_run(tmp_path / "run", config)
    run = RunDirectory(tmp_path / "run")
    (run.checkpoints / "1").mkdir(parents=True)
    write_config(run, config)
    config = _config(only_low)
    config.statistics = read_config(run).statistics
    create_task(config)
    assert config.untrained_labels == (1, 2)
    open_run(run.root, config)
    assert config.untrained_labels == (2,)


def test_mistakes_are_named(directory, tmp_path):
    config = _config(directory)
    config.model.channels = 21
    with pytest.raises(
        ValueError, match=r"config\.model\.channels is 21, but the tokens .* have 8"
    ):
        create_task(config)
    config = _config(directory)
    config.data.tokens = None
    with pytest.raises(ValueError, match=r"no tokens given: set --config\.data\.tokens"):
        create_task(config)


def test_other_statistics_are_another_run(directory, tmp_path):
    config = _config(directory)
    create_task(config)
    (tmp_path / "run").mkdir()
    write_config(open_run(tmp_path / "run", config), config)
    (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
    config.statistics.mean = (1.0, *config.statistics.mean[1:])
    with pytest.raises(CheckpointError, match=r"statistics\.mean was"):
        open_run(tmp_path / "run", config)


def test_an_image_or_its_mirror_image_is_drawn(tmp_path):
    """Of each image one of the two an epoch; what is held out is no mirror image."""
    tokens = write_tokens(tmp_path, mirrored=True)
    config = _config(tokens)
    config.data.mirror = "required"
    config.train.batch_size = 16  # an epoch: 20 images, 4 of them held out
    task = create_task(config)
    assert len(task.held_out["label"]) == 4
    initial = read_rows(open_tokens(tokens), range(40))["initial_geometry"][:, 0, 0].tolist()
    held_out = {initial.index(value) for value in task.held_out["initial_geometry"][:, 0, 0]}
    assert all(entry % 2 == 0 for entry in held_out)
    batches, seen = task.open_batches(), []
    for _ in range(6):
        batch = next(batches)
        drawn = [initial.index(value) for value in batch["initial_geometry"][:, 0, 0]]
        assert len({entry // 2 for entry in drawn}) == 16
        assert not {entry // 2 for entry in drawn} & {entry // 2 for entry in held_out}
        seen += drawn
    assert {entry % 2 for entry in seen} == {0, 1}
    config.data.mirror = "never"
    batches = create_task(config).open_batches()
    drawn = [initial.index(value) for value in next(batches)["initial_geometry"][:, 0, 0]]
    assert all(entry % 2 == 0 for entry in drawn)


def test_mirror_images_that_are_required_and_not_there(directory):
    config = _config(directory)
    config.data.mirror = "required"
    with pytest.raises(TokensError, match=r"has no mirror images, .*encode with --mirror"):
        create_task(config)
