"""A tokenizer that trains on a laptop's CPU in minutes, on the same code as the full models.

python train.py --config=configs/tiny.py --workdir=runs/tiny --data.folder=DIR
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import common


def get_config(arg: str = "") -> ConfigDict:
    """``arg`` is "" or "smoke"."""
    config = common.get_config()
    config.model.update(image_size=64, render_size=16, feature_channels=16)
    config.model.encoder.update(
        channels=32, stem_blocks=1, norm_groups=8, width=128, depth=6, num_heads=4
    )
    config.model.decoder.update(
        channels=32, multipliers=(1, 1, 2), blocks_per_level=1, norm_groups=8
    )
    config.partition.update(num_tokens=32)
    # The demo has fourteen photos: small crops and other colours make more of them.
    config.data.update(crop="random_resized", crop_scale=(0.05, 1.0), permute_colours=True)
    config.loss.update(lpips_weight=0.02, lpips_images=1)
    config.optimizer.update(
        learning_rate=2e-3, b1=0.9, b2=0.99, warmup_steps=100, decay="cosine", clip_norm=1.0
    )
    config.gan.weight = 0.0
    config.eval.high_resolution = "aligned"
    config.ema.update(decay=0.995, update_every=1)
    config.train.update(batch_size=16, steps=1000)
    config.checkpoint.every_steps = 500
    config.eval.every_steps = 500
    config.log.every_steps = 50
    config.log.images_every_steps = 500
    return common.smoke(config) if arg == "smoke" else config
