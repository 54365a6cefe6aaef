"""GPSToken-S64: 64 tokens of 5 + 16 values for a 256 x 256 image.

    python train.py --config=configs/gpstoken_s64.py --workdir=runs/s64 --data.folder=DIR

The published run: ImageNet, batch 16 on each GPU, 1,000,000 steps. `--config=...:smoke` shrinks the
network for a quick run on a laptop.
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """``arg`` is "", "published" (docs/published.md) or "smoke"."""
    config = common.get_config()
    config.partition.num_tokens = 64
    config.model.feature_channels = 16
    if arg == "published":
        return common.published(config)
    return common.smoke(config) if arg == "smoke" else config
