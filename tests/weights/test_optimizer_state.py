"""Moments of Adam in published training checkpoints, and training that goes on with them."""

import json

import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from gpstoken_jax.configs import common, tiny
from gpstoken_jax.runtime.checkpoint import load_trees
from gpstoken_jax.training.conversion import import_weights
from gpstoken_jax.training.optimizer import create_optimizer, learning_rate, with_moments
from gpstoken_jax.weights.discriminator import discriminator_tables
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.files import read_torch_file
from gpstoken_jax.weights.optimizer_state import published_order, read_moments
from gpstoken_jax.weights.published import tokenizer_table
from tests.weights.torch_writer import save_torch


@pytest.mark.parametrize("name", ["M128", "L256"])
def test_the_order_is_that_of_the_release(name, golden_dir):
    keys = list(json.loads((golden_dir / "parameter_shapes.json").read_text())[name])
    assert published_order(sorted(keys)) == keys


def test_the_next_update_is_that_of_pytorch(golden_dir):
    """A PatchGAN of one channel: three updates by PyTorch, the fourth by both."""
    sizes, section = common.get_config().gan.discriminator, common.get_config().gan.optimizer
    sizes.channels, section.learning_rate = 1, 1e-2
    table, _ = discriminator_tables(sizes)
    moments = read_moments(golden_dir / "torch_files" / "adam_state.bin", table)
    assert moments.count == 3
    step = read_torch_file(golden_dir / "torch_files" / "adam_step.pth")
    params, gradients = (table.from_torch(step[name]) for name in ("before", "gradients"))
    optimizer = create_optimizer(section, learning_rate(section, 10))
    state = with_moments(optimizer.init(params), *moments[1:])
    updates, after = optimizer.update(gradients, state, params)
    expected = table.from_torch(step["after"])
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-7),
        optax.apply_updates(params, updates),
        expected,
    )
    assert [int(leaf) for leaf in jax.tree.leaves(after) if leaf.ndim == 0] == [4, 1]


def _state(table, seed=0, without=(), count=7):
    """The state that Adam keeps of a network, by number; two parameters in a group of their own."""
    rng, shapes = np.random.default_rng(seed), table.used | table.unused
    keys = published_order(shapes)
    state = {
        number: {
            "step": np.float32(count),
            "exp_avg": rng.normal(size=shapes[key]).astype(np.float32),
            "exp_avg_sq": rng.random(shapes[key], np.float32),
        }
        for number, key in enumerate(keys)
        if key not in table.unused and key not in without
    }
    numbers = list(range(len(keys)))
    groups = [{"lr": 5e-5, "betas": [0.5, 0.9], "fused": None, "params": numbers[:-2]}]
    return {"state": state, "param_groups": [*groups, {"lr": 5e-5, "params": numbers[-2:]}]}


def _entry(table, state, name, key):
    return state["state"][published_order(table.used | table.unused).index(key)][name]


@pytest.fixture(scope="module")
def config():
    config = tiny.get_config("smoke")
    config.gan.weight, config.gan.discriminator.norm = 0.3, "batch"
    config.gan.discriminator.channels = 2
    return config


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    """Network, discriminator and both optimizers as Accelerate leaves them."""
    folder = tmp_path_factory.mktemp("runs") / "checkpionts.00000100"
    folder.mkdir()
    rng, table = np.random.default_rng(0), tokenizer_table(config.model)
    params, stats = discriminator_tables(config.gan.discriminator)
    for name, shapes in (("model", table.used), ("model_2", params.used | stats.used)):
        tensors = {key: rng.normal(0, 0.2, shape).astype("f4") for key, shape in shapes.items()}
        save_file(tensors, folder / f"{name}.safetensors")
    save_torch(_state(table), folder / "optimizer.bin")
    save_torch(_state(params, 1, count=3), folder / "optimizer_1.bin")
    return folder


def _adam(tree):
    """The state of Adam, however deep in that of the optimizer."""
    if isinstance(tree, dict) and "mu" in tree:
        return tree
    inside = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return next((found for item in inside if (found := _adam(item))), None)


def test_training_goes_on_with_them(checkpoint, config, tmp_path):
    done = import_weights(checkpoint, config, tmp_path / "run")
    assert f"{checkpoint / 'optimizer.bin'} (Adam's moments of the network, 7 updates)" in done.read
    assert not done.other_files
    trees = load_trees(tmp_path / "run" / "checkpoints", 0)
    table, (params, _) = (
        tokenizer_table(config.model),
        discriminator_tables(config.gan.discriminator),
    )
    kept = _adam(trees["optimizer"]["opt_state"])
    assert kept["count"] == 7
    for name, ours in (("exp_avg", "mu"), ("exp_avg_sq", "nu")):
        theirs = _entry(table, _state(table), name, "decoder.conv_out.weight")
        np.testing.assert_array_equal(
            kept[ours]["params"]["decoder"]["conv_out"]["kernel"], theirs.transpose(2, 3, 1, 0)
        )
    kept = _adam(trees["discriminator"]["opt_state"])
    assert kept["count"] == 3
    theirs = _entry(params, _state(params, 1), "exp_avg_sq", "main.3.weight")
    np.testing.assert_array_equal(kept["nu"]["norm_1"]["scale"], theirs)


def test_a_network_that_begins_anew_is_without(checkpoint, config, tmp_path):
    """Files that other optimizers or averaged weights have no use for are left out, and named."""
    other = config.copy_and_resolve_references()
    other.optimizer.name = "muon"
    done = import_weights(checkpoint, other, tmp_path / "run")
    reason = done.other_files[checkpoint / "optimizer.bin"]
    assert "no state for the discriminator: it is of " in reason
    assert any("moments of the discriminator, 3 updates" in read for read in done.read)


def test_what_does_not_fit_is_told(config, tmp_path):
    table = tokenizer_table(config.model)
    narrow = config.model.copy_and_resolve_references()
    narrow.feature_channels = 8
    deep = config.model.copy_and_resolve_references()
    deep.encoder.depth += 1
    cut = _state(table)
    del cut["state"][3]["exp_avg"]
    path = tmp_path / "optimizer.bin"
    for value, match in (
        (_state(tokenizer_table(narrow)), r"to_gps\.1\.weight is 8 x 32, not 16 x 32"),
        (_state(tokenizer_table(deep)), r"it is of \d+ parameters, and the network has \d+"),
        (_state(table, without={"gps_embed.weight"}), r"1 missing \(gps_embed\.weight\)"),
        (_state(table) | {"state": {}}, "it has made no update"),
        (cut, "damaged or not the state of Adam.*exp_avg"),
        ([1, 2], "not the state of Adam"),
        ({"state": 3}, "not the state of Adam"),
    ):
        save_torch(value, path)
        with pytest.raises(WeightsError, match=match) as raised:
            read_moments(path, table)
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)
