"""Defaults of the networks of stage 1, which draw layouts (docs/layouts.md).

Sections: model (the network), data (files of gpstoken prepare_layouts), optimizer, ema, train,
checkpoint, log; what is 0 or empty in ``model``, ``label_names`` and ``untrained_labels`` is filled in from
the layouts.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from gpstoken_jax.configs import common


def get_config() -> ConfigDict:
    """Fields that both networks share."""
    return ConfigDict(
        {
            "seed": 0,
            **common.start(),
            "model": {"image_size": 0, "min_size": 0, "num_tokens": 0, "num_classes": 0},
            "label_names": (),
            "untrained_labels": (),  # without a layout; -1: no class was never shown
            "data": {
                "layouts": placeholder(str),  # to learn from
                "val_layouts": placeholder(str),  # held out, if there are any
                "flip": True,  # mirror a random half left to right
            },
            "optimizer": {
                "learning_rate": 1e-3,
                "b1": 0.9,
                "b2": 0.99,
                "warmup_steps": 100,
                "decay": "cosine",  # to zero at train.steps; or "constant"
                "clip_norm": 1.0,  # global gradient norm; 0 is no clipping
            },
            "ema": {"decay": 0.995, "update_every": 1, "update_after": 0, "power": 2 / 3},
            "train": {
                "batch_size": 64,  # over all devices of all hosts
                "steps": 2000,
                "label_dropout": 0.1,  # share of examples that become of no class
            },
            "checkpoint": {
                "every_steps": 500,
                "keep": 3,
                "best_metric": "val_loss",  # kept in best/; empty keeps none
                "best_is_lowest": True,
            },
            "log": common.log(images_every_steps=500),
        }
    )


def smoke(config: ConfigDict) -> ConfigDict:
    """Shrinks every dimension, for a run of seconds that takes the same path through the code."""
    config.model.update(width=16, depth=1, num_heads=2)
    config.train.update(batch_size=4, steps=12)
    config.checkpoint.every_steps = 4
    config.log.update(every_steps=1, images_every_steps=6, images=2)
    return config
