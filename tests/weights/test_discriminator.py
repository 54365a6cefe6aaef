"""The discriminator of a published training checkpoint, and a run that goes on with it."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from gpstoken_jax.configs import common, tiny
from gpstoken_jax.losses.adversarial import PatchDiscriminator, init_discriminator
from gpstoken_jax.runtime.checkpoint import load_trees
from gpstoken_jax.training.conversion import import_weights
from gpstoken_jax.weights.discriminator import discriminator_tables, find_discriminator
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.published import tokenizer_table


def _tensors(config, prefix="discriminator."):
    rng = np.random.default_rng(0)
    shapes = {k: shape for table in discriminator_tables(config) for k, shape in table.used.items()}
    counters = {k: () for k in shapes if k.endswith("running_mean")}
    tensors = {prefix + k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    return tensors | {
        prefix + k.replace("running_mean", "num_batches_tracked"): np.zeros(s, np.int64)
        for k, s in counters.items()
    }


def test_the_published_names_and_every_parameter():
    """Layers 0, 2, 5, 8, 11 convolve, 3, 6, 9 normalise (golden values: test_adversarial.py)."""
    config = common.get_config().gan.discriminator
    params, stats = discriminator_tables(config)
    assert params.used["main.11.weight"] == (1, 512, 4, 4)
    assert params.used["main.2.weight"] == (128, 64, 4, 4) and "main.2.bias" not in params.used
    assert set(stats.used) == {f"main.{i}.running_{k}" for i in (3, 6, 9) for k in ("mean", "var")}
    shapes = jax.eval_shape(
        lambda k: init_discriminator(PatchDiscriminator(), k), jax.random.key(0)
    )
    for table, name in ((params, "params"), (stats, "batch_stats")):
        ours = jax.tree.map(lambda leaf: leaf.shape, table.shapes["params"])
        assert ours == jax.tree.map(lambda leaf: leaf.shape, dict(shapes)[name])


@pytest.fixture
def checkpoint(tmp_path):
    config, rng = tiny.get_config("smoke"), np.random.default_rng(1)
    config.gan.weight, config.gan.discriminator.norm = 0.3, "batch"
    folder = tmp_path / "checkpionts.00000100"
    folder.mkdir()
    shapes = tokenizer_table(config.model).used
    model = {key: rng.normal(0, 0.2, shape).astype(np.float32) for key, shape in shapes.items()}
    save_file(model, folder / "model.safetensors")
    save_file(_tensors(config.gan.discriminator), folder / "model_2.safetensors")
    save_file({"lin0.model.1.weight": np.zeros(3, "f4")}, folder / "model_3.safetensors")
    return config, folder


def test_a_run_goes_on_with_it(checkpoint, tmp_path):
    config, folder = checkpoint
    done = import_weights(folder, config, tmp_path / "run")
    assert f"{folder / 'model_2.safetensors'} (the discriminator)" in done.read
    assert done.other_files == {folder / "model_3.safetensors": "another network"}
    tensors = _tensors(config.gan.discriminator, "")
    expected = tensors["main.2.weight"].transpose(2, 3, 1, 0)
    kept = load_trees(tmp_path / "run" / "checkpoints", 0)["discriminator"]
    np.testing.assert_array_equal(kept["params"]["conv_1"]["kernel"], expected)
    np.testing.assert_array_equal(
        kept["batch_stats"]["norm_1"]["var"], tensors["main.3.running_var"]
    )


def test_one_of_another_size_is_named(checkpoint):
    config, folder = checkpoint
    config.gan.discriminator.channels = 16
    with pytest.raises(
        WeightsError, match=r"model_2\.safetensors does not fit .*main\.0\.weight is 8"
    ):
        find_discriminator([folder / "model_2.safetensors"], config)
    config.gan.weight = 0.0
    assert find_discriminator([folder / "model_2.safetensors"], config) is None
