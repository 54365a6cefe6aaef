"""Tables of published tensors in both directions, and configs told by shapes."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from gpstoken_jax import Tokenizer
from gpstoken_jax.configs import (
    gpstoken_l256,
    gpstoken_m128,
    gpstoken_s64,
    layout_tree,
    sit_s,
    sit_tiny,
    sit_xl,
    tiny,
)
from gpstoken_jax.generation import sit
from gpstoken_jax.model.gpstoken import GPSToken, init_params
from gpstoken_jax.weights.errors import WeightsError
from gpstoken_jax.weights.published import infer_config, published_table, tokenizer_table


@pytest.fixture(scope="module")
def table():
    return tokenizer_table(tiny.get_config("smoke").model)


@pytest.fixture(scope="module")
def tensors(table):
    rng = np.random.default_rng(0)
    shapes = table.used | table.unused
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def _sit_config(module):
    config = module.get_config()
    config.model.update(num_tokens=16, channels=21, num_classes=10)
    return config


def test_both_directions_are_inverse(tensors, table):
    back = table.to_torch(table.from_torch(tensors))
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        expected = np.zeros_like(tensor) if "temb_proj" in key else tensor
        np.testing.assert_array_equal(back[key], expected, err_msg=key)


@pytest.mark.parametrize(
    "config",
    [tiny.get_config("smoke"), tiny.get_config(), gpstoken_m128.get_config("published")],
    ids=["smoke", "tiny", "M128"],
)
def test_the_table_has_every_parameter_of_the_tokenizer(config):
    model = GPSToken(config.model)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    assert published_table(config).shapes == shapes


ABLATIONS = ({"condition": "none"}, {"condition": "image"}, {"refine": False}, {"isotropic": True})
ABLATIONS += ({"condition": "none", "refine": False},)


@pytest.mark.parametrize("changes", ABLATIONS, ids=str)
def test_ablations_are_written_and_read(changes, tmp_path):
    """A part that a model is without is in no table, and its files need none of it."""
    config = tiny.get_config("smoke")
    config.model.encoder.update(changes)
    model = GPSToken(config.model)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    assert published_table(config).shapes == shapes
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    Tokenizer(model, params, config).save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.config.model.encoder.to_dict() == config.model.encoder.to_dict()
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


@pytest.mark.parametrize("module", [sit_tiny, sit_s, sit_xl])
@pytest.mark.parametrize("cond_channels", [0, 5])
def test_the_table_has_every_parameter_of_the_generator(module, cond_channels):
    config = _sit_config(module)
    config.model.cond_channels = cond_channels
    model = sit.create_sit(config.model)
    shapes = jax.eval_shape(lambda key: sit.init_params(model, key), jax.random.key(0))
    assert published_table(config).shapes == shapes


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("M128", gpstoken_m128.get_config("published")),
        ("L256", gpstoken_l256.get_config("published")),
        ("SiT-XL", sit_xl.get_config("published")),
    ],
)
def test_published_shapes_and_the_config_that_they_tell(name, config, golden_dir):
    published = json.loads((golden_dir / "parameter_shapes.json").read_text())[name]
    published = {key: tuple(shape) for key, shape in published.items()}
    table = published_table(config)
    assert table.used | table.unused == published
    assert infer_config(published).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", ["GPSToken-S64/x.pth", "hub/gpstoken_s64.safetensors"])
def test_a_name_tells_s64_from_m128(name):
    config = gpstoken_s64.get_config("published")
    assert infer_config(published_table(config).used, name).to_dict() == config.to_dict()
    assert infer_config(published_table(config).used, "s64/runs/a/b").partition.num_tokens == 128


WIDTHS = {
    "stem of 48": {"encoder.channels": 48},
    "width 96, depth 3": {"encoder.width": 96, "encoder.depth": 3, "encoder.mlp_ratio": 2},
    "roi of 5": {"encoder.roi_size": 5, "encoder.stem_blocks": 3},
    "four levels": {"decoder.multipliers": (1, 2, 2, 4), "decoder.channels": 64, "render_size": 32},
    "one level": {"decoder.multipliers": (1,), "render_size": 256, "decoder.blocks_per_level": 1},
    "7 features": {"feature_channels": 7},
}


@pytest.mark.parametrize("changes", WIDTHS.values(), ids=WIDTHS)
def test_any_widths_are_told_by_shapes(changes):
    config = gpstoken_m128.get_config("published")
    config.model.update_from_flattened_dict(changes)
    config.model.encoder.norm_groups = np.gcd(config.model.encoder.channels, 32).item()
    assert infer_config(published_table(config).used).model.to_dict() == config.model.to_dict()


@pytest.mark.parametrize(
    "changes", [{}, {"learn_sigma": False}, {"cond_channels": 0}, {"depth": 5, "width": 768}]
)
def test_sizes_of_the_generator_are_told_by_shapes(changes):
    config = _sit_config(sit_s)
    config.model.update(changes)
    config.model.num_heads = config.model.width // 64
    inferred = infer_config(published_table(config).used)
    assert inferred.model.to_dict() == config.model.to_dict()
    assert len(inferred.statistics.mean) == 21  # of the published tokens


def test_shapes_of_something_else():
    for shapes in ({}, {"to_gps.1.weight": (16, 512)}, {"x_embedder.proj.weight": (0, 0)}):
        with pytest.raises(WeightsError, match="of no published network"):
            infer_config(shapes)
    with pytest.raises(WeightsError, match="task='layout"):
        published_table(layout_tree.get_config())


def test_unused_and_unknown_tensors_change_nothing(tensors, table):
    without = {key: tensor for key, tensor in tensors.items() if "temb_proj" not in key}
    more = tensors | {"decoder.up.9.conv.weight": np.zeros(1), "loss.logvar": np.zeros(())}
    ours = table.from_torch(without)
    for others in (tensors, more):
        jax.tree.map(np.testing.assert_array_equal, ours, table.from_torch(others))
    left = table.check(more)
    assert left["decoder.up.9.conv.weight"] == left["loss.logvar"] == "not a part of this network"
    assert len(left) == 4 and "temb_proj" in list(left)[-1]


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_any_float_type_becomes_float32(tensors, table, dtype):
    stored = {key: tensor.astype(dtype) for key, tensor in tensors.items()}
    params = table.from_torch(stored)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    expected = table.from_torch({key: t.astype(np.float32) for key, t in stored.items()})
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_every_fault_is_named_at_once_in_one_line(tensors, table):
    wrong = dict(tensors)
    del wrong["to_gps.0.bias"], wrong["attnblocks.1.ln2.weight"]
    wrong["decoder.conv_in.weight"] = wrong["decoder.conv_in.weight"].transpose(2, 3, 1, 0)
    wrong["decoder.conv_out.bias"] = wrong["decoder.conv_out.bias"].astype(np.int8)
    wrong["preprocess_img.1.temb_proj.bias"] = np.zeros(3, np.float32)
    with pytest.raises(WeightsError) as raised:
        table.from_torch(wrong)
    message = str(raised.value)
    assert "\n" not in message
    assert "2 missing (" in message
    assert "to_gps.0.bias" in message and "attnblocks.1.ln2.weight" in message
    assert "decoder.conv_in.weight is 3 x 3 x 16 x 16, not 16 x 16 x 3 x 3" in message
    assert "preprocess_img.1.temb_proj.bias is 3, not 8" in message
    assert (
        "1 of another type (decoder.conv_out.bias is int8, not a float of 16, 32 or 64 bits)"
        in message
    )
