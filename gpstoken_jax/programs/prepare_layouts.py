"""Writes the layouts of many images to one file: what stage 1 of generation draws from and learns.

    gpstoken prepare_layouts --tokens=tokens/mine --output=layouts/mine.safetensors
    gpstoken prepare_layouts --data.folder=DIR --config=configs/tiny.py --split=train --output=FILE

From a directory of tokens, or from images, partitioned as the config says; the same command again
goes on where that was interrupted. One process uses all cores of a machine; in an array of SLURM
each task takes its share of the images, and the last one writes the file. What it holds: see
docs/layouts.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from gpstoken_jax.programs import cli

if not cli.asks_for_help():  # which needs no JAX
    from gpstoken_jax import data
    from gpstoken_jax.configs import common
    from gpstoken_jax.data.resize import resize_of
    from gpstoken_jax.generation.layouts.collect import PartitionedImages, layouts_of_tokens
    from gpstoken_jax.generation.layouts.file import (
        Layouts,
        LayoutsError,
        is_layout_file,
        read_layouts,
        write_layouts,
    )
    from gpstoken_jax.runtime import processes
    from gpstoken_jax.runtime.buckets import exists, fetch
    from gpstoken_jax.runtime.fingerprints import first_difference
    from gpstoken_jax.runtime.manifest import OutputError
    from gpstoken_jax.runtime.outputs import check_apart, open_output
    from gpstoken_jax.runtime.text import say
from gpstoken_jax.tokens import open_tokens

TOKENS = flags.DEFINE_string("tokens", None, "A directory of tokens, written by gpstoken encode.")
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
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace layouts of other data or settings.")
VERIFY = flags.DEFINE_bool(
    "verify", False, "Know images by their content, not by size and date; from the first call on."
)
OUTPUT = flags.DEFINE_string("output", None, "The file, NAME.safetensors.", required=True)
SHARE = cli.define_share_flag()
cli.allow_buckets("tokens", "output")

_NAMED = 8  # classes in the summary


def main() -> None:
    """Collects the layouts of a folder or of tokens in one file."""
    share = processes.share_of_array(SHARE.value)
    if TOKENS.value:
        if share[0]:
            print(f"nothing to do for share {share[0]}: share 0 copies all layouts of the tokens")
            return
        tokens = open_tokens(TOKENS.value)
        made_from, inputs = {"tokens": tokens.fingerprint()}, [TOKENS.value]
        if (layouts := already_there(made_from, inputs)) is None:
            layouts = layouts_of_tokens(TOKENS.value)
            write_layouts(OUTPUT.value, dataclasses.replace(layouts, made_from=made_from))
    else:
        config = CONFIG.value or common.get_config()
        cli.apply_flags(config.data, DATA.value)
        source = data.open_source(config.data, SPLIT.value)
        say(source.description)
        made_from = describe(source, config)
        images = partitioned(source, config)
        layouts = write_in_parts(images, made_from, data.data_paths(config.data), share)
        if layouts is None:
            print(f"share {share[0]} of {share[1]} is written; the last one finishes the layouts")
            return
    summarise(layouts)


def summarise(layouts: Layouts) -> None:
    """Prints how many layouts there are, of which classes."""
    names = (*layouts.label_names, "(no class)")
    counts = [(name, int(np.sum(layouts.label == i))) for i, name in enumerate(names[:-1])]
    counts += [(names[-1], lost)] if (lost := int(np.sum(layouts.label < 0))) else []
    shown = [f"{name} {count}" for name, count in counts[:_NAMED]]
    if len(counts) > _NAMED:
        shown.append(f"and {len(counts) - _NAMED} more classes")
    print(f"{len(layouts)} layouts of {layouts.num_tokens} tokens: {OUTPUT.value}")
    say("  " + ", ".join(shown))


def already_there(made_from: Mapping[str, Any], inputs: list[str]) -> Layouts | None:
    """The layouts in --output if they were made from the same; None if there is no file.

    Raises:
      ValueError: if they were made from something else and may not be replaced, if the file is none
        of layouts, or if it would lie in the data.
    """
    check_apart(OUTPUT.value, inputs)
    if not exists(OUTPUT.value):
        return None
    path = fetch(OUTPUT.value)
    if not is_layout_file(path):
        raise OutputError(f"{path} is there and is no file of layouts: give another --output")
    try:
        layouts = read_layouts(path)
    except LayoutsError:
        if OVERWRITE.value:
            return None
        raise
    if difference := first_difference(layouts.made_from, made_from):
        if OVERWRITE.value:
            return None
        raise OutputError(
            f"{path} was made from something else: {difference}. Give another --output, or "
            "--overwrite to make it again"
        )
    print("Nothing has changed since it was made.")
    return layouts


def write_in_parts(
    images: PartitionedImages,
    made_from: Mapping[str, Any],
    inputs: list[str],
    share: tuple[int, int],
) -> Layouts | None:
    """The layouts of images, by way of parts in a directory beside --output, which goes at the end.

    Returns:
      None while other shares are not done.

    Raises:
      ValueError: as of ``already_there``; the same of the parts; if no image can be read.
    """
    layouts, parts = already_there(made_from, inputs), f"{OUTPUT.value}.parts"
    if layouts is not None and not exists(parts):
        return layouts
    overwrite = OVERWRITE.value or layouts is not None
    with open_output(
        parts, "parts of layouts", made_from, inputs=inputs, overwrite=overwrite, process=share[0]
    ) as output:
        if layouts is None:  # nor was written while this waited to open the parts
            layouts = already_there(made_from, inputs)
        if layouts is None:
            try:
                images.write(output, share)
            except ValueError:
                if not output.names():  # as with more tokens than an image has room for
                    output.discard()
                raise
            output.share()
        with output.only_one() as alone:
            if not alone or (layouts is None and not images.all_there(output)):
                return None
            if layouts is None:
                layouts = dataclasses.replace(images.read(output), made_from=made_from)
                write_layouts(OUTPUT.value, layouts)
            output.discard()
    return layouts


def describe(source: data.ImageSource, config: ConfigDict) -> dict[str, Any]:
    """All that the layouts of images depend on, as JSON has it."""
    crops = {name: config.data[name] for name in ("crop", "crop_scale", "flip")}
    made_from = {
        "images": source.fingerprint(content=VERIFY.value),
        "split": SPLIT.value,
        "resize": resize_of(config.data),
        "image_size": config.model.image_size,
        "num_tokens": NUM_TOKENS.value or config.partition.num_tokens,
        "partition": {name: config.partition[name] for name in ("weight", "min_size")},
        "passes": PASSES.value,
        **({"seed": SEED.value, **crops} if PASSES.value else {}),
    }
    return json.loads(json.dumps(made_from))


def partitioned(source: data.ImageSource, config: ConfigDict) -> PartitionedImages:
    """The layouts of a data set's images, yet to be made."""
    return PartitionedImages(
        source,
        config.data,
        config.model.image_size,
        NUM_TOKENS.value or config.partition.num_tokens,
        passes=PASSES.value,
        seed=SEED.value,
        partition={name: config.partition[name] for name in ("weight", "min_size")},
    )


if __name__ == "__main__":
    cli.run(main)
