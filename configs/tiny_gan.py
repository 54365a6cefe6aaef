"""The tiny tokenizer with the whole recipe: MSE, LPIPS, and in its second half a GAN.

    python train.py --config=configs/tiny_gan.py --workdir=runs/tiny_gan --data.folder=DIR

64 x 64 pixels, 32 tokens; made for some hundred photos. Cost: 1 h 10 min on one core of a CPU.
Result on 304 photos: 24.7 dB held-out PSNR, LPIPS 0.31 (docs/training.md has the curves).
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import common, tiny


def get_config(arg: str = "") -> ConfigDict:
    """``arg`` is "" or "smoke"."""
    config = tiny.get_config()
    config.train.update(batch_size=16, steps=5000)
    config.data.crop_scale = (0.2, 1.0)
    config.data.permute_colours = False
    config.optimizer.update(learning_rate=1e-3, b1=0.5, b2=0.9)
    config.gan.update(weight=0.3, start_step=2000)
    config.gan.discriminator.update(channels=32, num_layers=2, norm="group", norm_groups=8)
    config.gan.optimizer.update(learning_rate=2e-4, clip_norm=1.0)
    return common.smoke(config) if arg == "smoke" else config
