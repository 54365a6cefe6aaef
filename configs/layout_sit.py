"""SiT-S over the Gaussians of a layout, as the paper's lightweight network: close to partitions.

python train.py --config=configs/layout_sit.py --workdir=runs/layouts --config.data.layouts=FILE
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import layout_common


def get_config(arg: str = "") -> ConfigDict:
    """``arg`` is "", "tiny" (a CPU can train it) or "smoke"."""
    config = layout_common.get_config()
    config.task = "layout_sit"
    config.model.update(width=384, depth=12, num_heads=6, dtype="float32")
    config.statistics = ConfigDict({"mean": (), "std": ()})  # by channel, of the layouts
    config.transport = ConfigDict({"path": "linear", "prediction": "velocity"})
    config.transport.loss_weight = "none"
    config.sample = ConfigDict({"method": "ode_heun", "steps": 25, "guidance_scale": 1.0})
    config.train.steps = 100_000
    config.checkpoint.every_steps = 5000
    config.log.images_every_steps = 5000
    if arg == "tiny":
        config.model.update(width=128, depth=4, num_heads=4)
        config.train.steps = 3000
        config.checkpoint.every_steps = config.log.images_every_steps = 500
    return layout_common.smoke(config) if arg == "smoke" else config
