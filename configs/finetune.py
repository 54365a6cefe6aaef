"""Start from the weights of a finished run: three recipes for GPSToken-M128.

    python train.py --config=configs/finetune.py:decoder --init_from=SOURCE --workdir=runs/decoder \
        --data.folder=DIR

`decoder` trains the decoder and keeps the encoder's bits, so that tokens already stored stay valid.
`512` goes on with images of 512 pixels, drawn on a map of twice the side, with four times the tokens.
`gan` adds the adversarial phase to a run that ended without one; the EMA has no warm-up.
SOURCE is whatever `from_pretrained` takes; for another model than M128 change the base below.
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import common, gpstoken_m128


def get_config(arg: str = "decoder") -> ConfigDict:
    """``arg`` is "decoder", "512" or "gan", with "_smoke" behind it for a quick run."""
    recipe, _, smoke = arg.partition("_")
    config = gpstoken_m128.get_config()
    if smoke == "smoke":
        config = common.smoke(config)
    elif smoke:
        raise ValueError(f"finetune.py:{arg}: {smoke!r} must be 'smoke'")
    config.optimizer.update(learning_rate=2e-5, warmup_steps=min(500, config.train.steps))
    config.train.steps = min(50_000, config.train.steps)
    if recipe == "decoder":
        config.freeze = "^encoder"
    elif recipe == "512":
        config.model.image_size *= 2
        config.model.render_size *= 2
        config.partition.num_tokens *= 4
    elif recipe == "gan":
        config.gan.start_step = 1
        config.ema.power = 0
    else:
        raise ValueError(f"finetune.py:{arg}: {recipe!r} must be 'decoder', '512' or 'gan'")
    return config
