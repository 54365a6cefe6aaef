"""A network over the tree of squares of the partition: draws layouts, every one of them valid.

python train.py --config=configs/layout_tree.py --workdir=runs/layouts --config.data.layouts=FILE
"""

from ml_collections import ConfigDict

from gpstoken_jax.configs import layout_common


def get_config(arg: str = "") -> ConfigDict:
    """``arg`` is "", "tiny" (for a few hundred layouts) or "smoke"."""
    config = layout_common.get_config()
    config.task = "layout_tree"
    config.model.update(width=128, depth=3, num_heads=4, dropout=0.1)
    if arg == "tiny":
        config.model.update(width=64, depth=2)
        config.train.update(batch_size=32, steps=500)
    return layout_common.smoke(config) if arg == "smoke" else config
