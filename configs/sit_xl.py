"""SiT-XL on the tokens of GPSToken-M128, the published generator: 676 M parameters.

python train.py --config=configs/sit_xl.py --workdir=runs/sit_xl --config.data.tokens=tokens/m128
gpstoken convert --config=configs/sit_xl.py:published --input=FILE --output=runs/sit_xl_published
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import sit_common

# Of the tokens that the published weights were trained on, by channel.
_MEAN = (
    *(-0.0211, -0.0196, 0.0107, -0.0052, -0.0044, 1.8017, 2.4036, 2.0145, 1.2402, -4.2579),
    *(-1.2646, -3.0395, 2.2928, 3.2168, -0.1431, 0.1600, 1.3924, 3.2345, 1.6994, 0.8237, 0.3222),
)
_STD = (
    *(0.0121, 0.0108, 0.2533, 0.0119, 0.0114, 2.7334, 2.6400, 2.7963, 2.9325, 2.8337),
    *(2.8269, 3.1082, 3.1412, 2.8038, 2.6501, 2.6163, 2.4718, 2.6958, 2.8157, 2.4744, 2.8200),
)


def get_config(arg: str = "") -> ConfigDict:
    """``arg`` is "", "smoke" or "published": for the published weights, and to train as they were."""
    config = sit_common.get_config()
    if arg == "published":
        config.model.update(num_tokens=128, channels=21, num_classes=1000)
        config.statistics.update(mean=_MEAN, std=_STD)
        config.ema.power = 0  # as SiT's authors: no warm-up
        config.data.mirror = "required"  # as they do: tokens of `gpstoken encode --mirror`
        config.sample.layouts = "in_turn"
    return sit_common.smoke(config) if arg == "smoke" else config
