"""Defaults that every config starts from; a config file overrides what differs.

Sections: model (what the network is), partition (where tokens start), data, loss, optimizer, gan,
train, checkpoint, log, eval; ``task`` says what is trained. Every field can be set on the command
line, e.g. ``--config.train.batch_size=16``.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """The published training recipe, as far as it does not depend on the model's size."""
    return ConfigDict(
        {
            "task": "tokenizer",  # what is trained, see gpstoken_jax/training/task.py
            "seed": 0,
            **start(),
            "model": model(),
            "partition": {
                "num_tokens": 128,
                "weight": 2.5,  # exponent of the entropy; 0 is a uniform grid
                "min_size": 8,  # regions this small (in pixels a side) are not split
            },
            "data": data(),
            "loss": {
                "token_bits": 0,  # tokens in so many bits a value during training; 0 is floats
                "mse_weight": 1.0,
                "lpips_weight": 1.0,  # 0 does without the LPIPS weights
                "lpips_images": 0,  # LPIPS of this many images of a device's batch; 0 is all
                "lpips_dropout": False,  # the release's, a mistake; True only to reproduce it
                # Features of whole images; see docs/training.md for the files.
                "inception_weight": 0.0,  # 1.0 as published
                "inception_file": placeholder(str),
                "inception_scaling": "release",  # of colours; "correct" is what the FID has
                "convnext_weight": 0.0,  # the release's alternative to Inception
                "convnext_file": placeholder(str),
                "convnext_normalisation": "release",  # of colours; or "correct"
                "vgg_weight": 0.0,  # for those who have neither
            },
            "optimizer": optimizer(),
            "gan": {
                "weight": 0.3,  # times the adaptive weight; 0 is no GAN
                "start_step": 600_000,
                "loss": "hinge",  # or "vanilla"
                "discriminator": {
                    "channels": 64,
                    "num_layers": 3,
                    "norm": "batch",  # or "group"
                    "norm_groups": 32,
                },
                "optimizer": optimizer(),  # the discriminator's
            },
            "ema": {  # warm-up and cap as in the published runs
                "decay": 0.9999,
                "update_every": 10,
                "update_after": 100,
                "power": 2 / 3,
            },
            "train": {
                "batch_size": 16,  # over all devices of all hosts
                "steps": 1_000_000,
                "max_skipped": 10,  # steps in a row whose loss or gradient is not finite
                "schedule": "together",  # or "alternate", as published: see docs/training.md
                "accumulate": 1,  # parts of a device's batch, one after another
                "num_tokens": (),  # each step draws one of these; () is partition.num_tokens
            },
            "checkpoint": {
                "every_steps": 5000,
                "keep": 3,
                "best_metric": "val_psnr",  # kept in best/; empty keeps none
                "best_is_lowest": False,
            },
            "log": log(images_every_steps=5000),
            "eval": {
                "every_steps": 5000,  # in a training
                "max_images": 512,  # held out, looked at in a training; 0 is all
                "batch_size": 8,
                "rounding": "round",  # to 8 bits; "truncate" is what the release does
                "high_resolution": "merged",  # images of several tiles; or "aligned", "tiles", "blended"
            },
        }
    )


def log(images_every_steps: int) -> dict[str, Any]:
    """Destinations and intervals of the log, of every task."""
    return {
        "to": "tensorboard,jsonl",  # and "wandb", "mlflow"
        "checkpoint": False,  # give the last one to trackers
        "every_steps": 50,
        "images_every_steps": images_every_steps,
        "images": 4,
    }


def start() -> dict[str, Any]:
    """Other weights to start from, and what does not learn: patterns of parameters' names."""
    return {
        "init": {
            "source": placeholder(str),  # what from_pretrained takes; --init_from
            "include": "",  # only parameters with this pattern in their names
            "exclude": "",  # none with this one
        },
        "freeze": "",  # parameters that do not learn, e.g. "^encoder"
    }


