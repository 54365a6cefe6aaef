"""SiT-S on the tokens of GPSToken-M128: 33 M parameters, the published code's small one.

python train.py --config=configs/sit_s.py --workdir=runs/sit_s --config.data.tokens=tokens/m128
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import sit_common


def get_config(arg: str = "") -> ConfigDict:
    """``arg`` is "" or "smoke"."""
    config = sit_common.get_config()
    config.model.update(width=384, depth=12, num_heads=6)
    return sit_common.smoke(config) if arg == "smoke" else config
