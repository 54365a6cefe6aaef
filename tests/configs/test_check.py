"""The check of a whole config: every shipped one passes, every kind of mistake is named."""

import importlib
import math

import pytest

from gpstoken_jax.configs.check import ConfigError, check_config, find_mistakes

SHIPPED = [
    (name, argument)
    for name, arguments in {
        "gpstoken_s64": ("", "published", "smoke"), "gpstoken_m128": ("", "published", "smoke"),
        "gpstoken_l256": ("", "published", "smoke"),
        "tiny": ("", "smoke"), "tiny_gan": ("", "smoke"),
        "photos_small": ("", "smoke"), "sit_s": ("", "smoke"),
        "sit_tiny": ("", "smoke"), "sit_xl": ("", "published", "smoke"),
        "layout_sit": ("", "tiny", "smoke"),
        "layout_tree": ("", "tiny", "smoke"),
    }.items()
    for argument in arguments
]  # fmt: skip


def _config(name="tiny", argument="smoke"):
    return importlib.import_module(f"gpstoken_jax.configs.{name}").get_config(argument)


def _mistakes(field, value, name="tiny", argument="smoke", devices=1):
    config = _config(name, argument)
    *sections, last = field.split(".")
    section = config
    for part in sections:
        section = section[part]
    with section.unlocked(), section.ignore_type():
        section[last] = value
    return list(find_mistakes(config, devices=devices))


@pytest.mark.parametrize("name, argument", SHIPPED)
def test_the_shipped_configs_have_no_mistakes(name, argument):
    assert list(find_mistakes(_config(name, argument), devices=1)) == []


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("train.batch_size", 0, "must be 1 or more"),
        ("train.batch_size", -3, "must be 1 or more"),
        ("train.batch_size", 3, "a multiple of the 2 devices"),
        ("train.batch_size", "many", "must be int"),
        ("train.batch_size", 2.5, "must be int"),
        ("train.batch_size", True, "must be int"),
        ("train.accumulate", 3, "must divide the 2 images of a device"),
        ("train.schedule", "alternating", "did you mean 'alternate'?"),
        ("train.steps", 0, "must be 1 or more"),
        ("log.every_steps", -1, "must be 0 or more"),
        ("checkpoint.keep", -1, "must be 0 or more"),
        ("optimizer.learning_rate", 0.0, "must be above 0"),
        ("optimizer.learning_rate", math.nan, "a finite number"),
        ("optimizer.learning_rate", math.inf, "a finite number"),
        ("optimizer.b1", 1.0, "not including, 1"),
        ("gan.optimizer.decay", "linear", "one of constant, cosine"),
        ("optimizer.warmup_steps", -5, "must be 0 or more"),
        ("ema.decay", 1.5, "from 0 to 1"),
        ("data.val_fraction", 1.0, "not including, 1"),
        ("data.crop", "centre", "did you mean 'center'?"),
        ("data.crop_scale", (0.5, 0.1), "0 < smallest <= largest <= 1"),
        ("data.crop_scale", (0.0, 1.0), "0 < smallest <= largest <= 1"),
        ("data.crop_scale", (0.1,), "0 < smallest <= largest <= 1"),
        ("data.crop_scale", ("a", 1.0), "0 < smallest <= largest <= 1"),
        ("data.crop_scale", 0.5, "must be tuple"),
        ("data.folder", 7, "must be text"),
        ("data.flip", "no", "must be bool"),
        ("model.dtype", "bf16", "did you mean 'bfloat16'?"),
        ("model.dtype", "float64", "one of float32"),
        ("model.decoder.channels", 42, "must be multiples of config.model.decoder.norm_groups=4"),
        ("model.decoder.multipliers", (1, 2), "makes images of 16"),
        ("model.decoder.multipliers", (), "whole numbers from 1 up"),
        ("model.decoder.multipliers", (1, 2, 0), "whole numbers from 1 up"),
        ("model.encoder.num_heads", 5, "must be a multiple of config.model.encoder.num_heads=5"),
        ("model.encoder.norm_groups", 3, "must be a multiple of config.model.encoder.norm_groups"),
        ("model.image_size", 33, "makes images of 32"),
        ("partition.num_tokens", 1000, "has at most"),
        ("train.num_tokens", (32, 100_000), "train.num_tokens has 100000: an image of"),
        ("train.num_tokens", (32, 0), "whole numbers from 1 up"),
        ("train.num_tokens", ("a",), "whole numbers from 1 up"),
        ("train.num_tokens", 32, "must be tuple"),
        ("freeze", "enc(", "is no regular expression: missing )"),
        ("init.exclude", "*", "is no regular expression: nothing to repeat"),
        ("init.include", "^decoder", "give --init_from=SOURCE"),
        ("model.encoder.hight", 3, "is no field"),
        ("train.batchsize", 3, "did you mean config.train.batch_size?"),
        ("extra", 3, "is no field"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_field(field, value, said):
    lines = _mistakes(field, value, devices=2)
    assert len(lines) >= 1 and all("\n" not in line for line in lines)
    assert any(said in line and line.startswith("config.") for line in lines), lines
    assert any(field in line for line in lines), lines


@pytest.mark.parametrize(
    "name, field, value, said",
    [
        ("sit_tiny", "transport.path", "vp", "goes without path=vp"),
        ("sit_tiny", "transport.loss_weight", "velocity", "without loss_weight"),
        ("sit_tiny", "model.num_heads", 5, "multiple of config.model.num_heads=5"),
        ("sit_tiny", "sample.guidance_interval", (1.0, 0.0), "first <= last"),
        ("sit_tiny", "train.label_dropout", 2.0, "from 0 to 1"),
        ("layout_tree", "model.dropout", 1.0, "not including, 1"),
        ("layout_sit", "sample.method", "euler", "did you mean 'sde_euler'?"),
        ("gpstoken_m128", "model.decoder.channels", 44, "44, 88, 176"),
        ("tiny_gan", "gan.discriminator.norm_groups", 5, "multiple of config.gan.discriminator"),
    ],
)
def test_mistakes_of_the_other_tasks(name, field, value, said):
    lines = _mistakes(field, value, name, "" if name == "gpstoken_m128" else "smoke")
    assert len(lines) == 1 and said in lines[0]


def test_all_mistakes_come_at_once():
    config = _config()
    config.train.batch_size, config.ema.decay, config.data.crop = 0, 2.0, "none"
    with pytest.raises(ConfigError) as raised:
        check_config(config)
    lines = str(raised.value).split("\nerror: ")
    assert [line.split()[0] for line in lines] == [
        "config.data.crop", "config.ema.decay", "config.train.batch_size",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["tiny", "sit_tiny", "layout_sit", "layout_tree"])
def test_no_field_takes_a_value_of_another_type(name):
    """Every field of every task, not only those that someone thought of."""
    from gpstoken_jax.configs.check import _flatten

    for field, default in _flatten(_config(name).to_dict()).items():
        if field == "task":
            continue
        lines = _mistakes(field, object(), name)
        assert any(line.startswith(f"config.{field} ") for line in lines), (field, default, lines)
