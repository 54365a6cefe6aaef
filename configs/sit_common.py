"""Defaults of the generator's second stage: texture for the Gaussians of a layout (docs/generation.md).

Sections: model (the network), data (token shards of gpstoken encode), transport (what it learns),
optimizer, ema, train, checkpoint, log, eval, sample; ``statistics``, ``label_names`` and
``untrained_labels`` are filled in from the token shards.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from gpstoken_jax.configs import common


def get_config() -> ConfigDict:
    """The published network on any tokens; training as SiT's authors do it."""
    return ConfigDict(
        {
            "task": "sit",
            "seed": 0,
            **common.start(),
            "model": {
                "num_tokens": 0,  # 0: as many as the tokens have
                "channels": 0,  # 0: as many as the tokens have; 5 of the geometry's difference to the initial one, then features
                "cond_channels": 5,  # the initial geometry
                "num_classes": 0,  # 0: as many as the tokens have
                "width": 1152,
                "depth": 28,
                "num_heads": 16,
                "mlp_ratio": 4,
                "learn_sigma": True,  # twice the output, half of it dropped, as published
                "remat": False,
                "dtype": "float32",  # of the computation; parameters are always float32
            },
            "data": {
                "tokens": placeholder(str),  # a directory that gpstoken encode wrote
                "val_tokens": placeholder(str),  # held out; else a part of the first
                "val_fraction": 0.05,  # that part
                "mirror": "if_there",  # draw an image or its mirror image (encode --mirror)
                "cache_mb": 4096,  # tokens up to this size are kept in memory
            },
            "statistics": {"mean": (), "std": ()},  # by channel; empty: those of the tokens
            "label_names": (),
            "untrained_labels": (),  # without an example; -1: no class was never shown
            "transport": {
                "path": "linear",  # or "gvp", "vp"
                "prediction": "velocity",  # or "noise", "score"
                "loss_weight": "none",  # or "velocity", "likelihood"; not for velocity
            },
            "optimizer": {
                "learning_rate": 1e-4,
                "b1": 0.9,
                "b2": 0.999,
                "warmup_steps": 0,
                "decay": "constant",  # or "cosine", to zero at train.steps
                "clip_norm": 0.0,  # global gradient norm; 0 is no clipping
            },
            "ema": {"decay": 0.9999, "update_every": 1, "update_after": 0, "power": 2 / 3},
            "train": {
                "batch_size": 256,  # over all devices of all hosts
                "steps": 1_000_000,
                "label_dropout": 0.1,  # share of examples that become of no class
            },
            "checkpoint": {
                "every_steps": 5000,
                "keep": 3,
                "best_metric": "val_loss",  # kept in best/; empty keeps none
                "best_is_lowest": True,
            },
            "log": common.log(images_every_steps=5000),
            "eval": {
                "batch_size": 64,
                "max_examples": 512,  # of those held out
                "num_times": 8,  # times (and noises) at which each is tried
            },
            "sample": {  # defaults of gpstoken generate
                "method": "sde_euler",
                "steps": 250,
                "guidance_scale": 1.5,
                "guidance_interval": (0.2, 1.0),  # of the time
                "layouts": "random",  # those of a file; or "in_turn", none twice, as published
            },
            "tokenizer": placeholder(str),  # a tokenizer's run, to show samples as images
        }
    )


def smoke(config: ConfigDict) -> ConfigDict:
    """Shrinks every dimension, for a run of seconds that takes the same path through the code."""
    config.model.update(width=32, depth=2, num_heads=4)
    config.train.update(batch_size=4, steps=12)
    config.checkpoint.every_steps = 4
    config.log.update(every_steps=1, images_every_steps=6, images=2)
    config.eval.update(batch_size=4, num_times=2)
    config.sample.steps = 4
    return config
