"""The generator's network against the published implementation, and its weights both ways."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpstoken_jax.configs import sit_tiny, sit_xl
from gpstoken_jax.generation.sit import (
    create_sit,
    drop_labels,
    init_params,
    sincos_positions,
    time_frequencies,
)
from gpstoken_jax.training.conversion import export_weights, import_weights
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.published import sit_table


@pytest.fixture(scope="module")
def forward(sit, params, golden):
    """Output and intermediate values for the recorded input."""
    arguments = [golden[f"fwd/{name}"] for name in ("x", "t", "y", "cond")]
    return sit.apply(params, *arguments, capture_intermediates=True)


def test_the_output_is_the_published_one(forward, golden):
    np.testing.assert_allclose(forward[0], golden["fwd/out"], atol=2e-6)


def test_layers_give_the_published_values(forward, golden):
    layers = forward[1]["intermediates"]
    inside, blocks = layers["blocks"], golden["fwd/act/blocks.1"]
    published = {
        "x_embedder": layers["token_in"]["__call__"][0],
        "cond_embedder": layers["condition"]["__call__"][0],
        "t_embedder": layers["time"]["__call__"][0],
        "y_embedder": layers["label"]["__call__"][0],
        "blocks.0.attn": inside["attention_out"]["__call__"][0][0],
        "blocks.0.mlp": inside["mlp2"]["__call__"][0][0],
        "final_layer": layers["final"]["__call__"][0],
    }
    for name, value in published.items():
        np.testing.assert_allclose(value, golden[f"fwd/act/{name}"], atol=5e-6, err_msg=name)
    np.testing.assert_allclose(inside["__call__"][0][0][1], blocks, atol=5e-6)


def test_without_a_condition_positions_take_its_place(sit, params, golden):
    arguments = [golden[f"fwd/{name}"] for name in ("x", "t", "y")]
    out = sit.apply(params, *arguments)
    np.testing.assert_allclose(out, golden["fwd/out_nocond"], atol=2e-6)
    with pytest.raises(ValueError, match="there must be 16 tokens, not 12"):
        sit.apply(params, arguments[0][:, :12], *arguments[1:])


def test_time_frequencies(golden):
    frequencies = time_frequencies(golden["t_embed/t"])
    np.testing.assert_allclose(frequencies, golden["t_embed/freqs"], atol=3e-6)


def test_dropped_labels_are_the_null_class(params, golden):
    dropped = np.where(golden["label_drop/force_ids"] == 1, 10, golden["fwd/y"])
    table = np.asarray(params["params"]["label"]["embedding"])
    np.testing.assert_array_equal(table[dropped], golden["label_drop/embedding"])
    labels = jnp.arange(4000) % 10
    made = drop_labels(jax.random.key(0), labels, 10, 0.1)
    assert set(np.unique(made[made != labels])) == {10}
    assert 0.08 < (made == 10).mean() < 0.12
    assert (drop_labels(jax.random.key(0), labels - 10, 10, 0.0) == 10).all()


def test_a_fresh_network_predicts_zero_and_takes_any_number_of_tokens(sit):
    params = jax.jit(lambda key: init_params(sit, key))(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (1, 7, 21))
    out = sit.apply(params, x, jnp.ones(1), jnp.zeros(1, jnp.int32), x[..., :5])
    assert out.shape == x.shape and not out.any()


def test_bfloat16_computes_in_bfloat16_and_stays_close(config, params, golden):
    short = config.copy_and_resolve_references()
    short.dtype = "bfloat16"
    arguments = [golden[f"fwd/{name}"] for name in ("x", "t", "y", "cond")]
    out = create_sit(short).apply(params, *arguments)
    assert out.dtype == jnp.float32
    error = np.abs(out - golden["fwd/out"]).max()
    assert 1e-4 < error < 0.05


def test_positions_are_sines_and_cosines():
    positions = sincos_positions(jax.random.key(0), (5, 8))
    angle = 3 / 10000 ** (np.arange(4) / 4)
    np.testing.assert_allclose(positions[3], np.r_[np.sin(angle), np.cos(angle)], rtol=1e-5)


def test_parameters_are_the_published_ones(golden_dir):
    published = json.loads((golden_dir / "parameter_shapes.json").read_text())["SiT-XL"]
    table = sit_table(sit_xl.get_config("published").model)
    assert {key: list(shape) for key, shape in table.used.items()} == published
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(table.shapes)) == 676_334_634


def test_weights_there_and_back(tensors, config, tmp_path):
    """Through convert.py's functions: the averaged copy of a published file, and out again."""
    whole = sit_tiny.get_config()
    whole.model = config
    averaged = {f"ema_model.{key}": tensor for key, tensor in tensors.items()}
    save_file(averaged | {"initted": np.ones(1), "step": np.ones(1)}, tmp_path / "w.safetensors")
    done = import_weights(tmp_path / "w.safetensors", whole, tmp_path / "run")
    assert done.used == len(tensors)
    export_weights(tmp_path / "run", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(back[key], tensor, err_msg=key)


def test_wrong_weights_are_named(tensors, config):
    wrong = dict(tensors)
    del wrong["cond_embedder.0.bias"]
    wrong["blocks.2.attn.qkv.bias"] = np.zeros(3, np.float32)
    wrong["pos_embed"] = wrong["pos_embed"][:, :8]
    with pytest.raises(WeightsError) as raised:
        sit_table(config).from_torch(wrong)
    message = str(raised.value)
    assert "1 missing (cond_embedder.0.bias)" in message
    assert "pos_embed is 1 x 8 x 96, not 1 x 16 x 96" in message
    assert "blocks.2" not in message  # the published loader drops what the model does not have
