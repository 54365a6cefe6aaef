"""Writes the layouts of many images to one file: what stage 1 of generation draws from and learns.

    gpstoken prepare_layouts --tokens=tokens/mine --output=layouts/mine.safetensors
    gpstoken prepare_layouts --data.folder=DIR --config=configs/tiny.py --split=train --output=FILE

From a directory of tokens, or from images, partitioned as the config says. What the file holds: see
docs/layouts.md.
"""

import numpy as np
from absl import flags
from ml_collections import config_flags

from gpstoken_jax import data
from gpstoken_jax.configs import common
from gpstoken_jax.generation.layouts.collect import layouts_of_images, layouts_of_tokens
from gpstoken_jax.generation.layouts.file import Layouts, write_layouts
from gpstoken_jax.programs import cli

TOKENS = flags.DEFINE_string("tokens", None, "A directory of tokens, written by encode.py.")
CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="The tokenizer's config: image side, partition, crops (without --tokens)."
)
DATA = cli.define_data_flags()
SPLIT = flags.DEFINE_string("split", "train", "Which split of the data (without --tokens).")
NUM_TOKENS = flags.DEFINE_integer(
    "num_tokens", None, "Tokens an image; the config's by default.", lower_bound=1
)
PASSES = flags.DEFINE_integer(
    "passes",
    0,
    "Takes each image so often, with the config's random crops; 0: its central square, once.",
    lower_bound=0,
)
SEED = flags.DEFINE_integer("seed", 0, "Decides the random crops.")
OUTPUT = flags.DEFINE_string("output", None, "The file, NAME.safetensors.", required=True)


def main() -> None:
    layouts = layouts_of_tokens(TOKENS.value) if TOKENS.value else partition_data()
    write_layouts(OUTPUT.value, layouts)
    names = (*layouts.label_names, "(no class)")
    counts = [f"{name} {np.sum(layouts.label == i)}" for i, name in enumerate(names[:-1])]
    counts += [f"{names[-1]} {lost}"] if (lost := np.sum(layouts.label < 0)) else []
    print(f"{len(layouts)} layouts of {layouts.num_tokens} tokens: {OUTPUT.value}")
    print("  " + ", ".join(counts))


def partition_data() -> Layouts:
    """The layouts of the images that the flags name."""
    config = CONFIG.value or common.get_config()
    cli.apply_flags(config.data, DATA.value)
    source = data.open_source(config.data, SPLIT.value)
    print(source.description)
    return layouts_of_images(
        source,
        config.data,
        config.model.image_size,
        NUM_TOKENS.value or config.partition.num_tokens,
        passes=PASSES.value,
        seed=SEED.value,
        weight=config.partition.weight,
        min_size=config.partition.min_size,
    )


if __name__ == "__main__":
    cli.run(main)