def optimizer() -> ConfigDict:
    """Adam as published."""
    return ConfigDict(
        {
            "name": "adam",  # or "muon": orthogonal steps for matrices and convolutions
            "learning_rate": 5e-5,
            "b1": 0.5,
            "b2": 0.9,
            "warmup_steps": 0,
            "decay": "constant",  # or "cosine", to zero at the end of the run
            "clip_norm": 0.0,  # global gradient norm; 0 is no clipping
        }
    )


def model() -> ConfigDict:
    """The full-size model with C = 16 (S64 and M128)."""
    return ConfigDict(
        {
            "image_size": 256,
            "render_size": 64,
            "feature_channels": 16,
            "support": 3.0,  # Gaussians end at this many sigmas
            "dtype": "float32",  # of the computation; parameters are always float32
            "init": "flax",  # of the weights; or "published": PyTorch's
            "encoder": {
                "channels": 128,
                "stem_blocks": 2,
                "norm_groups": 32,
                "roi_size": 8,
                "width": 512,
                "depth": 30,
                "num_heads": 8,
                "mlp_ratio": 4,
                # Ablations, see docs/published.md
                "condition": "roi",  # or "image", all of it for every token; or "none"
                "refine": True,  # move the initial Gaussians
                "isotropic": False,  # circles
                "remat": False,  # less memory, more time: keep no activations of blocks
            },
            "decoder": {
                "channels": 128,
                "multipliers": (1, 2, 4),
                "blocks_per_level": 3,
                "norm_groups": 32,
                "remat": False,
            },
        }
    )


def data() -> ConfigDict:
    """Source of the images (a folder, a list or a TFDS data set) and their crop."""
    return ConfigDict(
        {
            "folder": placeholder(str),  # a directory of images
            "list": placeholder(str),  # or a text file with their paths
            "tars": placeholder(str),  # or tar shards as WebDataset has them
            "parquet": placeholder(str),  # or parquet shards as the Hugging Face hub has them
            "tfds_name": placeholder(str),  # a TFDS data set in array_record format
            "tfds_dir": placeholder(str),  # where TFDS data sets are kept
            "train_split": "train",
            "eval_split": "val",
            "val_fraction": 0.1,  # held out of a folder that has no val/ of its own
            "resize": "antialias",  # or "fast", nearly the same; "published": OpenCV's, aliases
            "crop": "center",  # or "random", "random_resized"
            "crop_scale": (0.3, 1.0),  # share of the image's area, for "random_resized"
            "flip": True,
            "permute_colours": False,  # red, green and blue in a random order
            "cache_mb": 1024,  # memory for images already brought to size
            "num_threads": 0,  # 0 is one a core, 16 at most
            "num_workers": 0,  # processes; 0 reads in threads of this one
            "prefetch": 4,  # batches read ahead
        }
    )


def published(config: ConfigDict) -> ConfigDict:
    """Takes the published run's way wherever ours is another; docs/published.md has them all."""
    config.model.init = "published"
    config.data.resize = "published"
    config.loss.update(lpips_dropout=True, inception_weight=1.0)
    config.train.schedule = "alternate"
    config.eval.rounding = "truncate"
    return config


def smoke(config: ConfigDict) -> ConfigDict:
    """Shrinks every dimension, for a run of seconds that takes the same path through the code."""
    config.model.image_size, config.model.render_size = 32, 8
    config.model.encoder.update(channels=8, stem_blocks=1, norm_groups=4, width=32, depth=2)
    config.model.decoder.update(channels=8, blocks_per_level=1, norm_groups=4)
    config.partition.update(num_tokens=8)
    config.loss.lpips_weight = 0.0
    config.gan.start_step = 6
    config.gan.discriminator.update(channels=8, num_layers=2, norm_groups=4)
    config.train.update(batch_size=4, steps=12)
    config.checkpoint.every_steps = 4
    config.eval.every_steps = 6
    config.log.update(every_steps=1, images_every_steps=6, images=2)
    return config
