"""The small weights for photos: 64 x 64 pixels, 32 tokens of 21 values.

    python train.py --config=configs/photos_small.py --workdir=runs/photos_small --data.folder=DIR

Made to be stretched: constant learning rate, LPIPS in a later phase, by flags. Cost: about one
second a step on one busy core of a CPU. docs/pretrained.md has what was tried, all phases and the
results.
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import common, tiny


def get_config(arg: str = "") -> ConfigDict:
    """``arg`` is "" or "smoke"."""
    config = tiny.get_config()
    # Full-resolution convolutions are what a CPU spends its time on: few channels there.
    config.model.encoder.update(channels=16, width=128, depth=8, num_heads=4)
    config.model.decoder.update(channels=16, multipliers=(1, 2, 4))
    config.data.update(crop_scale=(0.08, 1.0), permute_colours=False, num_threads=1)
    # LPIPS of one image costs as much as the rest of a step: it comes in a later phase.
    config.loss.lpips_weight = 0.0
    config.optimizer.update(name="muon", learning_rate=2e-3, decay="constant")
    config.ema.update(decay=0.999, update_every=1)
    config.train.update(batch_size=8, steps=100_000)
    config.eval.high_resolution = "blended"  # the best, see docs/high_resolution.md
    config.checkpoint.update(every_steps=100, keep=2)
    config.eval.update(every_steps=250, max_images=0)
    config.log.update(every_steps=25, images_every_steps=1000)
    return common.smoke(config) if arg == "smoke" else config
