"""A generator that trains on a laptop's CPU in minutes, on the tokens of configs/tiny.py.

python train.py --config=configs/sit_tiny.py --workdir=runs/sit_tiny --config.data.tokens=tokens/tiny
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import sit_common


def get_config(arg: str = "") -> ConfigDict:
    """``arg`` is "" or "smoke"."""
    config = sit_common.get_config()
    config.model.update(width=128, depth=4, num_heads=4, learn_sigma=False)
    config.optimizer.update(
        learning_rate=1e-3, b2=0.99, warmup_steps=100, decay="cosine", clip_norm=1.0
    )
    config.ema.update(decay=0.995)
    config.train.update(batch_size=32, steps=2000)
    config.checkpoint.every_steps = 500
    config.log.images_every_steps = 500
    config.sample.steps = 50
    return sit_common.smoke(config) if arg == "smoke" else config
