"""``:published`` is everything that the published runs had (SPEC 6 to 8)."""

import pytest

from gpstoken_jax.configs import gpstoken_l256, gpstoken_m128, gpstoken_s64, sit_xl

TOKENIZERS = {"s64": (gpstoken_s64, 64, 16), "m128": (gpstoken_m128, 128, 16)}
TOKENIZERS["l256"] = (gpstoken_l256, 256, 32)


def flat(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_have_what_the_published_runs_had(name):
    module, num_tokens, channels = TOKENIZERS[name]
    config = dict(flat(module.get_config("published")))
    published = {
        "partition.num_tokens": num_tokens,
        "partition.weight": 2.5,
        "partition.min_size": 8,
        "model.image_size": 256,
        "model.render_size": 64,
        "model.feature_channels": channels,
        "model.support": 3.0,
        "model.dtype": "float32",
        "model.init": "published",
        "model.encoder.depth": 30,
        "model.encoder.width": 512,
        "model.encoder.num_heads": 8,
        "model.encoder.condition": "roi",
        "model.encoder.refine": True,
        "model.encoder.isotropic": False,
        "data.resize": "published",
        "data.crop": "center",
        "data.flip": True,
        "data.permute_colours": False,
        "loss.mse_weight": 1.0,
        "loss.lpips_weight": 1.0,
        "loss.lpips_images": 0,
        "loss.lpips_dropout": True,
        "loss.inception_weight": 1.0,
        "loss.inception_scaling": "release",
        "loss.convnext_weight": 0.0,
        "loss.vgg_weight": 0.0,
        "optimizer.learning_rate": 5e-5,
        "optimizer.b1": 0.5,
        "optimizer.b2": 0.9,
        "optimizer.decay": "constant",
        "optimizer.warmup_steps": 0,
        "optimizer.clip_norm": 0.0,
        "gan.weight": 0.3,
        "gan.start_step": 600_000,
        "gan.loss": "hinge",
        "gan.discriminator.norm": "batch",
        "gan.discriminator.channels": 64,
        "gan.discriminator.num_layers": 3,
        "gan.optimizer.learning_rate": 5e-5,
        "ema.decay": 0.9999,
        "ema.update_every": 10,
        "ema.update_after": 100,
        "ema.power": 2 / 3,
        "train.batch_size": 16,
        "train.steps": 1_000_000,
        "train.schedule": "alternate",
        "train.accumulate": 1,
        "eval.rounding": "truncate",
        "eval.high_resolution": "tiles" if name == "l256" else "merged",
    }
    assert {key: config[key] for key in published} == published


def test_sit_has_its_authors_recipe_and_the_published_statistics():
    config = dict(flat(sit_xl.get_config("published")))
    published = {
        "model.num_tokens": 128,
        "model.channels": 21,
        "model.num_classes": 1000,
        "model.width": 1152,
        "model.depth": 28,
        "model.num_heads": 16,
        "model.learn_sigma": True,
        "transport.path": "linear",
        "transport.prediction": "velocity",
        "optimizer.learning_rate": 1e-4,
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.999,
        "ema.decay": 0.9999,
        "ema.update_every": 1,
        "ema.power": 0,
        "train.batch_size": 256,
        "train.label_dropout": 0.1,
        "sample.steps": 250,
        "sample.guidance_scale": 1.5,
        "sample.guidance_interval": (0.2, 1.0),
        "sample.layouts": "in_turn",
        "data.mirror": "required",
    }
    assert {key: config[key] for key in published} == published
    assert len(config["statistics.mean"]) == len(config["statistics.std"]) == 21
    assert (config["statistics.mean"][9], config["statistics.std"][2]) == (-4.2579, 0.2533)


def test_nothing_else_changes_with_the_name():
    """Each difference is a row of docs/published.md."""
    ours, theirs = (dict(flat(gpstoken_m128.get_config(arg))) for arg in ("", "published"))
    assert {key for key in ours if ours[key] != theirs[key]} == {
        "model.init",
        "data.resize",
        "loss.lpips_dropout",
        "loss.inception_weight",
        "train.schedule",
        "eval.rounding",
    }
