"""Initial weights of every published parameter, by its distribution."""

import json
import re

import jax
import numpy as np
import pytest

from gpstoken_jax.configs import gpstoken_l256, gpstoken_s64, sit_xl
from gpstoken_jax.generation import sit
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.weights.published import sit_table, tokenizer_table

UNUSED = "temb_proj"  # in every published file, and nowhere in a network


def drawn(create, config, table):
    params = jax.jit(lambda key: create(config.model, key))(jax.random.key(0))
    return table(config.model).to_torch(jax.tree.map(np.asarray, params))


def assert_uniform(name, values, limit):
    size, largest = values.size, np.abs(values).max()
    assert largest <= limit * (1 + 1e-6), name
    if size > 1:
        assert largest > limit * (1 - 20 / size), name
        # Five and a half standard errors: of 700 parameters none is so far off by chance.
        assert abs(values.mean()) < 5.5 * limit / np.sqrt(3 * size), name
        variance = 3 * values.var() / limit**2
        assert abs(variance - 1) < 5.5 * np.sqrt(0.8 / size) + 2 / size, name


def assert_normal(name, values, std):
    assert abs(values.mean()) < 5.5 * std / np.sqrt(values.size), name
    assert abs(values.var() / std**2 - 1) < 5.5 * np.sqrt(2 / values.size), name
    assert np.abs(values).max() > 2 * std, name


def xavier(shape):
    return np.sqrt(6 / (shape[0] + np.prod(shape[1:])))


def assert_as_pytorch(name, values, shapes):
    """PyTorch's default of the layer that a key of the tokenizer's is of."""
    if re.search(r"(norm\d?|ln\d|norm_out)\.(weight|bias)$", name):
        assert (values == (1 if name.endswith("weight") else 0)).all(), name
    elif re.search(r"to_gps\.0|in_proj_bias|out_proj\.bias", name):
        assert (values == 0).all(), name
    elif name == "gps_embed.weight":
        assert_normal(name, values, 1.0)
    elif name.endswith("in_proj_weight"):
        assert_uniform(name, values, xavier(values.shape))
    else:
        weight = shapes[re.sub("bias$", "weight", name)]
        assert_uniform(name, values, np.prod(weight[1:]) ** -0.5)


def assert_as_sit(name, values):
    """The release's own start of a SiT."""
    if name == "pos_embed":
        assert 0 < np.abs(values).max() <= 1
    elif re.match(r"(t_embedder.*|y_embedder.*)weight$", name):
        assert_normal(name, values, 0.02)
    elif "adaLN" in name or name.startswith("final_layer") or name.endswith("bias"):
        assert (values == 0).all(), name
    else:
        assert_uniform(name, values, xavier(values.shape))


def assert_no_two_alike(tensors):
    random = [value.tobytes() for value in tensors.values() if np.ptp(value) > 0]
    assert len(set(random)) == len(random)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "depth"), [("M128", gpstoken_s64, 30), ("L256", gpstoken_l256, 2)]
)
def test_every_parameter_of_a_tokenizer_starts_as_in_pytorch(golden_dir, name, config, depth):
    """S64 and M128 have the same parameters; L256's blocks are those of M128."""
    shapes = json.loads((golden_dir / "parameter_shapes.json").read_text())[name]
    config = config.get_config("published")
    shapes = {
        key: shape
        for key, shape in shapes.items()
        if not key.startswith("attnblocks.") or int(key.split(".")[1]) < depth
    }
    config.model.encoder.depth = depth
    config.model.image_size, config.model.render_size = 16, 4  # no parameter depends on these
    tensors = drawn(lambda model, key: init_params(GPSToken(model), key), config, tokenizer_table)
    assert tensors.keys() == shapes.keys()
    for key, value in tensors.items():
        assert value.shape == tuple(shapes[key]), key
        if UNUSED not in key:
            assert_as_pytorch(key, value, shapes)
    assert_no_two_alike(tensors)


def test_every_parameter_of_a_sit_starts_as_published(golden_dir):
    """At full width, with two of the 28 blocks, which all start alike."""
    shapes = json.loads((golden_dir / "parameter_shapes.json").read_text())["SiT-XL"]
    config = sit_xl.get_config("published")
    config.model.depth = 2
    tensors = drawn(
        lambda model, key: sit.init_params(sit.create_sit(model), key), config, sit_table
    )
    assert {re.sub(r"blocks\.\d+", "blocks.1", key) for key in shapes} == {
        re.sub(r"blocks\.\d+", "blocks.1", key) for key in tensors
    }
    for key, value in tensors.items():
        assert value.shape == tuple(shapes[key]), key
        assert_as_sit(key, value)
    assert_no_two_alike(tensors)


def test_flax_is_the_default_and_another_name_is_refused():
    def create(config):
        return jax.jit(lambda key: init_params(GPSToken(config), key))(jax.random.key(0))

    config = gpstoken_s64.get_config("smoke").model
    with_default = create(config)
    del config.init  # as in runs from before the field
    jax.tree.map(np.testing.assert_array_equal, with_default, create(config))
    assert not with_default["params"]["decoder"]["conv_in"]["bias"].any()
    config.init = "torch"
    with pytest.raises(ValueError, match=r"model\.init must be"):
        create(config)
