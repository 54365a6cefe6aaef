"""The table of published tensors: both directions, and what it says about wrong ones."""

import json

import jax
import numpy as np
import pytest

from gpstoken_jax.configs import gpstoken_l256, gpstoken_m128, tiny
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.weights.tokenizer_table import (
    WeightsError,
    check_tensors,
    from_torch,
    to_torch,
    unused_specs,
    used_specs,
)


@pytest.fixture(scope="module")
def config():
    return tiny.get_config("smoke").model


@pytest.fixture(scope="module")
def tensors(config):
    specs = used_specs(config) | unused_specs(config)
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=spec.shape).astype(np.float32) for key, spec in specs.items()}


def test_both_directions_are_inverse(tensors, config):
    back = to_torch(from_torch(tensors, config), config)
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        expected = np.zeros_like(tensor) if "temb_proj" in key else tensor
        np.testing.assert_array_equal(back[key], expected, err_msg=key)


def test_every_parameter_is_filled(tensors, config):
    model = GPSToken(config)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    params = from_torch(tensors, config)
    assert jax.tree.structure(params) == jax.tree.structure(shapes)
    jax.tree.map(lambda p, s: np.testing.assert_equal(p.shape, s.shape), params, shapes)


@pytest.mark.parametrize(("config", "name"), [(gpstoken_m128, "M128"), (gpstoken_l256, "L256")])
def test_specs_are_the_published_shapes(config, name, golden_dir):
    published = json.loads((golden_dir / "parameter_shapes.json").read_text())[name]
    config = config.get_config().model
    specs = used_specs(config) | unused_specs(config)
    assert {key: list(spec.shape) for key, spec in specs.items()} == published


def test_unused_tensors_may_be_absent(tensors, config):
    without = {key: tensor for key, tensor in tensors.items() if "temb_proj" not in key}
    ours, theirs = from_torch(without, config), from_torch(tensors, config)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_every_fault_is_named_at_once(tensors, config):
    wrong = dict(tensors)
    del wrong["to_gps.0.bias"], wrong["attnblocks.1.ln2.weight"]
    wrong["decoder.conv_in.weight"] = wrong["decoder.conv_in.weight"].transpose(2, 3, 1, 0)
    wrong["decoder.conv_out.bias"] = wrong["decoder.conv_out.bias"].astype(np.float16)
    wrong["preprocess_img.1.temb_proj.bias"] = np.zeros(3, np.float32)
    wrong["decoder.up.9.conv.weight"] = np.zeros(1, np.float32)
    with pytest.raises(WeightsError) as raised:
        from_torch(wrong, config)
    message = str(raised.value)
    assert "2 missing: " in message
    assert "to_gps.0.bias" in message and "attnblocks.1.ln2.weight" in message
    assert "1 extra: decoder.up.9.conv.weight" in message
    assert "decoder.conv_in.weight is 3 x 3 x 16 x 16, not 16 x 16 x 3 x 3" in message
    assert "preprocess_img.1.temb_proj.bias is 3, not 8" in message
    assert "1 of a wrong dtype: decoder.conv_out.bias is float16, not float32" in message


def test_another_config_is_found_out(tensors, config):
    other = config.copy_and_resolve_references()
    other.encoder.depth, other.feature_channels = 3, 32
    with pytest.raises(
        WeightsError, match=r"14 missing(.|\n)*to_gps.1.weight is 16 x 32, not 32 x 32"
    ):
        check_tensors(tensors, other)
